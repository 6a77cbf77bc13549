/**
 * What an operator may do to rows, each with an audit record. Rows are locked in key order; a verb over many rows goes
 * storage shard by storage shard, so that no transaction holds the whole fleet.
 */
import { STORAGE_SHARDS } from '@milkrun/core';
import type { Sql, TransactionSql } from 'postgres';

/** Which triggers a verb is for; all of them when empty. */
export interface Scope {
  readonly toolkit?: string;
  readonly tenantId?: string;
}

const inScope = (first: number): string =>
  `($${first}::text is null or toolkit_h = hash32($${first})) and ($${first + 1}::text is null or tenant_h = hash32($${first + 1}))`;
const scopeParameters = ({ toolkit, tenantId }: Scope): (string | null)[] => [toolkit ?? null, tenantId ?? null];
const subjectOf = ({ toolkit, tenantId }: Scope): string =>
  [toolkit === undefined ? [] : `toolkit ${toolkit}`, tenantId === undefined ? [] : `tenant ${tenantId}`]
    .flat()
    .join(', ') || 'all';

async function audit(
  sql: Sql | TransactionSql,
  actor: string,
  verb: string,
  subject: string,
  detail: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await sql.unsafe('insert into audit (actor, verb, subject, detail) values ($1, $2, $3, $4::text::jsonb)', [
    actor,
    verb,
    subject,
    JSON.stringify(detail),
  ]);
}

/** One statement for each storage shard, `$1`; answers the sum of its counts. */
async function shardByShard(
  sql: Sql | TransactionSql,
  statement: string,
  parameters: readonly (string | number | null)[],
): Promise<number> {
  let sum = 0;
  for (let shard = 0; shard < STORAGE_SHARDS; shard += 1) {
    const [row] = await sql.unsafe<{ n: number }[]>(statement, [shard, ...parameters]);
    sum += row?.n ?? 0;
  }
  return sum;
}

/** Makes every polled trigger in scope due now, without fencing. `since`: the database's time before the first. */
export async function makeAllDue(
  sql: Sql,
  actor: string,
  scope: Scope = {},
): Promise<{ since: string; triggers: number }> {
  const [at] = await sql.unsafe<{ since: string }[]>(
    `select to_char(statement_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as since`,
  );
  const triggers = await shardByShard(
    sql,
    `with k as materialized (
       select shard, trigger_id from polling_trigger_runs
       where shard = $1 and enabled and owner = 'v' and halted_code is null and ${inScope(2)} order by 1, 2 for update),
     u as (
       update polling_trigger_runs t set poll_requested_at = statement_timestamp(), next_poll_at = least(t.next_poll_at, statement_timestamp())
       from k where t.shard = k.shard and t.trigger_id = k.trigger_id returning 1)
     select count(*)::int as n from u`,
    scopeParameters(scope),
  );
  await audit(sql, actor, 'poll_now', subjectOf(scope), { triggers });
  return { since: at?.since ?? '', triggers };
}

export async function makeDue(sql: Sql, actor: string, shard: number, triggerId: string): Promise<boolean> {
  const [row] = await sql.unsafe<{ n: number }[]>(
    `with u as (
       update polling_trigger_runs set poll_requested_at = statement_timestamp(), next_poll_at = least(next_poll_at, statement_timestamp())
       where shard = $2 and trigger_id = $3::uuid and enabled and owner = 'v' and halted_code is null returning 1),
     a as (insert into audit (actor, verb, subject) values ($1, 'poll_now', $3))
     select count(*)::int as n from u`,
    [actor, shard, triggerId],
  );
  return row?.n === 1;
}

/** Lifts every halt of a code in scope (bulk restore after a routing mistake), and lets the brake go. Answers how many. */
export async function clearHalts(
  sql: Sql,
  actor: string,
  codeNumber: number,
  code: string,
  scope: Scope = {},
): Promise<number> {
  const cleared = await shardByShard(
    sql,
    `with k as materialized (
       select shard, trigger_id from polling_trigger_runs where shard = $1 and halted_code = $4 and ${inScope(2)} order by 1, 2 for update),
     u as (
       update polling_trigger_runs t set halted_code = null, halted_at = null, halted_probe = false, failure_count = 0, poison_count = 0,
         next_poll_at = case when t.enabled then statement_timestamp() + random() * least(t.interval_s, 300) * interval '1 s' end
       from k where t.shard = k.shard and t.trigger_id = k.trigger_id returning t.shard, t.trigger_id),
     l as (
       insert into lifecycle_outbox (trigger_id, config_version, state, code, at)
       select u.trigger_id, p.config_version, 'resumed', 'ok', statement_timestamp() from u join polling_triggers p using (shard, trigger_id))
     select count(*)::int as n from u`,
    [...scopeParameters(scope), codeNumber],
  );
  await sql.begin(async (tx) => {
    if (code === 'receiver_gone')
      await tx.unsafe('update fleet set braked = false, brake_reset_at = statement_timestamp()');
    await audit(tx, actor, 'clear_halts', code, { cleared, scope: subjectOf(scope) });
  });
  return cleared;
}

/** One toolkit, one tenant, or everything. */
export type HoldTarget = { readonly toolkit: string } | { readonly tenantId: string } | { readonly all: true };

export interface HoldInput {
  /** Seconds from now. */
  readonly seconds: number;
  /** Instead of nothing at all, this many polls a minute go on. */
  readonly perMinute?: number;
}

export interface HoldView {
  readonly reason: string;
  readonly toolkit: string | null;
  readonly tenantId: string | null;
  readonly connectionId: string | null;
  readonly perMinute: number | null;
  readonly since: string;
  /** Null: until a probe is good, or until it is cleared. */
  readonly until: string | null;
}

const ALL = { key: '0, 0::bigint', toolkit: '', tenantId: '' };
function keyOf(target: HoldTarget): typeof ALL {
  if ('toolkit' in target) return { key: 'hash32($1), 0::bigint', toolkit: target.toolkit, tenantId: '' };
  if ('tenantId' in target) return { key: 'hash32($2), 2::bigint', toolkit: '', tenantId: target.tenantId };
  return ALL;
}
const nameOf = (target: HoldTarget): string => subjectOf('all' in target ? {} : target);

/** Maintenance: nothing of the target is polled until it ends; a poll that has begun goes on. Holds longer than one that is there. */
export async function setHold(
  sql: Sql,
  actor: string,
  target: HoldTarget,
  { seconds, perMinute }: HoldInput,
): Promise<void> {
  const { key, toolkit, tenantId } = keyOf(target);
  await sql.begin(async (tx) => {
    await tx.unsafe(
      `insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
       select ${key}, $4::int, statement_timestamp() + case when $4::int is null then $3::float8 else 0 end * interval '1 s', statement_timestamp(),
         case when $4::int is null then 'maintenance' else 'operator' end, $1::text, $2::text, ''
       on conflict (toolkit_h, connection_h) do update set per_minute = excluded.per_minute, not_before = excluded.not_before, reason = excluded.reason`,
      [toolkit, tenantId, seconds, perMinute ?? null],
    );
    await audit(tx, actor, 'hold', nameOf(target), { seconds, perMinute: perMinute ?? null });
  });
}

/** Ends a hold before its time, whatever made it. False: there is none. */
export async function clearHold(sql: Sql, actor: string, target: HoldTarget): Promise<boolean> {
  const { key, toolkit, tenantId } = keyOf(target);
  return await sql.begin(async (tx) => {
    const gone = await tx.unsafe(
      `delete from source_limits where (toolkit_h, connection_h) in (select ${key} where $1::text is not null and $2::text is not null) returning 1`,
      [toolkit, tenantId],
    );
    await audit(tx, actor, 'clear_hold', nameOf(target), { held: gone.length > 0 });
    return gone.length > 0;
  });
}

/** Holds in force, at most 1,000, the widest first. */
export async function viewHolds(sql: Sql): Promise<readonly HoldView[]> {
  return await sql.unsafe<HoldView[]>(
    `select reason, nullif(toolkit, '') as toolkit, nullif(tenant_id, '') as "tenantId", nullif(connection_id, '') as "connectionId",
       per_minute as "perMinute", made_at::text as since, case when per_minute is null then not_before::text end as until
     from source_limits where per_minute is not null or not_before > statement_timestamp() order by connection_h > 2 or connection_h < 0, made_at limit 1000`,
  );
}

/** Ends a batch; its rows are due again. */
export async function endBatchByHand(
  sql: Sql,
  actor: string,
  batchId: string,
  end: (batchId: string) => Promise<boolean>,
): Promise<boolean> {
  const ended = await end(batchId);
  await audit(sql, actor, 'end_batch', batchId, { ended });
  return ended;
}
