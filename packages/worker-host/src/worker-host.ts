/**
 * The host: one supervised Temporal worker per task queue, over one connection.
 *
 * One queue's trouble touches no other. When the connection itself is lost (refused probes, or a second queue's worker
 * dying on it) it is rebuilt, then the workers on it, one after the other in the order they were started. At-least-once
 * stays what it is: an activity in flight is finished, or redelivered by the server; the host de-duplicates nothing.
 */
import type { Clock, Log, Metrics } from '@milkrun/core';
import type { DataConverter } from '@temporalio/common';
import { Worker, type WorkerOptions } from '@temporalio/worker';
import {
  type ConnectionFactory,
  createConnectionKeeper,
  type HostConnection,
  isRefused,
  messageOf,
} from './connection.ts';
import { assertQueueOptions, type QueueOptions, withDefaults } from './options.ts';
import { BACKOFF, type Backoff, RESTART_BUDGET, type RestartBudget } from './restarts.ts';
import { classifyFailure, type RetryClassifier, watchSteps } from './steps.ts';
import { type HostedWorker, type QueueStatus, SupervisedQueue } from './supervised-queue.ts';

export interface WorkerHostOptions {
  /** Makes a connection; called again, with back-off, until it answers, and after a loss. */
  readonly connect: ConnectionFactory;
  readonly namespace: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** The restart budget is spent: leave the process with a non-zero status. Called once at the most. */
  readonly onFatal: (error: WorkerHostFatal) => void;
  /** Default: 5 restarts in 60 s. */
  readonly restartBudget?: RestartBudget;
  /** Default: 1 s, doubling to 30 s. */
  readonly backoff?: Backoff;
  /** Milliseconds an activity in flight may go on after a stop; default 30,000. */
  readonly graceMs?: number;
  /** Milliseconds after which a stop no longer waits; default 60,000. */
  readonly forceMs?: number;
  /** Milliseconds between looks at a worker's state; default 500. */
  readonly watchMs?: number;
  /** Milliseconds between probes of the connection; default 5,000. */
  readonly probeMs?: number;
  /** Which failures of steps may be retried; default `classifyFailure`. */
  readonly classify?: RetryClassifier;
  /** Of every worker; the SDK's own by default. The process's clients need the same. */
  readonly dataConverter?: DataConverter;
  /** How a worker is made; the SDK's `Worker.create` by default. */
  readonly createWorker?: (options: WorkerOptions) => Promise<HostedWorker>;
}

export class WorkerHostFatal extends Error {
  override readonly name = 'WorkerHostFatal';
  readonly queue: string;
  constructor(queue: string, cause: unknown) {
    super(`the worker of ${queue} keeps failing: ${messageOf(cause)}`, { cause });
    this.queue = queue;
  }
}

export interface WorkerHost {
  /**
   * Registers the queue at once and resolves when its worker runs. Throws on unknown options, on a queue served already, and
   * when no worker could be made within the budget: the queue is free again then.
   */
  start(queue: string, options: QueueOptions): Promise<void>;
  /** Ends one queue's worker gracefully and frees the queue; unknown queues are no error. */
  stop(queue: string): Promise<void>;
  /** Ends all in reverse order of their start, then the connection. Nothing can be started afterwards. */
  stopAll(): Promise<void>;
  registry(): readonly QueueStatus[];
  /** For `/readyz`: at least one queue, all RUNNING, and a recent answer of the server over the same connection. */
  ready(): boolean;
  /** For `/healthz`: the supervisor lives and no worker has failed for good. */
  healthy(): boolean;
}

const GRACE_MS = 30_000;
const FORCE_MS = 60_000;
const WATCH_MS = 500;
const PROBE_MS = 5_000;
const REFUSED_MAX = 3;

export function createWorkerHost(options: WorkerHostOptions): WorkerHost {
  const { clock, log, metrics } = options;
  const backoff = options.backoff ?? BACKOFF;
  const probeMs = options.probeMs ?? PROBE_MS;
  const links = createConnectionKeeper({ connect: options.connect, clock, log, metrics, backoff });
  const queues = new Map<string, SupervisedQueue>();
  const closing = new AbortController();
  let fatal: WorkerHostFatal | undefined;
  let lastAnswerAt: number | undefined;
  let lastLookAt = clock.monotonic();
  let ended: Promise<void> | undefined;
  /** Abnormal ends on the present connection. */
  let endsOnLink = 0;

  const { dataConverter } = options;
  const make = options.createWorker ?? ((workerOptions: WorkerOptions) => Worker.create(workerOptions));
  const createWorker = (given: WorkerOptions): Promise<HostedWorker> =>
    make(dataConverter === undefined ? given : { dataConverter, ...given });
  const watch = watchSteps(metrics, options.classify ?? classifyFailure);

  async function probe(link: HostConnection): Promise<'answered' | 'refused' | 'unanswered'> {
    try {
      await link.probe();
      if (links.peek() === link) lastAnswerAt = clock.monotonic();
      return 'answered';
    } catch (error) {
      return isRefused(error) ? 'refused' : 'unanswered';
    }
  }

  async function rebuild(link: HostConnection): Promise<void> {
    if (closing.signal.aborted || !links.lose(link)) return;
    endsOnLink = 0;
    metrics.count('worker_host.connections_lost');
    log.warn({ queues: queues.size }, 'worker.connection_lost');
    await links.current(closing.signal);
    for (const queue of [...queues.values()]) await queue.recycle(link);
    await link.close().catch((error: unknown) => {
      log.warn({ error: messageOf(error) }, 'worker.connection_not_closed');
    });
  }

  async function onAbnormalEnd(link: HostConnection): Promise<void> {
    if (links.peek() !== link) return;
    endsOnLink += 1;
    const answer = await probe(link);
    const isLost = answer === 'refused' || (answer === 'unanswered' && endsOnLink > 1);
    // Not awaited: the queue that failed must be free to take its next worker from the new connection.
    if (isLost) rebuild(link).catch(ignoreClosing);
  }

  function ignoreClosing(error: unknown): void {
    if (!closing.signal.aborted) log.error({ error: messageOf(error) }, 'worker.rebuild_failed');
  }

  async function look(): Promise<void> {
    let refused = 0;
    while (!closing.signal.aborted) {
      lastLookAt = clock.monotonic();
      const running = [...queues.values()].filter((queue) => queue.status().worker === 'RUNNING').length;
      metrics.gauge('worker_host.running', running);
      const link = links.peek();
      if (link !== undefined) {
        refused = (await probe(link)) === 'refused' ? refused + 1 : 0;
        if (refused >= REFUSED_MAX) {
          refused = 0;
          rebuild(link).catch(ignoreClosing);
        }
      }
      await clock.sleep(probeMs, closing.signal).catch(() => undefined);
    }
  }

  const looking = look();

  return {
    async start(queue, queueOptions) {
      assertQueueOptions(queue, queueOptions);
      if (closing.signal.aborted) throw new Error(`the worker host is stopping, ${queue} can not be started`);
      if (queues.has(queue)) throw new Error(`a worker for ${queue} is already ${queues.get(queue)?.status().state}`);
      const supervised = new SupervisedQueue(queue, withDefaults(queueOptions, watch), {
        clock,
        log,
        metrics,
        links,
        createWorker,
        namespace: options.namespace,
        graceMs: options.graceMs ?? GRACE_MS,
        forceMs: options.forceMs ?? FORCE_MS,
        watchMs: options.watchMs ?? WATCH_MS,
        budget: options.restartBudget ?? RESTART_BUDGET,
        backoff,
        onAbnormalEnd,
        onFatal(name, error) {
          if (fatal !== undefined) return;
          fatal = new WorkerHostFatal(name, error);
          log.error({ queue: name, error: messageOf(error) }, 'worker.fatal');
          options.onFatal(fatal);
        },
      });
      queues.set(queue, supervised);
      try {
        await supervised.running;
      } catch (error) {
        // A start that failed leaves nothing behind: the queue may be started again.
        await supervised.stop();
        if (queues.get(queue) === supervised) queues.delete(queue);
        throw error;
      }
      const link = links.peek();
      if (link !== undefined && lastAnswerAt === undefined) await probe(link);
    },

    async stop(queue) {
      const supervised = queues.get(queue);
      if (supervised === undefined) return;
      await supervised.stop();
      if (queues.get(queue) === supervised) queues.delete(queue);
    },

    stopAll() {
      ended ??= (async () => {
        closing.abort(new Error('the worker host is stopping'));
        // Begun in reverse order, awaited together: the bound of the whole is one force time, not one for each.
        await Promise.all([...queues.values()].reverse().map((queue) => queue.stop()));
        queues.clear();
        await looking;
        await links.close();
      })();
      return ended;
    },

    registry: () => [...queues.values()].map((queue) => queue.status()),

    ready() {
      const all = [...queues.values()].map((queue) => queue.status());
      const isRecent = lastAnswerAt !== undefined && clock.monotonic() - lastAnswerAt <= 3 * probeMs;
      return isRecent && all.length > 0 && all.every(({ worker }) => worker === 'RUNNING');
    },

    healthy() {
      const isAlive = closing.signal.aborted || clock.monotonic() - lastLookAt <= 6 * probeMs;
      const hasFailed = [...queues.values()].some((queue) => {
        const { state, worker } = queue.status();
        return state === 'failed' || worker === 'FAILED';
      });
      return isAlive && fatal === undefined && !hasFailed;
    },
  };
}
