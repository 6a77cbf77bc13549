/**
 * Rewinds, resumes and poll-nows of triggers that the legacy pipeline owns. They are read from the feed's own rows, so that
 * nothing a user asked for depends on which pipeline polls.
 */
import type { Sql } from 'postgres';
import { iso } from '../database.ts';

interface Pending {
  readonly trigger_id: string;
  readonly config_version: string;
  readonly lifted_version: string;
  readonly halted_version: string | null;
  readonly since: string | null;
  readonly rewind_cursor: string | null;
  readonly poll_now: boolean | null;
  readonly resume: 'cursor' | 'now' | null;
}

interface Effect {
  /** Undefined: as it is. Null: none, the trigger primes. */
  cursor?: string | null;
  /** Prime from: an instant, or the database's now. */
  primeFrom?: string | 'now';
  due: boolean;
  lifts: boolean;
}

/** What is new for these triggers, in the order it was asked for. Harmless to repeat. */
export async function applyInstructions(sql: Sql, triggerIds: readonly string[]): Promise<void> {
  const rows = await sql.unsafe<Pending[]>(
    `select l.trigger_id, t.config_version, t.lifted_version, l.halted_version, t.since, c.rewind_cursor, c.poll_now, c.resume
     from legacy_triggers l join triggers t on t.id = l.trigger_id
     left join trigger_changes c on c.trigger_id = l.trigger_id and c.config_version > l.applied_version
     where l.trigger_id = any ($1::uuid[]) and t.config_version > l.applied_version and l.owner in ('legacy', 'to_v2') and not l.sealed
     order by l.trigger_id, c.config_version`,
    [triggerIds as string[]],
  );
  for (const [triggerId, pending] of Map.groupBy(rows, (row) => row.trigger_id)) {
    const effect = effectOf(pending);
    await sql.unsafe(
      `update legacy_triggers set applied_version = $2,
         cursor = case when $3 then $4 else cursor end, seen = case when $3 then '' else seen end,
         primed = case when $3 then $4::text is not null else primed end,
         prime_from = case when $5::text = 'now' then statement_timestamp() when $5 is not null then $5::timestamptz else prime_from end,
         failure_count = case when $7 then 0 else failure_count end, poison_count = case when $7 then 0 else poison_count end,
         halted_code = case when $7 then null else halted_code end, halted_at = case when $7 then null else halted_at end,
         halted_version = case when $7 then null else halted_version end,
         next_poll_at = case when $6 or ($7 and halted_code is not null) then statement_timestamp() else next_poll_at end
       where trigger_id = $1 and applied_version < $2 and owner in ('legacy', 'to_v2') and not sealed`,
      [
        triggerId,
        pending[0]?.config_version ?? '0',
        effect.cursor !== undefined,
        effect.cursor ?? null,
        effect.primeFrom ?? null,
        effect.due,
        effect.lifts,
      ],
    );
  }
}

function effectOf(pending: readonly Pending[]): Effect {
  const [first] = pending;
  const lifts =
    first !== undefined && first.halted_version !== null && Number(first.lifted_version) > Number(first.halted_version);
  const effect: Effect = { due: false, lifts };
  for (const { rewind_cursor: rewind, poll_now: pollNow, resume, since } of pending) {
    if (rewind !== null || pollNow === true || resume !== null) effect.due = true;
    if (rewind !== null || resume !== null) effect.lifts = true;
    if (rewind !== null && rewind !== 'null') effect.cursor = rewind;
    else if (rewind !== null || resume === 'now') {
      effect.cursor = null;
      effect.primeFrom = rewind !== null && since !== null ? iso(since) : 'now';
    }
  }
  return effect;
}
