/** What time takes away: events after 90 days, tombstones after 30, idempotency keys after one. */
import { sql } from 'drizzle-orm';
import type { Store } from './database.ts';
import { FEED_LOCK } from './feed-append.ts';

export interface Purged {
  readonly events: number;
  readonly changes: number;
  readonly idempotencyKeys: number;
}

const EVENTS_A_STATEMENT = 10_000;

/** One round; safe to run anywhere at any time, by several processes at once. */
export async function purge(
  { db, transact }: Store,
  days: { readonly events: number; readonly tombstones: number },
): Promise<Purged> {
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
  return { events, changes, idempotencyKeys: keys.length };
}
