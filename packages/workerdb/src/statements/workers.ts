/** Who is alive, whose turn a loop is, and which timer shards there are. */
import { STORAGE_SHARDS } from '@milkrun/core';
import type { Sql } from 'postgres';
import { TIMER_SHARD_LOCK } from './claim.ts';

export async function heartbeat(sql: Sql, workerId: string, width: number): Promise<{ live: number }> {
  const [row] = await sql.unsafe<{ live: number }[]>(
    `with me as (
       insert into workers (worker_id, width, started_at, seen_at) values ($1, $2, statement_timestamp(), statement_timestamp())
       on conflict (worker_id) do update set seen_at = excluded.seen_at, width = excluded.width returning worker_id),
     gone as (delete from workers where seen_at < statement_timestamp() - interval '1 h')
     select (1 + (select count(*) from workers where worker_id <> $1 and seen_at > statement_timestamp() - interval '45 s'))::int as live from me`,
    [workerId, width],
    { prepare: true },
  );
  return { live: row?.live ?? 1 };
}

export interface WorkerView {
  readonly workerId: string;
  /** Poll slots. */
  readonly width: number;
  readonly startedAt: string;
  readonly seenAt: string;
  /** Seen within the last 45 seconds. */
  readonly live: boolean;
  /** Loops that are its turn, such as the feed's. */
  readonly turns: readonly string[];
}

/** Workers of the last hour, live ones first. */
export async function viewWorkers(sql: Sql): Promise<readonly WorkerView[]> {
  return await sql.unsafe<WorkerView[]>(
    `select w.worker_id as "workerId", w.width, w.started_at::text as "startedAt", w.seen_at::text as "seenAt",
       w.seen_at > statement_timestamp() - interval '45 s' as live,
       array(select name from turns t where t.worker_id = w.worker_id and t.until > statement_timestamp() order by name) as turns
     from workers w order by live desc, w.started_at, w.worker_id`,
  );
}

export async function leave(sql: Sql, workerId: string): Promise<{ othersLive: number }> {
  const [row] = await sql.unsafe<{ others: number }[]>(
    `with me as (delete from workers where worker_id = $1),
     mine as (delete from turns where worker_id = $1)
     select count(*)::int as others from workers where worker_id <> $1 and seen_at > statement_timestamp() - interval '45 s'`,
    [workerId],
    { prepare: true },
  );
  return { othersLive: row?.others ?? 0 };
}

/** How often a turn is renewed in the time it is held for. */
const RENEWALS = 3;

/** Holds the turn while the work goes on, however long: its length is only what a crash costs. */
export async function inTurn<T>(
  sql: Sql,
  name: string,
  workerId: string,
  holdSeconds: number,
  work: () => Promise<T>,
): Promise<T | undefined> {
  if (!(await takeTurn(sql, name, workerId, holdSeconds))) return undefined;
  // One that is missed is made up by the next; that the database is away is the work's own to tell.
  const renew = (): void => void takeTurn(sql, name, workerId, holdSeconds).catch(() => undefined);
  const timer = setInterval(renew, (holdSeconds * 1000) / RENEWALS);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

/** True when the turn is this worker's for the next seconds. */
async function takeTurn(sql: Sql, name: string, workerId: string, holdSeconds: number): Promise<boolean> {
  const rows = await sql.unsafe(
    `insert into turns as t (name, worker_id, until) values ($1, $2, statement_timestamp() + $3 * interval '1 s')
     on conflict (name) do update set worker_id = excluded.worker_id, until = excluded.until
       where t.worker_id = excluded.worker_id or t.until < statement_timestamp()
     returning name`,
    [name, workerId, holdSeconds],
    { prepare: true },
  );
  return rows.length > 0;
}

/** Makes the timer shards of a fleet that has none yet; how many there are is a setting of the database from then on. */
export async function ensureTimerShards(sql: Sql, count: number): Promise<void> {
  const [there] = await sql.unsafe('select from timer_shards limit 1');
  if (there === undefined) await setTimerShards(sql, count);
}

/**
 * Makes `count` timer shards (1 to 64) that together serve each storage shard once; answers how many there were. It waits
 * for the ticks and claims of all of them, old and new, so that none plans by the old division after this one; what was
 * planned by it is claimed or not by its epochs, whoever plans it again.
 */
export async function setTimerShards(sql: Sql, count: number, actor?: string): Promise<number> {
  if (!(Number.isInteger(count) && count >= 1 && count <= STORAGE_SHARDS))
    throw new RangeError(`there are 1 to ${STORAGE_SHARDS} timer shards, not ${count}`);
  return await sql.begin(async (tx) => {
    await tx.unsafe(
      `select pg_advisory_xact_lock(${TIMER_SHARD_LOCK}, n) from generate_series(0, ${STORAGE_SHARDS - 1}) n order by n`,
    );
    await tx.unsafe('lock table timer_shards in share row exclusive mode');
    const there = await tx.unsafe<{ timer_shard: number }[]>('select timer_shard from timer_shards order by 1');
    if (actor !== undefined) {
      await tx.unsafe(
        "insert into audit (actor, verb, subject, detail) values ($1, 'set_shards', 'all', $2::text::jsonb)",
        [actor, JSON.stringify({ from: there.length, to: count })],
      );
    }
    if (there.length === count) return there.length;
    for (let shard = 0; shard < count; shard += 1) {
      const serves = Array.from({ length: STORAGE_SHARDS }, (_, n) => n).filter((n) => n % count === shard);
      await tx.unsafe(
        `insert into timer_shards (timer_shard, serves) values ($1, $2::text::smallint[])
         on conflict (timer_shard) do update set serves = excluded.serves, wake_at = '-infinity'`,
        [shard, `{${serves.join(',')}}`],
      );
    }
    await tx.unsafe('delete from timer_shards where timer_shard >= $1', [count]);
    // Ranked for the shards as they were.
    await tx.unsafe('delete from ranked_keys');
    return there.length;
  });
}
