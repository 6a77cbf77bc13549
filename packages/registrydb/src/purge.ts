/** What time takes away: events, runs with their tasks, dead letters, tombstones, and idempotency keys after a day. */
import { type SQL, sql } from 'drizzle-orm';
import type { Store } from './database.ts';
import { FEED_LOCK } from './feed-append.ts';

/** Days for which each is kept. */
export interface Retention {
  readonly events: number;
  readonly tombstones: number;
  /** Events of activities; one that waits to be handed on is kept until it was. */
  readonly activityEvents: number;
  /** Runs that have ended, with their tasks; a run keeps its dedupe key for so long. */
  readonly activityRuns: number;
  /** Dead letters, since they came last, resolved or not. */
  readonly deadLetters: number;
}

export const RETENTION: Retention = {
  events: 90,
  tombstones: 30,
  activityEvents: 30,
  activityRuns: 180,
  deadLetters: 90,
};

export interface Purged {
  readonly activityEvents: number;
  readonly activityRuns: number;
  readonly deadLetters: number;
  readonly events: number;
  readonly changes: number;
  readonly idempotencyKeys: number;
}

const EVENTS_A_STATEMENT = 10_000;

/** One round; safe to run anywhere at any time, by several processes at once. */
export async function purge(store: Store, days: Retention): Promise<Purged> {
  const { db, transact } = store;
  let events = 0;
  for (let gone = EVENTS_A_STATEMENT; gone === EVENTS_A_STATEMENT; events += gone) {
    const rows = await db.execute(sql`
      delete from events where event_id in (
        select event_id from events where stored_at < statement_timestamp() - make_interval(days => ${days.events})
        limit ${EVENTS_A_STATEMENT} for update skip locked)
      returning 1`);
    gone = rows.length;
  }
  const changes = await transact(async (tx) => {
    await tx.execute(sql`select pg_advisory_xact_lock(${FEED_LOCK}, 0)`);
    const rows = await tx.execute<{ seq: string }>(sql`
      delete from trigger_changes
      where (superseded or op = 'delete') and changed_at < statement_timestamp() - make_interval(days => ${days.tombstones})
      returning seq`);
    const newest = rows.reduce((most, { seq }) => Math.max(most, Number(seq)), 0);
    await tx.execute(sql`update feed_state set purged_seq = ${newest} where purged_seq < ${newest}`);
    return rows.length;
  });
  const keys = await db.execute(
    sql`delete from idempotency_keys where created_at < statement_timestamp() - interval '1 day' returning 1`,
  );
  return { events, changes, idempotencyKeys: keys.length, ...(await purgeActivities(store, days)) };
}

const ROWS_A_STATEMENT = 1_000;

async function purgeActivities(
  { db }: Store,
  days: Retention,
): Promise<Pick<Purged, 'activityEvents' | 'activityRuns' | 'deadLetters'>> {
  /** Rows of a statement, again while it finds as many as it may. */
  async function all(statement: SQL): Promise<number> {
    for (let total = 0; ; ) {
      const rows = await db.execute(statement);
      total += rows.length;
      if (rows.length < ROWS_A_STATEMENT) return total;
    }
  }
  const before = (count: number): SQL => sql`statement_timestamp() - make_interval(days => ${count})`;
  // A task that is open or still holds its unique key keeps its run.
  const activityRuns = await all(sql`
    with old as materialized (
      select r.run_id from activity_runs r where r.finished_at < ${before(days.activityRuns)}
        and not exists (select 1 from activity_tasks t where t.run_id = r.run_id
          and (t.finished_at is null or t.unique_until > statement_timestamp()))
      order by r.finished_at limit ${ROWS_A_STATEMENT} for update skip locked),
    contexts as (delete from activity_context c using old where c.run_id = old.run_id),
    tasks as (delete from activity_tasks t using old where t.run_id = old.run_id)
    delete from activity_runs r using old where r.run_id = old.run_id returning 1`);
  const activityEvents = await all(sql`
    with old as materialized (
      select e.tenant_id, e.key from activity_events e where e.received_at < ${before(days.activityEvents)}
        and not exists (select 1 from activity_inbox i where i.tenant_id = e.tenant_id and i.event_key = e.key
          and i.taken_by is null)
      limit ${ROWS_A_STATEMENT} for update skip locked),
    taken as (delete from activity_inbox i using old where i.tenant_id = old.tenant_id and i.event_key = old.key)
    delete from activity_events e using old where e.tenant_id = old.tenant_id and e.key = old.key returning 1`);
  const deadLetters = await all(sql`
    delete from dead_letters where id in (select id from dead_letters where last_at < ${before(days.deadLetters)}
      limit ${ROWS_A_STATEMENT} for update skip locked) returning 1`);
  return { activityEvents, activityRuns, deadLetters };
}
