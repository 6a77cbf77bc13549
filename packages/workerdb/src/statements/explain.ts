/**
 * Explain: what happened to one trigger in a range of time, from `poll_log` and what the row still counts, and why it is
 * or is not polled now. Empty polls are summed up; nothing is invented: what was not recorded is absent.
 */
import type { Sql } from 'postgres';
import { type TriggerView, viewTrigger } from './views.ts';

/** Something that kept the trigger from being claimed while it was due. */
export interface Wait {
  /** rate_limited, source_down, maintenance, operator, backoff (its timer shard), breaker (a dependency of all). */
  readonly reason: string;
  readonly since: string;
  /** Null: until it is cleared, or until a probe is good. */
  readonly until: string | null;
}

/** Empty polls between two instants, in a row; `to` is the time of what came next, or of the last one. */
export interface QuietLine {
  readonly what: 'quiet';
  readonly from: string;
  readonly to: string;
  readonly polls: number;
}

export interface PollLine {
  /** polled, halted, released, failed, fenced. */
  readonly what: string;
  /** When it was committed. */
  readonly at: string;
  readonly dueAt: string | null;
  readonly claimedAt: string | null;
  /** Batch id; null once the batch's row is gone (7 days). */
  readonly claimedBy: string | null;
  /** What kept it from being claimed between being due and being claimed. */
  readonly skipped: readonly Wait[];
  readonly code: string;
  readonly outcome: string;
  /** Items in the answers. */
  readonly found: number;
  readonly deduplicated: number;
  readonly delivered: number;
  readonly pollMs: number | null;
  readonly reason: string | null;
  readonly nextAt: string | null;
}

export interface Explanation {
  readonly trigger: TriggerView;
  /** Why it is or is not polled now, in a sentence. */
  readonly now: string;
  readonly waits: readonly Wait[];
  readonly since: string;
  readonly until: string;
  /** Newest first. */
  readonly timeline: readonly (QuietLine | PollLine)[];
  /** Older lines were left out. */
  readonly more: boolean;
}

export interface ExplainRange {
  /** RFC 3339; a day before `until` by default. */
  readonly since?: string;
  /** RFC 3339; the database's now by default. */
  readonly until?: string;
  readonly limit: number;
}

const at = (expression: string): string => `to_char(${expression} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;

/** Holds over `from` to `to` of the run row `t`: those that are over, and those in force. */
const waitsOver = (from: string, to: string): string => `(
  select coalesce(jsonb_agg(jsonb_build_object('reason', h.reason, 'since', ${at('h.since')}, 'until', ${at('h.until')}) order by h.since), '[]') from (
    select o.reason, o.since, o.until from holds_log o where o.until > ${from} and o.since < ${to}
      and ((o.toolkit_h, o.connection_h) in ((t.toolkit_h, t.connection_h), (t.toolkit_h, 0), (t.tenant_h, 2), (0, 0))
        or o.timer_shard = (select s.timer_shard from timer_shards s where t.shard = any (s.serves) limit 1))
    union all
    select o.reason, o.made_at, case when o.per_minute is null then o.not_before end from source_limits o
    where (o.toolkit_h, o.connection_h) in ((t.toolkit_h, t.connection_h), (t.toolkit_h, 0), (t.tenant_h, 2), (0, 0))
      and o.made_at < ${to} and (o.per_minute is not null or o.not_before > ${from})) h)`;

/** $1 shard, $2 trigger, $3 since, $4 until, $5 lines at the most. */
const LINES = `
select l.outcome, ${at('l.at')} as at, coalesce(c.code, l.code::text) as code, l.events as delivered, l.deduplicated, l.found, l.poll_ms as "pollMs", l.reason,
  l.quiet_polls as "quietPolls", ${at('l.quiet_since')} as "quietSince", ${at('l.due_at')} as "dueAt", ${at('l.claimed_at')} as "claimedAt",
  ${at('l.next_at')} as "nextAt", b.batch_id as "claimedBy",
  case when l.due_at < l.claimed_at then ${waitsOver('l.due_at', 'l.claimed_at')} else '[]' end as skipped
from polling_trigger_runs t join poll_log l on l.trigger_id = t.trigger_id left join codes c on c.no = l.code left join batches b on b.batch_no = l.batch_no
where t.shard = $1 and t.trigger_id = $2 and l.at >= $3::text::timestamptz and coalesce(l.quiet_since, l.due_at, l.at) <= $4::text::timestamptz
order by l.at desc, l.lease_epoch desc limit $5`;

/** What the row itself still counts, the range's bounds, and what it waits for at present. */
const PRESENT = `
select ${at("coalesce($3::text::timestamptz, coalesce($4::text::timestamptz, statement_timestamp()) - interval '1 day')")} as since,
  ${at('coalesce($4::text::timestamptz, statement_timestamp())')} as until,
  t.quiet_polls as polls, ${at('t.quiet_since')} as "from", ${at('t.last_polled_at')} as "to", t.owner::text,
  (select b.batch_id from batches b where b.claimed_at is null and b.ended_at is null and b.started_at > statement_timestamp() - interval '60 s'
    and t.trigger_id = any (b.key_ids) limit 1) as planned,
  ${waitsOver('statement_timestamp()', 'statement_timestamp()')} || (
    select coalesce(jsonb_agg(jsonb_build_object('reason', 'backoff', 'since', null, 'until', ${at('s.backoff_until')})), '[]') from timer_shards s
    where t.shard = any (s.serves) and s.backoff_until > statement_timestamp()
      and not exists (select from holds_log l where l.timer_shard = s.timer_shard and l.reason = 'backoff' and l.until > statement_timestamp())) as waits
from polling_trigger_runs t where t.shard = $1 and t.trigger_id = $2`;

interface LineRow {
  readonly outcome: string;
  readonly at: string;
  readonly code: string;
  readonly delivered: number;
  readonly deduplicated: number;
  readonly found: number | null;
  readonly pollMs: number | null;
  readonly reason: string | null;
  readonly quietPolls: number;
  readonly quietSince: string | null;
  readonly dueAt: string | null;
  readonly claimedAt: string | null;
  readonly nextAt: string | null;
  readonly claimedBy: string | null;
  readonly skipped: readonly Wait[];
}

interface PresentRow {
  readonly since: string;
  readonly until: string;
  readonly polls: number;
  readonly from: string | null;
  readonly to: string | null;
  readonly owner: string;
  readonly planned: string | null;
  readonly waits: readonly Wait[];
}

const WHAT: Readonly<Record<string, string>> = {
  success: 'polled',
  more: 'polled',
  backoff: 'failed',
  rate_limited: 'failed',
  release: 'released',
  halt: 'halted',
};

/** Undefined when there is no such trigger. */
export async function explainTrigger(
  sql: Sql,
  shard: number,
  triggerId: string,
  range: ExplainRange,
): Promise<Explanation | undefined> {
  const trigger = await viewTrigger(sql, shard, triggerId);
  const [present] = await sql.unsafe<PresentRow[]>(PRESENT, [
    shard,
    triggerId,
    range.since ?? null,
    range.until ?? null,
  ]);
  if (trigger === undefined || present === undefined) return undefined;
  const { since, until } = present;
  const rows = await sql.unsafe<LineRow[]>(LINES, [shard, triggerId, since, until, range.limit + 1]);
  const timeline = rows.slice(0, range.limit).flatMap(linesOf);
  // Quiet since the last line, and counted in the row alone.
  if (present.polls > 0 && present.from !== null && present.to !== null && present.from <= until && present.to >= since)
    timeline.unshift({ what: 'quiet', from: present.from, to: present.to, polls: present.polls });
  const waits = present.waits;
  return { trigger, now: sentenceOf(trigger, present), waits, since, until, timeline, more: rows.length > range.limit };
}

/** A line of the log, and below it the empty polls that came before it. */
function linesOf(row: LineRow): (QuietLine | PollLine)[] {
  const { quietPolls, quietSince, found, ...rest } = row;
  const line: PollLine = {
    what: WHAT[row.outcome] ?? row.outcome,
    ...rest,
    found: found ?? row.delivered + row.deduplicated,
  };
  if (quietPolls === 0 || quietSince === null) return [line];
  return [line, { what: 'quiet', from: quietSince, to: row.dueAt ?? row.at, polls: quietPolls }];
}

const REASONS: Readonly<Record<string, string>> = {
  rate_limited: 'its provider asked to be polled later',
  source_down: 'most polls of its toolkit fail; a probe finds out when that ends',
  maintenance: 'of maintenance',
  operator: 'an operator limits it',
  backoff: 'its timer shard backs off after a batch that had to be forced',
  breaker: 'the control plane or the object store does not answer',
};

/** Why it is or is not polled now. */
function sentenceOf(trigger: TriggerView, { owner, planned, waits }: PresentRow): string {
  if (!trigger.enabled) return 'It is disabled.';
  if (owner !== 'v')
    return owner === 'l' ? 'The legacy pipeline polls it.' : 'It is on its way from one pipeline to the other.';
  if (trigger.haltedCode !== null) {
    const next =
      trigger.nextPollAt === null ? 'it waits for someone to lift the halt' : `it is probed at ${trigger.nextPollAt}`;
    return `It is halted with ${trigger.haltedCode} since ${trigger.haltedAt}; ${next}.`;
  }
  const due =
    trigger.dueSeconds !== null && trigger.dueSeconds >= 0
      ? `due since ${Math.round(trigger.dueSeconds)} s`
      : undefined;
  if (trigger.batch !== null) {
    const { batchId, hop, step } = trigger.batch;
    return `It is ${due ?? 'not due'}, leased by batch ${batchId}, hop ${hop}, step ${step}.`;
  }
  if (due === undefined) return `It is polled next at ${trigger.nextPollAt}.`;
  const [wait] = waits;
  if (wait !== undefined) {
    const until = wait.until === null ? '' : `, until ${wait.until}`;
    return `It is ${due} and not polled because ${REASONS[wait.reason] ?? wait.reason}${until}.`;
  }
  if (planned !== null) return `It is ${due} and planned in batch ${planned}, which is not claimed yet.`;
  return `It is ${due} and waits for the next tick, or for a place in a batch.`;
}
