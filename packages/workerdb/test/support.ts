import { createHash, randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CommitRow, FeedChange, LeasedKey, TickInput, TriggerChange } from '@milkrun/core';
import { createDatabase } from '@milkrun/testkit';
import postgres from 'postgres';
import { inject } from 'vitest';
import { openWorkerDb, type WorkerDb } from '../src/index.ts';

let template: Promise<string> | undefined;

/** Names the template by what is in the migrations: on a server that outlives the run, an old one is never taken. */
function templateName(): string {
  const directory = join(import.meta.dirname, '..', 'migrations');
  const hash = createHash('sha256');
  for (const file of readdirSync(directory).sort()) hash.update(readFileSync(join(directory, file)));
  return `milkrun_test_workerdb_${hash.digest('hex').slice(0, 12)}`;
}

/** Migrated once a run, by whichever file comes first; each test database is a copy. */
async function migratedTemplate(): Promise<string> {
  const name = templateName();
  const sql = postgres(inject('pgUrl'), { max: 1, onnotice: () => {} });
  try {
    await sql`select pg_advisory_lock(7999)`;
    const [there] = await sql`select from pg_database where datname = ${name}`;
    if (there === undefined) {
      const url = await createDatabase(inject('pgUrl'));
      await (await openWorkerDb({ url })).close();
      await sql.unsafe(`alter database "${new URL(url).pathname.slice(1)}" rename to "${name}"`);
    }
  } finally {
    await sql.end();
  }
  return name;
}

/** A fresh workerdb with one timer shard. */
export async function freshDb(connections = 12): Promise<WorkerDb> {
  template ??= migratedTemplate();
  const url = await createDatabase(inject('pgUrl'), await template);
  const db = await openWorkerDb({ url, connections, migrate: false });
  await db.ensureTimerShards(1);
  return db;
}

const CHANGING = [
  'polling_triggers',
  'polling_trigger_runs',
  'polling_trigger_states',
  'batches',
  'batch_fences',
  'timer_shards',
  'ranked_keys',
  'workers',
  'source_limits',
  'source_health',
  'turns',
  'held_events',
  'dead_letters',
  'lifecycle_outbox',
  'poll_log',
  'tombstones',
  'resync_marks',
];

/** Empties a workerdb between two tests: a tenth of what a fresh database costs. */
export async function emptied(db: WorkerDb): Promise<void> {
  await db.sql.unsafe(
    `${CHANGING.map((table) => `delete from ${table};`).join('')}
     update change_feed set cursor = null, resync_token = null;
     update fleet set braked = false, polled = 0, brake_reset_at = '-infinity';`,
  );
  await db.ensureTimerShards(1);
}

/** Triggers of one tenant straight into the three tables, all due: thousands for the price of one statement. */
export async function insertDue(db: WorkerDb, count: number): Promise<void> {
  await db.sql.unsafe(`
    create temporary table made on commit drop as
    select shard, id from (select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid as id from generate_series(1, ${count}) n) i
      cross join lateral (select (get_byte(h, 0) * 256 + get_byte(h, 1)) % 64 as shard from sha256(id::text::bytea) h) s;
    insert into polling_triggers (shard, trigger_id, config_version, created_at, tenant_id, toolkit, slug, version_wanted, connection_id, poll_policy, config)
      select shard, id, 1, now(), 'tenant', 'synthetic', 'synthetic', '1', 'connection', '{"dedupe":"unique","repeatable":true}', '{}' from made;
    insert into polling_trigger_runs (shard, enabled, owner, interval_s, trigger_id, phase_s, tenant_h, toolkit_h, def_bytes, connection_h, next_poll_at, primed)
      select shard, true, 'v', 300, id, 0, hash32('tenant'), hash32('synthetic'), 300, hash64('tenant', 'connection'), now() - interval '1 s', true from made;
    insert into polling_trigger_states (shard, trigger_id) select shard, id from made;`);
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

export const tick = (db: WorkerDb, over: Partial<TickInput> = {}) =>
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
