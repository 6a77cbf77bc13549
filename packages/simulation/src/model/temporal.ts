/**
 * Temporal as the engine knows it: batches by id that run once for ever, steps with attempts, time-outs and heartbeats, a
 * timer shard that ticks. What comes after what is decided by the engine's own `runHop` and pacing.
 *
 * An attempt that timed out here may still be running in its process: the next one then overlaps it. Its answer, when it
 * comes, is of no use to anybody, as on a real server.
 */
import { type HopSteps, runHop, type StepResult, stepOptions } from '@milkrun/batch-poller';
import type { BatchPollerInput } from '@milkrun/core';
import { armGapMs, pauseMs, type TickOutcome } from '@milkrun/dispatch';
import { type Process, type Surroundings, Unreached } from '../process.ts';
import type { Timer } from '../world.ts';

export type StepName = keyof HopSteps | 'tick';

export interface Attempt {
  readonly attempt: number;
  readonly signal: AbortSignal;
  heartbeat(): void;
}

/** A process that takes tasks. */
export interface Poller {
  readonly process: Process;
  accepts(): boolean;
  run(step: StepName, input: unknown, attempt: Attempt): Promise<unknown>;
  /** Milliseconds until the next attempt when this error asks for one at once; undefined: as the policy says. */
  retryDelayMs(error: unknown): number | undefined;
}

export class AlreadyStarted extends Error {
  override readonly name = 'AlreadyStarted';
}

class Cancelled extends Error {
  override readonly name = 'Cancelled';
}

interface Options {
  readonly startToCloseTimeout: number;
  readonly scheduleToCloseTimeout: number;
  readonly heartbeatTimeout: number;
  readonly retry: {
    readonly initialInterval: number;
    readonly backoffCoefficient: number;
    readonly maximumInterval: number;
  };
}

interface Task {
  readonly step: StepName;
  readonly input: unknown;
  readonly label: string;
  readonly options: Options;
  readonly deadline: number;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
  attempt: number;
  /** The attempt that may still answer; 0: none. */
  current: number;
  beatAt: number;
  isOver: boolean;
  isCancelled: boolean;
}

interface Batch {
  readonly batchId: string;
  isCancelled: boolean;
  isOver: boolean;
  /** Work the cancellation does not reach is being scheduled. */
  isShielded: boolean;
  readonly tasks: Set<Task>;
}

interface Shard {
  isArmed: boolean;
  wake: (() => void) | undefined;
}

export interface TemporalWatch {
  hop(batchId: string, hop: number): void;
  over(batchId: string, status: string): void;
}

const TICK_OPTIONS: Options = {
  startToCloseTimeout: 60_000,
  scheduleToCloseTimeout: Number.POSITIVE_INFINITY,
  heartbeatTimeout: Number.POSITIVE_INFINITY,
  retry: { initialInterval: 1_000, backoffCoefficient: 2, maximumInterval: 10_000 },
};
const NO_WORKER_MS = 1_000;

export class ModelTemporal {
  readonly pollers = new Set<Poller>();
  private readonly around: Surroundings;
  private readonly watch: TemporalWatch;
  private readonly batches = new Map<string, Batch>();
  private readonly shards = new Map<number, Shard>();
  private awayUntil = 0;

  constructor(around: Surroundings, watch: TemporalWatch) {
    this.around = around;
    this.watch = watch;
  }

  /** Nobody is answered, and nothing here goes on, for so long. */
  goAway(ms: number): void {
    this.awayUntil = Math.max(this.awayUntil, this.around.world.time + ms);
    this.around.world.trace(`temporal is away for ${Math.round(ms)} ms`);
  }

  running(): string[] {
    return [...this.batches.values()].filter(({ isOver }) => !isOver).map(({ batchId }) => batchId);
  }

  /** One that runs is used as it is. Throws AlreadyStarted for an id that has run, unless its starter says it may again. */
  start(input: BatchPollerInput, mayRunAgain: boolean): void {
    this.reach();
    const there = this.batches.get(input.batchId);
    if (there?.isOver === true && !mayRunAgain) throw new AlreadyStarted(input.batchId);
    if (there?.isOver === false) return;
    const batch: Batch = {
      batchId: input.batchId,
      isCancelled: false,
      isOver: false,
      isShielded: false,
      tasks: new Set(),
    };
    this.batches.set(input.batchId, batch);
    this.later(1, 20, () => void this.runBatch(batch, input));
  }

  cancel(batchId: string): void {
    const batch = this.batches.get(batchId);
    if (batch === undefined || batch.isOver || batch.isCancelled) return;
    this.around.world.trace(`cancel ${batchId}`);
    batch.isCancelled = true;
    for (const task of batch.tasks) {
      task.isCancelled = true;
      this.finish(task, () => task.reject(new Cancelled('the batch was cancelled')));
    }
  }

  terminate(batchId: string): void {
    const batch = this.batches.get(batchId);
    if (batch === undefined) return;
    batch.isOver = true;
    for (const task of batch.tasks) task.isOver = true;
  }

  arm(timerShard: number): void {
    this.reach();
    const shard = this.shards.get(timerShard);
    if (shard !== undefined) {
      shard.isArmed = true;
      shard.wake?.();
      return;
    }
    const made: Shard = { isArmed: true, wake: undefined };
    this.shards.set(timerShard, made);
    this.later(1, 20, () => void this.runShard(timerShard, made));
  }

  private reach(): void {
    if (this.awayUntil > this.around.world.time) throw new Unreached('temporal is away');
  }

  /** Something the server does by itself; not while it is away. */
  private later(fromMs: number, toMs: number, run: () => void): Timer {
    const { world, random } = this.around;
    let cancelled = false;
    const moment = (): void => {
      if (cancelled) return;
      if (this.awayUntil > world.time) {
        world.after(this.awayUntil - world.time + random.between(1, 50), moment);
        return;
      }
      world.touched();
      run();
    };
    world.after(fromMs === toMs ? fromMs : random.between(fromMs, toMs), moment);
    return {
      cancel: () => {
        cancelled = true;
      },
    };
  }

  private async runBatch(batch: Batch, first: BatchPollerInput): Promise<void> {
    let input = first;
    for (;;) {
      this.watch.hop(batch.batchId, input.retryCounter);
      let status: string;
      try {
        const end = await runHop(input, this.stepsOf(batch, input), {
          isCancellation: (error) => error instanceof Cancelled,
          uncancelled: (work) => {
            batch.isShielded = true;
            try {
              return work();
            } finally {
              batch.isShielded = false;
            }
          },
          warn: (message, fields) => this.around.world.trace(`${batch.batchId} ${message}: ${String(fields.error)}`),
        });
        if (end.kind === 'next') {
          await new Promise<void>((resolve) => {
            this.later(end.backoffSeconds * 1000, end.backoffSeconds * 1000, resolve);
          });
          if (batch.isOver) return;
          input = end.input;
          continue;
        }
        status = end.result.status;
      } catch (error) {
        status = `failed: ${String(error)}`;
      }
      batch.isOver = true;
      this.around.world.trace(`${batch.batchId} is over: ${status}`);
      this.watch.over(batch.batchId, status);
      return;
    }
  }

  private stepsOf(batch: Batch, { retryCounter, ...rest }: BatchPollerInput): HopSteps {
    const options = stepOptions({ retryCounter, ...rest });
    const step =
      (name: keyof HopSteps) =>
      (input: BatchPollerInput): Promise<StepResult> => {
        if (batch.isCancelled && !batch.isShielded) return Promise.reject(new Cancelled('the batch was cancelled'));
        const own = batch.isShielded ? undefined : batch;
        const label = `${batch.batchId} hop ${retryCounter} ${name}`;
        return this.schedule(name, input, label, options[name], own) as Promise<StepResult>;
      };
    return {
      claimAndSnapshot: step('claimAndSnapshot'),
      fetchAuth: step('fetchAuth'),
      poll: step('poll'),
      broadcast: step('broadcast'),
      commit: step('commit'),
    };
  }

  private async runShard(timerShard: number, shard: Shard): Promise<void> {
    const { world } = this.around;
    for (;;) {
      shard.isArmed = false;
      const tickedAt = world.time;
      const outcome = (await this.schedule('tick', { timerShard }, `tick ${timerShard}`, TICK_OPTIONS)) as TickOutcome;
      const rest = pauseMs(outcome) - (world.time - tickedAt);
      if (rest > 0 && !shard.isArmed) {
        await new Promise<void>((resolve) => {
          const timer = this.later(rest, rest, resolve);
          shard.wake = () => {
            timer.cancel();
            world.touched();
            resolve();
          };
        });
        shard.wake = undefined;
      }
      const gap = armGapMs(outcome) - (world.time - tickedAt);
      if (gap > 0) await new Promise<void>((resolve) => void this.later(gap, gap, resolve));
    }
  }

  private schedule(step: StepName, input: unknown, label: string, options: Options, batch?: Batch): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const task: Task = {
        step,
        input,
        label,
        options,
        deadline: this.around.world.time + options.scheduleToCloseTimeout,
        resolve,
        reject,
        attempt: 0,
        current: 0,
        beatAt: 0,
        isOver: false,
        isCancelled: false,
      };
      batch?.tasks.add(task);
      this.later(1, 15, () => this.begin(task));
    });
  }

  private finish(task: Task, end: () => void): void {
    if (task.isOver) return;
    task.isOver = true;
    task.current = 0;
    this.later(1, 15, end);
  }

  private begin(task: Task): void {
    if (task.isOver) return;
    const { world, random } = this.around;
    if (world.time >= task.deadline) {
      this.finish(task, () => task.reject(new Error('schedule-to-close time-out')));
      return;
    }
    const ready = [...this.pollers].filter(({ process, accepts }) => !process.isDead && !process.isPaused && accepts());
    const poller = ready.length === 0 ? undefined : random.pick(ready);
    if (poller === undefined) {
      this.later(NO_WORKER_MS / 2, NO_WORKER_MS, () => this.begin(task));
      return;
    }
    task.attempt += 1;
    const { attempt } = task;
    task.current = attempt;
    task.beatAt = world.time;
    this.later(task.options.startToCloseTimeout, task.options.startToCloseTimeout, () =>
      this.timedOut(task, attempt, 'start-to-close'),
    );
    this.watchHeart(task, attempt);
    this.runOn(poller, task, attempt);
  }

  private watchHeart(task: Task, attempt: number): void {
    const { heartbeatTimeout } = task.options;
    if (heartbeatTimeout === Number.POSITIVE_INFINITY) return;
    const { world } = this.around;
    const rest = task.beatAt + heartbeatTimeout - world.time;
    this.later(rest, rest, () => {
      if (task.isOver || task.current !== attempt) return;
      // A millisecond's grace: a sum of fractions may fall short of itself.
      if (world.time - task.beatAt >= heartbeatTimeout - 1) this.timedOut(task, attempt, 'heartbeat');
      else this.watchHeart(task, attempt);
    });
  }

  private runOn(poller: Poller, task: Task, attempt: number): void {
    const { process } = poller;
    const { world } = this.around;
    const abort = new AbortController();
    const report = (print: string, effect: () => void): void => {
      process
        .call({
          site: 'temporal.report',
          detail: `${task.label} attempt ${attempt} ${print}`,
          faults: ['fail_before', 'fail_after', 'delay'],
          effect: () => {
            this.reach();
            effect();
          },
        })
        .catch(() => undefined);
    };
    const heartbeat = (): void => {
      process
        .call({
          site: 'temporal.heartbeat',
          detail: task.label,
          faults: ['fail_before', 'fail_after', 'delay'],
          effect: (): boolean => {
            this.reach();
            if (task.isOver || task.current !== attempt) return false;
            task.beatAt = world.time;
            return true;
          },
        })
        .then(
          (isWanted) => {
            if (!isWanted) abort.abort(new Cancelled('nobody waits for this attempt any more'));
          },
          () => undefined,
        );
    };
    process.later(this.around.random.between(1, 10), () => {
      world.trace(`${process.name} runs ${task.label} attempt ${attempt}`);
      poller.run(task.step, task.input, { attempt, signal: abort.signal, heartbeat }).then(
        (result) => report(JSON.stringify(result), () => this.done(task, attempt, result)),
        (error: unknown) => report(String(error), () => this.failed(task, attempt, error, poller.retryDelayMs(error))),
      );
    });
  }

  private done(task: Task, attempt: number, result: unknown): void {
    if (!task.isOver && task.current === attempt) this.finish(task, () => task.resolve(result));
  }

  private timedOut(task: Task, attempt: number, what: string): void {
    if (task.isOver || task.current !== attempt) return;
    this.around.world.trace(`${task.label} attempt ${attempt}: ${what} time-out`);
    this.failed(task, attempt, new Error(`${what} time-out`), undefined);
  }

  private failed(task: Task, attempt: number, error: unknown, askedMs: number | undefined): void {
    if (task.isOver || task.current !== attempt) return;
    task.current = 0;
    const { initialInterval, backoffCoefficient, maximumInterval } = task.options.retry;
    const delay = askedMs ?? Math.min(maximumInterval, initialInterval * backoffCoefficient ** (attempt - 1));
    if (this.around.world.time + delay >= task.deadline) this.finish(task, () => task.reject(error));
    else this.later(delay, delay, () => this.begin(task));
  }
}
