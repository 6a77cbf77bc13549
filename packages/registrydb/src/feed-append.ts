/** Appends to the change feed. The last thing a transaction does. */
import { sql } from 'drizzle-orm';
import { iso, type Transaction } from './database.ts';
import type { TriggerRow } from './schema.ts';

/** Advisory lock of the feed: from the taking of a sequence number to the commit there is one writer. */
export const FEED_LOCK = 7101;
export const FEED_CHANNEL = 'milkrun_trigger_changes';

/** What a change tells the engine to do once, beside the new definition. */
export interface Instruction {
  /** JSON text of the cursor to go back to. */
  readonly rewindCursor?: string;
  readonly pollNow?: boolean;
  readonly resume?: 'cursor' | 'now';
}

/**
 * One record per row, compacted: older rows of the same trigger go, unless they carry an instruction that a reader may
 * not have read yet; those stay, marked as superseded, until tombstones of their age expire.
 *
 * Takes the feed's lock: nothing that waits for another lock may follow in the transaction.
 */
export async function appendChanges(
  tx: Transaction,
  rows: readonly TriggerRow[],
  instruction: Instruction = {},
): Promise<void> {
  if (rows.length === 0) return;
  const given = rows.map((row) => ({
    id: row.id,
    v: row.configVersion,
    op: row.deletedAt === null ? 'upsert' : 'delete',
    r: row.deletedAt === null ? recordOf(row) : null,
  }));
  await tx.execute(sql`select pg_advisory_xact_lock(${FEED_LOCK}, 0)`);
  await tx.execute(sql`
    delete from trigger_changes c using jsonb_to_recordset(${JSON.stringify(given)}::text::jsonb) as g(id uuid, op text)
    where c.trigger_id = g.id
      and (g.op = 'delete' or (not c.superseded and c.rewind_cursor is null and not c.poll_now and c.resume is null))`);
  await tx.execute(sql`
    update trigger_changes c set superseded = true
    from jsonb_to_recordset(${JSON.stringify(given)}::text::jsonb) as g(id uuid)
    where c.trigger_id = g.id and not c.superseded`);
  await tx.execute(sql`
    insert into trigger_changes (seq, trigger_id, config_version, op, record, rewind_cursor, poll_now, resume)
    select nextval('trigger_changes_seq'), g.id, g.v, g.op, g.r, ${instruction.rewindCursor ?? null}::text,
           ${instruction.pollNow ?? false}::boolean, ${instruction.resume ?? null}::text
    from rows from (jsonb_to_recordset(${JSON.stringify(given)}::text::jsonb) as (id uuid, v bigint, op text, r text))
         with ordinality as g(id, v, op, r, position)
    order by g.position`);
  await tx.execute(sql`select pg_notify(${FEED_CHANNEL}, '')`);
}

/** The definition as the feed says it; `primed` and the rest that may change without a version are added when read. */
function recordOf(row: TriggerRow): string {
  const { pollDedupe, pollOverlapSeconds, pollRepeatable } = row;
  const head = JSON.stringify({
    op: 'upsert',
    triggerId: row.id,
    tenantId: row.tenantId,
    toolkit: row.toolkit,
    slug: row.slug,
    version: row.version,
    connectionId: row.connectionId,
    intervalSeconds: row.intervalSeconds,
    enabled: row.enabled,
    ...(row.since === null ? {} : { since: iso(row.since) }),
    createdAt: iso(row.createdAt),
    configVersion: row.configVersion,
    ...(row.liftedVersion === 0 ? {} : { liftedVersion: row.liftedVersion }),
    poll: {
      dedupe: pollDedupe,
      ...(pollOverlapSeconds === null ? {} : { overlapSeconds: pollOverlapSeconds }),
      repeatable: pollRepeatable,
    },
  });
  return `${head.slice(0, -1)},"config":${row.config}}`;
}
