/** What an operator may do to rows, each with an audit record in the same statement. Rows are locked in key order first. */
import type { Sql } from 'postgres';

/** Makes every polled trigger due now, without fencing. Answers how many. */
export async function makeAllDue(sql: Sql, actor: string): Promise<number> {
  const [row] = await sql.unsafe<{ n: number }[]>(
    `with k as materialized (
       select shard, trigger_id from polling_trigger_runs where enabled and owner = 'v' and halted_code is null order by 1, 2 for update),
     u as (
       update polling_trigger_runs t set poll_requested_at = statement_timestamp(), next_poll_at = least(t.next_poll_at, statement_timestamp())
       from k where t.shard = k.shard and t.trigger_id = k.trigger_id returning 1),
     w as (update timer_shards set wake_at = '-infinity'),
     a as (insert into audit (actor, verb, subject) values ($1, 'poll_now', 'all'))
     select count(*)::int as n from u`,
    [actor],
  );
  return row?.n ?? 0;
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

/** Lifts every halt of a code (bulk restore after a routing mistake), and lets the brake go. Answers how many. */
export async function clearHalts(sql: Sql, actor: string, codeNumber: number, code: string): Promise<number> {
  const [row] = await sql.unsafe<{ n: number }[]>(
    `with k as materialized (select shard, trigger_id from polling_trigger_runs where halted_code = $2 order by 1, 2 for update),
     u as (
       update polling_trigger_runs t set halted_code = null, halted_at = null, halted_probe = false, failure_count = 0, poison_count = 0,
         next_poll_at = case when t.enabled then statement_timestamp() + random() * least(t.interval_s, 300) * interval '1 s' end
       from k where t.shard = k.shard and t.trigger_id = k.trigger_id returning t.shard, t.trigger_id),
     l as (
       insert into lifecycle_outbox (trigger_id, config_version, state, code, at)
       select u.trigger_id, p.config_version, 'resumed', 'ok', statement_timestamp() from u join polling_triggers p using (shard, trigger_id)),
     b as (update fleet set braked = false, brake_reset_at = statement_timestamp() where $3 = 'receiver_gone'),
     w as (update timer_shards set wake_at = '-infinity'),
     a as (insert into audit (actor, verb, subject) values ($1, 'clear_halts', $3))
     select count(*)::int as n from u`,
    [actor, codeNumber, code],
  );
  return row?.n ?? 0;
}
