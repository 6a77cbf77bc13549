/**
 * One task queue and whatever worker serves it at the moment.
 *
 * A worker object lives once: it is created, run and, after an abnormal end, replaced by a new one. Three things tell
 * that it ended: its `run()` promise, its state (after a fatal poll error the promise may never settle), and the
 * host's probe. A normal end is final. Who creates a worker sees it to its end, on every path.
 */
import type { Clock, Log, Metrics } from '@milkrun/core';
import type { WorkerOptions, WorkerStatus } from '@temporalio/worker';
import { type ConnectionKeeper, type HostConnection, isUnreachable, messageOf } from './connection.ts';
import type { QueueOptions } from './options.ts';
import { type Backoff, backoffMs, createBudget, type RestartBudget } from './restarts.ts';

/** The part of the SDK's worker that is supervised. */
export interface HostedWorker {
  run(): Promise<void>;
  shutdown(): void;
  getState(): WorkerStatus['runState'];
  getStatus(): WorkerStatus;
}

/**
 * - `starting`: waits for the connection, or its first worker is being made.
 * - `running`, `restarting`: served; between an abnormal end and the next worker.
 * - `stopping`, `stopped`: on command. `ended`: the worker ended normally by itself; not restarted.
 * - `failed`: the restart budget is spent.
 */
export type QueueState = 'starting' | 'running' | 'restarting' | 'stopping' | 'stopped' | 'ended' | 'failed';

/** One worker's parts, for tests and for people who ask what it does. */
export interface QueueParts {
  readonly workflowPoller: WorkerStatus['workflowPollerState'];
  readonly activityPoller: WorkerStatus['activityPollerState'];
  readonly workflowTasksInFlight: number;
  readonly activitiesInFlight: number;
  readonly workflowsCached: number;
}

export interface QueueStatus {
  readonly queue: string;
  readonly state: QueueState;
  /** State of the SDK's worker object, null when there is none. */
  readonly worker: WorkerStatus['runState'] | null;
  /** What the worker's parts do at the moment, null when there is no worker. */
  readonly parts: QueueParts | null;
  /** Milliseconds since the epoch at which `state` began. */
  readonly sinceMs: number;
  readonly restarts: number;
  readonly lastError: string | null;
}

export interface QueueDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly links: ConnectionKeeper;
  readonly createWorker: (options: WorkerOptions) => Promise<HostedWorker>;
  readonly namespace: string;
  readonly graceMs: number;
  readonly forceMs: number;
  readonly watchMs: number;
  readonly budget: RestartBudget;
  readonly backoff: Backoff;
  /** A worker ended abnormally on `link`; the host decides whether the connection is lost. */
  readonly onAbnormalEnd: (link: HostConnection) => Promise<void>;
  readonly onFatal: (queue: string, error: unknown) => void;
}

/** Beyond the force time the SDK itself gives up; this much later we do, whatever it does. */
const STOP_SLACK_MS = 5_000;

export class SupervisedQueue {
  readonly queue: string;
  readonly #options: QueueOptions;
  readonly #deps: QueueDeps;
  readonly #stop = new AbortController();
  readonly #firstRun = Promise.withResolvers<void>();
  readonly #budget: ReturnType<typeof createBudget>;
  readonly #done: Promise<void>;
  #stopped: Promise<void> | undefined;
  #worker: HostedWorker | undefined;
  #link: HostConnection | undefined;
  #recycling = false;
  #state: QueueState = 'starting';
  #sinceMs: number;
  #restarts = 0;
  #failures = 0;
  #lastError: string | null = null;

  constructor(queue: string, options: QueueOptions, deps: QueueDeps) {
    this.queue = queue;
    this.#options = options;
    this.#deps = deps;
    this.#sinceMs = deps.clock.now();
    this.#budget = createBudget(deps.budget);
    this.#firstRun.promise.catch(() => undefined);
    this.#done = this.#supervise();
  }

  /** Resolves when a worker runs for the first time; rejects when the queue is stopped or fails before. */
  get running(): Promise<void> {
    return this.#firstRun.promise;
  }

  status(): QueueStatus {
    return {
      queue: this.queue,
      state: this.#state,
      worker: this.#worker?.getState() ?? null,
      parts: this.#worker === undefined ? null : partsOf(this.#worker.getStatus()),
      sinceMs: this.#sinceMs,
      restarts: this.#restarts,
      lastError: this.#lastError,
    };
  }

  /** Ends the worker gracefully; bounded by the force time. Every call waits for the same end. */
  stop(): Promise<void> {
    this.#stopped ??= this.#endAll();
    return this.#stopped;
  }

  /** Replaces a worker on a lost connection by one on the present one, without charge: the connection was the culprit. */
  async recycle(lost: HostConnection): Promise<void> {
    if (this.#stop.signal.aborted || this.#worker === undefined || this.#link !== lost) return;
    this.#recycling = true;
    const old = this.#worker;
    shutdownQuietly(old);
    const giveUp = this.#deps.forceMs + STOP_SLACK_MS;
    await waitUntil(this.#deps.clock, giveUp, this.#deps.watchMs, () => this.#worker !== old);
  }

  async #endAll(): Promise<void> {
    const { clock, forceMs, log } = this.#deps;
    const wasFinal = isFinal(this.#state);
    if (!wasFinal) this.#enter('stopping');
    this.#stop.abort(new Error(`the worker of ${this.queue} is stopped`));
    if (this.#worker !== undefined) shutdownQuietly(this.#worker);
    const late = new AbortController();
    const bound = clock.sleep(forceMs + STOP_SLACK_MS, late.signal).then(
      () => true,
      () => false,
    );
    const overdue = await Promise.race([this.#done.then(() => false), bound]);
    late.abort();
    if (overdue) log.error({ queue: this.queue }, 'worker.stop_overdue');
    if (!wasFinal) this.#enter('stopped');
    this.#firstRun.reject(new Error(`the worker of ${this.queue} was stopped before it ran`));
  }

  async #supervise(): Promise<void> {
    const { clock, links } = this.#deps;
    while (!this.#stop.signal.aborted) {
      let link: HostConnection | undefined;
      let startedAt = clock.monotonic();
      try {
        link = await links.current(this.#stop.signal);
        startedAt = clock.monotonic();
        await this.#serve(link);
        if (this.#stop.signal.aborted) return;
        if (!this.#recycling) {
          this.#enter('ended');
          return;
        }
        this.#recycling = false;
        this.#enter('restarting');
      } catch (error) {
        if (this.#stop.signal.aborted) {
          this.#note(error);
          return;
        }
        if (clock.monotonic() - startedAt > this.#deps.budget.windowMs) this.#failures = 0;
        if (!(await this.#recover(error, link))) return;
      }
    }
  }

  /** One worker from creation to its end. Rejects on an abnormal end. */
  async #serve(link: HostConnection): Promise<void> {
    const { namespace, graceMs, forceMs, createWorker } = this.#deps;
    const worker = await createWorker({
      ...this.#options,
      connection: link.native,
      namespace,
      taskQueue: this.queue,
      shutdownGraceTime: graceMs,
      shutdownForceTime: forceMs,
    });
    this.#worker = worker;
    this.#link = link;
    try {
      const ended = worker.run();
      if (this.#stop.signal.aborted) {
        shutdownQuietly(worker);
      } else {
        this.#enter('running');
        this.#firstRun.resolve();
      }
      await this.#watch(worker, ended);
    } finally {
      this.#worker = undefined;
    }
  }

  /** Settles with `run()`, or rejects once the state says FAILED while `run()` is still pending. */
  async #watch(worker: HostedWorker, ended: Promise<void>): Promise<void> {
    const { clock, watchMs } = this.#deps;
    const over = new AbortController();
    const failed = (async () => {
      for (;;) {
        await clock.sleep(watchMs, over.signal);
        if (worker.getState() === 'FAILED') throw new Error(`the worker of ${this.queue} failed without ending`);
      }
    })();
    failed.catch(() => undefined);
    ended.catch(() => undefined);
    try {
      await Promise.race([ended, failed]);
    } finally {
      over.abort();
    }
  }

  /** Charges an abnormal end and waits out the back-off. False when this was the last one. */
  async #recover(error: unknown, link: HostConnection | undefined): Promise<boolean> {
    const { clock, log, metrics, backoff, onAbnormalEnd, onFatal } = this.#deps;
    this.#note(error);
    this.#recycling = false;
    this.#failures += 1;
    // A server that can not be reached is nobody's fault here: the process stays, and the budget too.
    const charged = !isUnreachable(error);
    if (charged && !this.#budget.spend(clock.monotonic())) {
      this.#enter('failed');
      this.#firstRun.reject(error);
      onFatal(this.queue, error);
      return false;
    }
    this.#restarts += 1;
    this.#enter('restarting');
    const waitMs = backoffMs(backoff, this.#failures);
    metrics.count('worker_host.restarts');
    log.warn({ queue: this.queue, restarts: this.#restarts, waitMs, error: messageOf(error) }, 'worker.restarting');
    if (link !== undefined) await onAbnormalEnd(link);
    await clock.sleep(waitMs, this.#stop.signal).catch(() => undefined);
    return true;
  }

  #note(error: unknown): void {
    this.#lastError = messageOf(error);
  }

  #enter(state: QueueState): void {
    this.#state = state;
    this.#sinceMs = this.#deps.clock.now();
  }
}

function partsOf(status: WorkerStatus): QueueParts {
  return {
    workflowPoller: status.workflowPollerState,
    activityPoller: status.activityPollerState,
    workflowTasksInFlight: status.numInFlightWorkflowActivations,
    activitiesInFlight: status.numInFlightActivities,
    workflowsCached: status.numCachedWorkflows,
  };
}

function isFinal(state: QueueState): boolean {
  return state === 'stopped' || state === 'ended' || state === 'failed';
}

/** `shutdown` of a worker that has already ended throws; that it has ended is all that was wanted. */
function shutdownQuietly(worker: HostedWorker): void {
  try {
    worker.shutdown();
  } catch (error) {
    if ((error as Error | null)?.name !== 'IllegalStateError') throw error;
  }
}

async function waitUntil(clock: Clock, ms: number, everyMs: number, holds: () => boolean): Promise<void> {
  const until = clock.monotonic() + ms;
  while (!holds() && clock.monotonic() < until) await clock.sleep(everyMs);
}
