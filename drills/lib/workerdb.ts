/** A workerdb of a drill's own on a real server: opened, filled, aged and read back. */
import { type FeedChange, type LeasedKey, type Rng, systemClock, type TriggerChange, uuidv7 } from '@milkrun/core';
import { createDatabase, startPostgres } from '@milkrun/testkit';
import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';

export interface DrillDb {
  readonly db: WorkerDb;
  readonly url: string;
  close(): Promise<void>;
}

export interface DrillDbOptions {
  readonly connections?: number;
  readonly timerShards?: number;
}

/** Starts a server (or uses that of WORKERDB_TEST_URL) and migrates a fresh database on it. */
export async function openDrillDb({ connections = 8, timerShards = 1 }: DrillDbOptions = {}): Promise<DrillDb> {
  const server = await startPostgres();
  try {
    const url = await createDatabase(server.url);
    const db = await openWorkerDb({ url, connections });
    await db.ensureTimerShards(timerShards);
    return {
      db,
      url,
      async close() {
        await db.close();
        await server.stop();
      },
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** UUIDs that follow from the numbers drawn, so that a seed names the same triggers and batches again. */
export function uuidsFrom(random: () => number): () => string {
  const rng: Rng = {
    next: random,
    bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(random() * 256)),
  };
  return () => uuidv7(systemClock, rng);
}

export function changeOf(triggerId: string, configVersion: number, over: Partial<TriggerChange> = {}): FeedChange {
  return {
    op: 'upsert',
    triggerId,
    configVersion,
    tenantId: 'tenant',
    toolkit: 'drill',
    slug: 'drill',
    version: '1',
    config: '{}',
    connectionId: 'connection',
    intervalSeconds: 300,
    enabled: true,
    createdAt: '2026-01-01T00:00:00.000Z',
    poll: { dedupe: 'unique', repeatable: true },
    primed: false,
    pollNow: false,
    ...over,
  };
}

/** Applies changes as a control plane that pushes them. */
export async function push(db: WorkerDb, changes: readonly FeedChange[]): Promise<void> {
  await db.applyFeedPage({ after: null, next: '', changes, source: 'push' });
}

/** Makes every polled row due, without touching leases. */
export async function makeDue(db: WorkerDb): Promise<void> {
  await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '1 s'
    where enabled and (halted_code is null or halted_probe)`;
  await db.sql`update timer_shards set backoff_until = null, backoff_level = 0`;
}

/** Ends a batch's lease as time would, when its worker hangs. */
export async function expire(db: WorkerDb, batchId: string): Promise<void> {
  await db.sql`update batches set expires_at = statement_timestamp() - interval '1 s' where batch_id = ${batchId}`;
}

export const keyOf = ({ shard, triggerId, leaseEpoch }: LeasedKey): LeasedKey => ({ shard, triggerId, leaseEpoch });
