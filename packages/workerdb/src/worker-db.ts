/**
 * workerdb behind its ports: BatchStore for the steps, DispatchStore for tick, feed and liveness, and what people ask.
 *
 * Deadlocks and serialization failures are retried here; everything else is the caller's. No transaction is open over a
 * network call other than to PostgreSQL itself.
 */
import { randomUUID } from 'node:crypto';
import { type BatchStore, type Code, type DispatchStore, type EngineHandOffs, storageShardOf } from '@milkrun/core';
import postgres, { type Sql } from 'postgres';
import { codeNumberOf } from './code-numbers.ts';
import { assertMigrated, migrate } from './migrate.ts';
import { claimPlannedKeys } from './statements/claim.ts';
import { commitRows } from './statements/commit.ts';
import { endBatch } from './statements/end.ts';
import { type ExplainRange, type Explanation, explainTrigger } from './statements/explain.ts';
import { checkBatch, extendBatch } from './statements/extend.ts';
import { applyPage } from './statements/feed-page.ts';
import { createEngineHandOffs } from './statements/hand-offs.ts';
import { holdFencedEvents, readHeldEvents } from './statements/held.ts';
import { acknowledgeRecords, pendingRecords } from './statements/lifecycle.ts';
import { type LimitRow, limitSources, listenForLimits, readSourceLimits } from './statements/limits.ts';
import { inspectLiveness, repairLiveness } from './statements/liveness.ts';
import { beginFullResync, finishFullResync } from './statements/resync.ts';
import { readTriggerStates } from './statements/states.ts';
import { tickTimerShard } from './statements/tick.ts';
import {
  clearHalts,
  clearHold,
  endBatchByHand,
  type HoldInput,
  type HoldTarget,
  type HoldView,
  makeAllDue,
  makeDue,
  type Scope,
  setHold,
  viewHolds,
} from './statements/verbs.ts';
import {
  type BatchView,
  countLiveBatches,
  countPending,
  type DeadLetterFilter,
  type DeadLetterView,
  type FleetGauges,
  type FleetView,
  readGauges,
  type ShardView,
  type TriggerView,
  viewBatches,
  viewDeadLetter,
  viewDeadLetters,
  viewFleet,
  viewShards,
  viewTrigger,
} from './statements/views.ts';
import {
  ensureTimerShards,
  heartbeat,
  inTurn,
  leave,
  setTimerShards,
  viewWorkers,
  type WorkerView,
} from './statements/workers.ts';

export interface WorkerDbOptions {
  readonly url: string;
  /** Connections at the most; 10 by default. */
  readonly connections?: number;
  /** Seconds between ticks, for the liveness rule; 10 by default. */
  readonly tickSeconds?: number;
  /** Seconds between two liveness checks: how late beyond a tick is a violation; 60 by default. */
  readonly livenessSeconds?: number;
  /** Usual gaps without an event after which a trigger counts as silent; 20 by default, 0: never. */
  readonly silenceFactor?: number;
  /** False: refuse a schema that is not current instead of migrating it. */
  readonly migrate?: boolean;
}

export interface WorkerDb extends BatchStore, DispatchStore {
  readonly handOffs: EngineHandOffs;
  shards(): Promise<readonly ShardView[]>;
  batches(limit: number, ended: boolean): Promise<readonly BatchView[]>;
  /** `since`: RFC 3339; dead letters are counted from there. */
  fleet(since?: string): Promise<FleetView>;
  pending(since: string): Promise<number>;
  /** How many batches are live; cheap. */
  liveBatches(): Promise<number>;
  gauges(): Promise<FleetGauges>;
  trigger(triggerId: string): Promise<TriggerView | undefined>;
  explain(triggerId: string, range: ExplainRange): Promise<Explanation | undefined>;
  /** Workers of the last hour. */
  workers(): Promise<readonly WorkerView[]>;
  deadLetters(filter: DeadLetterFilter): Promise<readonly DeadLetterView[]>;
  deadLetter(id: string): Promise<(DeadLetterView & { readonly raw: string }) | undefined>;
  /** Every polled trigger in scope due now; `since`: the database's time before, RFC 3339. */
  pollAllNow(actor: string, scope?: Scope): Promise<{ readonly since: string; readonly triggers: number }>;
  pollNow(actor: string, triggerId: string): Promise<boolean>;
  clearHalts(actor: string, code: Code, scope?: Scope): Promise<number>;
  holds(): Promise<readonly HoldView[]>;
  setHold(actor: string, target: HoldTarget, input: HoldInput): Promise<void>;
  clearHold(actor: string, target: HoldTarget): Promise<boolean>;
  /** `count` timer shards from now on; answers how many there were. Throws RangeError outside 1 to 64. */
  setTimerShards(actor: string, count: number): Promise<number>;
  endBatch(actor: string, batchId: string): Promise<boolean>;
  /** Writes limits down that polls were told of, and tells every worker that listens. */
  limitSources(limits: readonly LimitRow[]): Promise<void>;
  sourceLimits(): Promise<readonly LimitRow[]>;
  /** `heard` for each limit any worker writes down, `connected` whenever listening begins anew. Answers how to stop. */
  listenForLimits(heard: (limit: LimitRow) => void, connected: () => void): Promise<() => Promise<void>>;
  /** Carries out the deletes a resync refused as too many; undefined when none waits. */
  confirmMassDelete(actor: string): Promise<number | undefined>;
  ping(): Promise<void>;
  /** Makes the poll log's partitions of the days to come and drops those of a month ago. */
  keepLogDays(): Promise<void>;
  close(): Promise<void>;
  readonly sql: Sql;
}

const RETRIED = new Set(['40P01', '40001']);
const TRIES = 5;

async function retried<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (attempt >= TRIES || !RETRIED.has(String((error as { code?: unknown }).code))) throw error;
    }
  }
}

export async function openWorkerDb(options: WorkerDbOptions): Promise<WorkerDb> {
  // A connection of its own: the role's settings hold for connections made after they were set.
  if (options.migrate !== false) {
    const migrating = postgres(options.url, { max: 1, onnotice: () => {} });
    try {
      await migrate(migrating);
    } finally {
      await migrating.end({ timeout: 5 });
    }
  }
  const sql = postgres(options.url, {
    max: options.connections ?? 10,
    onnotice: () => {},
    connection: { application_name: 'milkrun-engine' },
    idle_timeout: 0,
    connect_timeout: 10,
  });
  try {
    await assertMigrated(sql);
    await sql.unsafe('select poll_log_days(7, 30)');
  } catch (error) {
    await sql.end({ timeout: 1 });
    throw error;
  }
  const liveness = {
    tickSeconds: options.tickSeconds ?? 10,
    everySeconds: options.livenessSeconds ?? 60,
    silenceFactor: options.silenceFactor ?? 20,
  };
  return {
    sql,
    handOffs: createEngineHandOffs(sql, retried),
    claim: (input) => retried(() => claimPlannedKeys(sql, input)),
    extend: (input) => retried(() => extendBatch(sql, input)),
    check: (batchId) => checkBatch(sql, batchId),
    readStates: (keys) => readTriggerStates(sql, keys),
    readHeld: (keys) => readHeldEvents(sql, keys),
    holdFenced: (events) => retried(() => holdFencedEvents(sql, events)),
    commit: (input) => retried(() => commitRows(sql, input)),
    end: (batchId) => retried(() => endBatch(sql, batchId)),
    tick: (input) => retried(() => tickTimerShard(sql, input)),
    feedCursor: async () => {
      const [row] = await sql.unsafe<{ cursor: string | null }[]>('select cursor from change_feed where id = 1');
      return row?.cursor ?? null;
    },
    applyFeedPage: (input) => retried(() => applyPage(sql, input)),
    beginResync: () => beginFullResync(sql, randomUUID()),
    resyncInProgress: async () => {
      const [row] = await sql.unsafe<{ token: string | null }[]>(
        'select resync_token as token from change_feed where id = 1 and resync_started_at is not null',
      );
      return row?.token ?? null;
    },
    finishResync: (input) => retried(() => finishFullResync(sql, input)),
    confirmMassDelete: async (actor) => {
      const [row] = await sql.unsafe<{ token: string }[]>(
        'select resync_token as token from change_feed where id = 1 and resync_token is not null and resync_started_at is null',
      );
      if (row === undefined) return undefined;
      const { deleted } = await retried(() => finishFullResync(sql, { token: row.token, confirmMassDelete: true }));
      await sql.unsafe(
        "insert into audit (actor, verb, subject, detail) values ($1, 'confirm_mass_delete', 'all', $2::text::jsonb)",
        [actor, JSON.stringify({ deleted })],
      );
      return deleted;
    },
    heartbeatWorker: ({ workerId, width }) => heartbeat(sql, workerId, width),
    removeWorker: (workerId) => leave(sql, workerId),
    timerShards: async () => (await viewShards(sql)).map((shard) => shard.timerShard),
    ensureTimerShards: (count) => ensureTimerShards(sql, count),
    setTimerShards: (actor, count) => retried(() => setTimerShards(sql, count, actor)),
    liveness: () => inspectLiveness(sql, liveness),
    repairLiveness: (report) => retried(() => repairLiveness(sql, report)),
    pendingLifecycle: (limit) => pendingRecords(sql, limit),
    acknowledgeLifecycle: (ids) => acknowledgeRecords(sql, ids),
    withTurn: (name, holdSeconds, workerId, work) => inTurn(sql, name, workerId, holdSeconds, work),
    shards: () => viewShards(sql),
    batches: (limit, ended) => viewBatches(sql, limit, ended),
    fleet: (since = '-infinity') => viewFleet(sql, since),
    pending: (since) => countPending(sql, since),
    liveBatches: () => countLiveBatches(sql),
    gauges: () => readGauges(sql),
    trigger: (triggerId) => viewTrigger(sql, storageShardOf(triggerId), triggerId),
    explain: (triggerId, range) => explainTrigger(sql, storageShardOf(triggerId), triggerId, range),
    workers: () => viewWorkers(sql),
    deadLetters: (filter) => viewDeadLetters(sql, filter),
    deadLetter: (id) => viewDeadLetter(sql, id),
    pollAllNow: (actor, scope) => retried(() => makeAllDue(sql, actor, scope)),
    pollNow: (actor, triggerId) => retried(() => makeDue(sql, actor, storageShardOf(triggerId), triggerId)),
    clearHalts: (actor, code, scope) => retried(() => clearHalts(sql, actor, codeNumberOf(code), code, scope)),
    holds: () => viewHolds(sql),
    setHold: (actor, target, input) => retried(() => setHold(sql, actor, target, input)),
    clearHold: (actor, target) => retried(() => clearHold(sql, actor, target)),
    limitSources: (limits) => retried(() => limitSources(sql, limits)),
    sourceLimits: () => readSourceLimits(sql),
    listenForLimits: (heard, connected) => listenForLimits(sql, heard, connected),
    endBatch: (actor, batchId) => endBatchByHand(sql, actor, batchId, (id) => retried(() => endBatch(sql, id))),
    keepLogDays: async () => {
      await sql.unsafe('select poll_log_days(7, 30)');
    },
    ping: async () => {
      await sql.unsafe('select 1');
    },
    close: () => sql.end({ timeout: 5 }),
  };
}
