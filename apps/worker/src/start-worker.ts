/**
 * The engine process: builds the adapters from settings, starts the queues and loops, and drains.
 *
 * PostgreSQL or Temporal gone for a while: the process stays, not ready, and goes on by itself.
 */
import { hostname } from 'node:os';
import {
  type BatchDeps,
  commitBatch,
  createBatchActivities,
  createCarriedObjects,
  createLocalKeys,
  createSnapshots,
  SourceHolds,
} from '@milkrun/batch-poller';
import type { Config } from '@milkrun/config';
import { type ControlPlane, systemClock as clock, type Log, QUEUES, systemRng as rng, uuidv7 } from '@milkrun/core';
import {
  checkLiveness,
  createDispatchGate,
  createFeedReader,
  createLifecycleSender,
  createLivenessLoop,
  createLoop,
  createPushChanges,
  createTickActivities,
  createTimerManager,
  createWorkerHeartbeat,
  ensureShards,
  inspectLiveness,
  type LivenessDeps,
  type Loop,
} from '@milkrun/dispatch';
import { createEngineSteps, createMigrations } from '@milkrun/migration';
import { createObjectStore } from '@milkrun/object-store';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { bundleWorkflows, type WorkerHost } from '@milkrun/worker-host';
import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';
import { Context } from '@temporalio/activity';
import { createEngineApi } from './engine-api.ts';
import { figuresOf } from './figures.ts';
import { guardStore } from './guarded-store.ts';
import { startLegacyPipeline } from './legacy-pipeline.ts';
import { codecsOf, createParts, deployment, longestCallSecondsOf, ownKey, required, workflowPath } from './parts.ts';
import type { WrapPort } from './ports.ts';
import { createTestTrigger } from './test-trigger.ts';

export interface WorkerInput {
  readonly config: Config;
  readonly log: Log;
  readonly metrics: TelemetryMetrics;
  /** False: refuse to start instead of migrating workerdb. */
  readonly migrate: boolean;
  /** For drills: stands between the engine and each of its ports. */
  readonly wrap?: WrapPort;
}

export interface RunningWorker {
  readonly addresses: Readonly<Record<string, string>>;
  /** The Temporal SDK's own exposition. */
  readonly metricsSources: readonly (() => Promise<string>)[];
  /** Rejects when a queue's restart budget is spent. */
  readonly failed: Promise<never>;
  /** Drains: hands batches over, or finishes them when nobody else can. */
  stop(): Promise<void>;
}

const LIMITS_READ_MS = 5_000;
const POLL_STEPS = 16;
const DRAIN_MS = 40_000;
/** How long a batch may go on by itself before a drain without a successor commits it. */
const OWN_END_MS = 10_000;
const BREAKERS = ['object_store', 'control_plane', 'poll_function'];
/** Where a live batch can be, as its row says. */
const BATCH_PLACES = ['planned', 'claim', 'auth', 'poll', 'broadcast', 'commit', 'backoff'];
const GAUGES_MS = 10_000;
const SNAPSHOT_DAYS_MS = 7 * 86_400_000;
/** Once a day the whole feed is read and compared: what a push lost, or a bug hid, comes to light. */
const RESYNC_MS = 86_400_000;

export async function startWorker({ config, log, metrics, migrate, wrap }: WorkerInput): Promise<RunningWorker> {
  const port: WrapPort = wrap ?? ((_, adapter) => adapter);
  const startedAt = new Date(clock.now()).toISOString();
  const workerId = `${hostname()}:${process.pid}:${uuidv7(clock, rng)}`;
  const db = port(
    'store',
    await openWorkerDb({
      url: required(config.workerdbUrl, 'WORKERDB_URL').reveal(),
      migrate,
      tickSeconds: config.dispatchTickMs / 1000,
      livenessSeconds: config.livenessEveryMs / 1000,
      silenceFactor: config.silenceFactor,
    }),
  );
  const store = port('objects', createObjectStore(config.objectStore));
  const objects = guardStore(store, clock, metrics);
  await objects.probe();
  // Breakers report when they open and close: until then they are closed.
  for (const dependency of BREAKERS) metrics.gauge('polling.breaker.open', 0, { dependency });
  const parts = await createParts({ config, log, metrics, port });
  const { controlPlane, runner, slots, temporal: client, host } = parts;
  await db.ensureTimerShards(config.timerShards);

  const keys = createLocalKeys(config.blobKey?.reveal() ?? (await ownKey(config)));
  const draining = new AbortController();
  const holds = new SourceHolds(clock, (limits) => db.limitSources(limits));
  const learnAll = async (): Promise<undefined> => {
    for (const limit of await db.sourceLimits()) holds.learned(limit);
    return undefined;
  };
  const unlisten = await db.listenForLimits(
    (limit) => holds.learned(limit),
    () => void learnAll().catch((error: unknown) => log.warn({ error: String(error) }, 'limits.unread')),
  );
  let othersLive = 1;
  const arms = (by: 'commit' | 'feed' | 'verb' | 'start') =>
    port(`${by}Timers`, createTimerManager({ client, log, metrics, by }));
  const deps: BatchDeps = {
    store: db,
    snapshots: createSnapshots({ objects, keys, clock, metrics, log }),
    controlPlane,
    runner,
    timers: arms('commit'),
    slots,
    holds,
    clock,
    rng,
    metrics,
    log,
    limits: parts.limits,
    storeAvailable: () => objects.available(),
    draining: draining.signal,
    alone: async () => othersLive === 0,
  };

  const liveness: LivenessDeps = {
    store: db,
    client,
    timers: arms('start'),
    endBatch: (batchId) => db.end(batchId),
    clock,
    log,
    metrics,
    workerId,
    everyMs: config.livenessEveryMs,
    stuckMs: config.livenessEveryMs / 2,
  };
  const carried = createCarriedObjects({ objects, keys });
  const api = createEngineApi({
    db,
    migrations: createMigrations({ client: parts.client, makeId: () => uuidv7(clock, rng) }),
    inspect: () => inspectLiveness(db),
    repair: async () => (await checkLiveness(liveness, draining.signal)).report,
    log,
    key: config.engineKey?.reveal(),
    figures: (since) =>
      figuresOf({
        db,
        metrics,
        startedAt,
        feedAtEnd: () => feedAtEnd(controlPlane, db),
        widthInUse: () => slots.inUse,
        ...(since === undefined ? {} : { since }),
      }),
    pushChanges: createPushChanges({ store: db, timers: arms('feed'), metrics }),
    armAll: () => ensureShards({ store: db, timers: arms('verb') }),
    testTrigger: createTestTrigger({ db, controlPlane, runner, deadlineMs: config.pollDeadlineMs }),
    ready: () => host.ready(),
    healthy: () => host.healthy(),
  });
  const engine = await api.listen({ host: config.engineHost, port: config.enginePort });
  const loops = await startLoops();
  await startQueues(host);
  const legacy =
    config.pipelines === 'both'
      ? await startLegacyPipeline({ config, migrate, ...parts, carried, draining: draining.signal })
      : undefined;

  async function startLoops(): Promise<Loop[]> {
    const shared = { store: db, clock, log, metrics, workerId };
    const heartbeat = createWorkerHeartbeat({
      ...shared,
      width: () => slots.width,
      onLive: (live) => {
        if (config.pollCap !== undefined) slots.setCeiling(Math.min(config.pollWidth, config.pollCap / live));
        metrics.gauge('polling.poll.width', slots.width);
        metrics.gauge('polling.poll.width_in_use', slots.inUse);
      },
    });
    // The tick counts live workers: this one must be among them before the first.
    await db.heartbeatWorker({ workerId, width: slots.width });
    const all = [
      heartbeat,
      createFeedReader({ ...shared, controlPlane, timers: arms('feed'), resyncEveryMs: RESYNC_MS }),
      createLifecycleSender({ ...shared, controlPlane }),
      createLivenessLoop(liveness),
      // What LISTEN missed, as behind a pooler that does not pass notifications on.
      createLoop({ name: 'limits', clock, log, everyMs: LIMITS_READ_MS, round: learnAll }),
      createLoop({ name: 'gauges', clock, log, everyMs: GAUGES_MS, round: writeGauges }),
      createLoop({
        name: 'housekeeping',
        clock,
        log,
        everyMs: 3_600_000,
        round: async () => {
          await db.keepLogDays();
          await store.sweep?.(SNAPSHOT_DAYS_MS, clock);
          return undefined;
        },
      }),
    ];
    for (const loop of all) loop.start();
    return all;
  }

  async function writeGauges(): Promise<undefined> {
    const { batches, leased, sourcesDown } = await db.gauges();
    for (const step of BATCH_PLACES) metrics.gauge('polling.dispatch.batches_open', batches[step] ?? 0, { step });
    metrics.gauge('polling.leases.held', leased);
    metrics.gauge('polling.poll.sources_down', sourcesDown);
    return undefined;
  }

  async function startQueues(to: WorkerHost): Promise<void> {
    const gate = createDispatchGate({
      dependencies: [
        {
          name: 'control_plane',
          available: () => controlPlane.available(),
          probe: () => controlPlane.readChanges({ after: null, limit: 1, waitSeconds: 0 }),
        },
        { name: 'object_store', available: () => objects.closed(), probe: () => objects.list('probe/') },
      ],
      clock,
      log,
    });
    const { poll, ...rest } = port('steps', createBatchActivities(deps));
    const [batchBundle, timerBundle] = await Promise.all([
      bundleWorkflows({ workflowsPath: workflowPath('@milkrun/batch-poller/workflow'), home: config.home }),
      bundleWorkflows({ workflowsPath: workflowPath('@milkrun/dispatch/workflow'), home: config.home }),
    ]);
    const versioned = deployment(config);
    await to.start(QUEUES.poll, {
      activities: { poll },
      maxConcurrentActivityTaskExecutions: POLL_STEPS,
      ...versioned.activities,
    });
    await to.start(QUEUES.batchPoller, {
      workflowBundle: { codePath: batchBundle.codePath },
      activities: { ...rest },
      ...versioned.batch,
    });
    const ticks = port(
      'ticks',
      createTickActivities({
        store: db,
        endBatch: (batchId) => db.end(batchId),
        timers: arms('verb'),
        client,
        gate: { open: async () => !draining.signal.aborted && (await gate.open()) },
        clock,
        rng,
        log,
        metrics,
        heartbeat: () => Context.current().heartbeat(),
        tickMs: config.dispatchTickMs,
        batchSize: config.batchSize,
        policy: { maxRetryCounter: config.maxRetryCounter, leaseSeconds: config.leaseTtlMs / 1000 },
      }),
    );
    await to.start(QUEUES.timerShard, {
      workflowBundle: { codePath: timerBundle.codePath },
      activities: {
        ...ticks,
        ...createEngineSteps({
          store: db.handOffs,
          timers: arms('verb'),
          objects: carried,
          codecs: codecsOf(config),
          longestCallSeconds: longestCallSecondsOf(config),
        }),
      },
      ...versioned.timer,
    });
    await ensureShards({ store: db, timers: arms('start') });
  }

  let stopping: Promise<void> | undefined;
  async function drain(): Promise<void> {
    const started = clock.monotonic();
    // Its own row first: who asks from now on must not count this worker among those that can take over.
    othersLive = (await db.removeWorker(workerId).catch(() => ({ othersLive: 1 }))).othersLive;
    draining.abort(new Error('the worker drains'));
    await Promise.all([...loops.map((loop) => loop.stop()), legacy?.stopLoops()]);
    if (othersLive === 0) {
      let open = await openBatches(db);
      while (clock.monotonic() - started < DRAIN_MS && open !== 0) {
        // A batch that waits out a hop's back-off would outlive this process: it is committed by force here and now.
        if (clock.monotonic() - started > OWN_END_MS)
          await commitByForce({ ...deps, store: db, leaseSeconds: config.leaseTtlMs / 1000 });
        await clock.sleep(200);
        open = await openBatches(db);
      }
    }
    await host.stopAll();
    await api.close();
    await parts.close();
    await objects.close();
    await legacy?.close();
    await unlisten().catch(() => undefined);
    await db.close();
    log.info({ alone: othersLive === 0, ms: Math.round(clock.monotonic() - started) }, 'worker.drained');
  }

  return {
    addresses: { engine },
    metricsSources: parts.metricsSources,
    failed: parts.failed,
    stop: () => {
      stopping ??= drain();
      return stopping;
    },
  };
}

/** Undefined while workerdb does not answer. */
async function openBatches(db: WorkerDb): Promise<number | undefined> {
  return db.liveBatches().catch(() => undefined);
}

/** Whether the feed has nothing after the cursor that is applied. */
async function feedAtEnd(controlPlane: ControlPlane, db: WorkerDb): Promise<boolean> {
  const answer = await controlPlane.readChanges({ after: await db.feedCursor(), limit: 1, waitSeconds: 0 });
  return answer.kind === 'page' && answer.changes.length === 0;
}

/** Commits every open batch with what it has; fenced like any commit, so a step that still runs loses nothing by it. */
async function commitByForce(
  deps: BatchDeps & { readonly store: WorkerDb; readonly leaseSeconds: number },
): Promise<void> {
  for (const batch of await deps.store.batches(100, false)) {
    const context = { attempt: 1, signal: new AbortController().signal, heartbeat: () => {} };
    const policy = { maxRetryCounter: 0, leaseSeconds: deps.leaseSeconds };
    const { batchId, timerShard, planned: size, hop: retryCounter } = batch;
    await commitBatch(
      deps,
      { batchId, timerShard, size, retryCounter, policy, force: true, askedSeconds: 0 },
      context,
    ).catch((error: unknown) => {
      deps.log.warn({ batchId, error: String(error) }, 'drain.commit_failed');
    });
  }
}
