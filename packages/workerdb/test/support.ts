import { randomUUID } from 'node:crypto';
import type { CommitRow, FeedChange, LeasedKey, TriggerChange } from '@milkrun/core';
import { createDatabase } from '@milkrun/testkit';
import { inject } from 'vitest';
import { openWorkerDb, type WorkerDb } from '../src/index.ts';

let template: Promise<string> | undefined;

/** Migrated once a file; each test's database is a copy. */
async function migratedTemplate(): Promise<string> {
  const url = await createDatabase(inject('pgUrl'));
  await (await openWorkerDb({ url })).close();
  return new URL(url).pathname.slice(1);
}

/** A fresh workerdb with one timer shard. */
export async function freshDb(): Promise<WorkerDb> {
  template ??= migratedTemplate();
  const db = await openWorkerDb({ url: await createDatabase(inject('pgUrl'), await template), connections: 12 });
  await db.ensureTimerShards(1);
  return db;
}

export function change(over: Partial<TriggerChange> = {}): FeedChange {
  return {
    op: 'upsert',
    triggerId: randomUUID(),
    configVersion: 1,
    tenantId: 'tenant-1',
    toolkit: 'synthetic',
    slug: 'synthetic',
    version: '1',
    config: '{"rate":1}',
    connectionId: 'connection-1',
    intervalSeconds: 60,
    enabled: true,
    createdAt: '2026-01-01T00:00:00.000Z',
    poll: { dedupe: 'unique', repeatable: true },
    primed: false,
    pollNow: false,
    ...over,
  } as FeedChange;
}

export const push = (db: WorkerDb, changes: readonly FeedChange[]) =>
  db.applyFeedPage({ after: null, next: '', changes, source: 'push' });

let batchNumber = 0;
export function batchIds(count: number): string[] {
  return Array.from({ length: count }, () => {
    batchNumber += 1;
    return `batch-poller:0:00000000-0000-7000-8000-${String(batchNumber).padStart(12, '0')}`;
  });
}

export const tick = (db: WorkerDb, over: { batchSize?: number; batchIds?: string[]; dispatch?: boolean } = {}) =>
  db.tick({ timerShard: 0, batchSize: 5000, batchIds: batchIds(16), dispatch: true, ...over });

/** Ticks and claims one batch of everything due. */
export async function claimAll(db: WorkerDb, leaseSeconds = 45) {
  const planned = (await tick(db)).planned[0];
  if (planned === undefined) throw new Error('nothing was planned');
  const claim = await db.claim({ batchId: planned.batchId, leaseSeconds, bytesMax: 8 * 1024 * 1024 });
  return { batchId: planned.batchId, claim, triggers: claim.triggers };
}

export function row(key: LeasedKey, over: Partial<CommitRow> = {}): CommitRow {
  return {
    shard: key.shard,
    triggerId: key.triggerId,
    leaseEpoch: key.leaseEpoch,
    outcome: 'success',
    code: 'ok',
    polled: true,
    events: 0,
    ...over,
  };
}

export const commit = (
  db: WorkerDb,
  batchId: string,
  rows: readonly CommitRow[],
  over: { end?: boolean; forced?: boolean; open?: number } = {},
) => db.commit({ batchId, rows, end: true, forced: false, open: 0, ...over });

/** Makes the lease of a batch end in the past, as when its worker hangs. */
export async function expire(db: WorkerDb, batchId: string): Promise<void> {
  await db.sql`update batches set expires_at = statement_timestamp() - interval '1 s' where batch_id = ${batchId}`;
}

export async function runRow(db: WorkerDb, triggerId: string): Promise<Record<string, unknown>> {
  const [found] =
    await db.sql`select t.*, c.code from polling_trigger_runs t left join codes c on c.no = t.last_code where trigger_id = ${triggerId}`;
  if (found === undefined) throw new Error(`no row ${triggerId}`);
  return found;
}
