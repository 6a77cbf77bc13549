/** A worker process: the engine's own steps, loops and tick over the simulated ports. */
import {
  BATCH_STEPS,
  type BatchDeps,
  createSnapshots,
  DEFAULT_LIMITS,
  Draining,
  PollSlots,
  type StepContext,
} from '@milkrun/batch-poller';
import { createControlPlane } from '@milkrun/control-plane';
import { type Log, noMetrics } from '@milkrun/core';
import {
  createDispatchGate,
  createFeedReader,
  createLifecycleSender,
  createLivenessLoop,
  createTickActivities,
  createWorkerHeartbeat,
  ensureShards,
  type Loop,
} from '@milkrun/dispatch';
import { createSimulatedKeys } from './keys.ts';
import { createMachineInPlace } from './machine.ts';
import type { Attempt, Poller, StepName } from './model/temporal.ts';
import { clientOf, objectsOf, runnerOf, timersOf, wireOf } from './ports.ts';
import { Process } from './process.ts';
import { storeOf } from './store-port.ts';
import type { Universe } from './universe.ts';

export interface Worker {
  readonly process: Process;
  /** SIGTERM: hands over or, alone, ends what it has; resolves when the process may go. */
  drain(): Promise<void>;
  /** No task of Temporal's reaches it any more. */
  leave(): void;
}

const DRAIN_MS = 50_000;

export function startWorker(universe: Universe, name: string, offMs: number): Worker {
  const { engineRandom, settings, temporal } = universe;
  const process = new Process(name, universe, offMs);
  const { clock } = process;
  const metrics = noMetrics;
  const log = logOf(universe);
  const store = storeOf(universe, process);
  const objects = objectsOf(universe, process);
  const client = clientOf(universe, process);
  const rng = engineRandom;
  const controlPlane = createControlPlane({
    url: 'http://control-plane.test',
    key: 'a key',
    clock,
    rng,
    metrics,
    log,
    wire: wireOf(universe, process),
  });
  const draining = new AbortController();
  let othersLive = 1;
  let running = 0;
  const slots = new PollSlots({ width: settings.pollWidth, clock });
  const deps: BatchDeps = {
    store,
    snapshots: createSnapshots({
      objects,
      keys: createSimulatedKeys(universe.blobKey, rng),
      clock,
      machine: createMachineInPlace(rng),
      metrics,
      log,
    }),
    controlPlane,
    runner: runnerOf(universe, process),
    timers: timersOf(universe, process, 'commit'),
    slots,
    clock,
    rng,
    metrics,
    log,
    limits: { ...DEFAULT_LIMITS, chunkEventsMax: settings.chunkEventsMax, pagesMax: settings.pagesMax },
    storeAvailable: () => true,
    draining: draining.signal,
    alone: async () => othersLive === 0,
  };
  const gate = createDispatchGate({
    dependencies: [
      {
        name: 'control_plane',
        available: () => controlPlane.available(),
        probe: () => controlPlane.readChanges({ after: null, limit: 1, waitSeconds: 0 }),
      },
    ],
    clock,
    log,
  });
  const ticks = createTickActivities({
    store,
    client,
    endBatch: (batchId) => store.end(batchId),
    timers: timersOf(universe, process, 'start'),
    gate: { open: async () => !draining.signal.aborted && (await gate.open()) },
    clock,
    rng,
    log,
    metrics,
    tickMs: settings.tickMs,
    batchSize: settings.batchSize,
    batchesMax: 4,
    policy: { maxRetryCounter: settings.maxHops, leaseSeconds: settings.leaseSeconds },
  });
  const shared = { store, clock, log, metrics, workerId: name };
  const loops: Loop[] = [
    createWorkerHeartbeat({ ...shared, width: () => slots.width, onLive: () => {} }),
    createFeedReader({ ...shared, controlPlane, timers: timersOf(universe, process, 'feed') }),
    createLifecycleSender({ ...shared, controlPlane }),
    createLivenessLoop({
      ...shared,
      client,
      timers: timersOf(universe, process, 'start'),
      endBatch: (batchId) => store.end(batchId),
    }),
  ];
  const poller: Poller = {
    process,
    accepts: () => !draining.signal.aborted || othersLive === 0,
    async run(step: StepName, input: unknown, attempt: Attempt) {
      running += 1;
      try {
        if (step === 'tick') return await ticks.tick(input as { timerShard: number });
        const context: StepContext = { ...attempt, heartbeat: () => attempt.heartbeat() };
        return await BATCH_STEPS[step](deps, input as never, context);
      } finally {
        running -= 1;
      }
    },
    // As the binding to Temporal has it: a drain is retried at once.
    retryDelayMs: (error) => (error instanceof Draining ? 1 : undefined),
  };

  async function boot(): Promise<void> {
    for (;;) {
      try {
        await store.ensureTimerShards(1);
        await store.heartbeatWorker({ workerId: name, width: slots.width });
        break;
      } catch {
        await clock.sleep(1_000);
      }
    }
    for (const loop of loops) loop.start();
    temporal.pollers.add(poller);
    await ensureShards({ store, timers: timersOf(universe, process, 'start') }).catch(() => undefined);
  }
  void boot();

  return {
    process,
    async drain() {
      othersLive = (await store.removeWorker(name).catch(() => ({ othersLive: 1 }))).othersLive;
      draining.abort(new Error('the worker drains'));
      await Promise.all(loops.map((loop) => loop.stop()));
      for (let waited = 0; waited < DRAIN_MS && (running > 0 || othersLive === 0); waited += 1_000)
        await clock.sleep(1_000);
      temporal.pollers.delete(poller);
    },
    leave: () => void temporal.pollers.delete(poller),
  };
}

function logOf({ note }: Universe): Log {
  const line = (fields: Readonly<Record<string, unknown>>, event: string): void => {
    note({ kind: 'logged', event, batchId: typeof fields.batchId === 'string' ? fields.batchId : undefined });
  };
  return { info: () => {}, warn: line, error: line };
}
