/**
 * What every step has around it: the lease and the fence at its start, the lease extended every quarter of its TTL while
 * it runs, heartbeats of counters only, and an end that is known (ended batch, drain, cancellation).
 */
import type { BatchCheck, BatchPollerInput, BatchStep, Clock } from '@milkrun/core';
import type { BatchDeps } from './deps.ts';
import { holdUndelivered } from './hold-undelivered.ts';
import { LeaseLost } from './lease-lost.ts';

/** One try of one step, as Temporal (or a simulation) runs it. */
export interface StepContext {
  readonly attempt: number;
  /** Aborts on cancellation or a lost heartbeat. */
  readonly signal: AbortSignal;
  heartbeat(details: unknown): void;
}

/** `ended`: the batch is over, nothing may be written. `draining`: the process stops and nobody can take over. */
type StepStatus = 'ok' | 'ended' | 'draining';

export interface StepResult {
  readonly status: StepStatus;
  /** Entries this step moved forward. */
  readonly done: number;
  /** Entries left for a later step or hop. */
  readonly left: number;
  /** Seconds the next hop should wait at the least. */
  readonly askedSeconds?: number;
}

/** The process stops and another worker is there: the attempt fails and is retried at once elsewhere. */
export class Draining extends Error {
  override readonly name = 'Draining';
}

/** A draining step's end: another worker takes the attempt over, or, with none there, the step returns early. */
export async function handOver(deps: BatchDeps, result: Omit<StepResult, 'status'>): Promise<StepResult> {
  if (!(await deps.alone())) throw new Draining(`worker drains, ${result.left} entries are left`);
  return { status: 'draining', ...result };
}

export interface RunningStep {
  readonly input: BatchPollerInput;
  readonly context: StepContext;
  /** Aborts on cancellation, a lost lease, or the end of the step. */
  readonly signal: AbortSignal;
  /** Milliseconds of the monotonic clock after which nothing new is started. */
  readonly budgetEnd: number;
  /** Triggers taken from the batch so far; grows while the step runs. */
  readonly fenced: Map<string, { readonly deleted: boolean }>;
  /** The mass-410 brake as last read. */
  brake: boolean;
  /** Entries without a result, written with the next extension; undefined until the step has counted them. */
  open: number | undefined;
  /** The database's clock, as last heard and carried on: milliseconds since the epoch, the same for every worker. */
  now(): number;
  /** Reads the fence again. Throws LeaseLost when the batch is over. */
  check(): Promise<void>;
  /** Whether something new may be started for a trigger: not once it is known to be fenced, nor when that was long not asked. */
  mayStart(triggerId: string): boolean | Promise<boolean>;
}

/** A poll starts no later than this after what it was fenced by (S10); a process may have stood still since its last look. */
const FENCE_AGE_MS_MAX = 10_000;

interface StepFrame {
  readonly step: BatchStep;
  readonly budgetMs: number;
  /** False where the step itself may end the batch: there is nothing to extend after it. */
  readonly extendAtEnd?: boolean;
  readonly input: BatchPollerInput;
  readonly context: StepContext;
}

function linkedSignal(signals: readonly AbortSignal[]): AbortController {
  const controller = new AbortController();
  for (const signal of signals) {
    if (signal.aborted) controller.abort(signal.reason);
    else
      signal.addEventListener('abort', () => controller.abort(signal.reason), {
        once: true,
        signal: controller.signal,
      });
  }
  return controller;
}

async function every(clock: Clock, ms: number, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    try {
      await clock.sleep(ms, signal);
    } catch {
      return;
    }
    await work();
  }
}

const HOLD_TRIES = 5;

/** Tried a few times here: who lost a lease to a cancellation has no next attempt that would. */
async function hold(deps: BatchDeps, input: BatchPollerInput): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      await holdUndelivered(deps, input);
      return;
    } catch (error) {
      if (tries === HOLD_TRIES) throw error;
      await deps.clock.sleep(1000 * 2 ** (tries - 1));
    }
  }
}

/** For a failed attempt that may be the last, since nobody waits for it: what it could not do is told to the log alone. */
async function holdForsaken(deps: BatchDeps, input: BatchPollerInput, isCancelled: boolean): Promise<void> {
  try {
    // One whose commit is still to come reads what was saved.
    const state = await deps.store.check(input.batchId).catch(() => undefined);
    const isOver = state === undefined ? isCancelled : !state.live || state.committing === true;
    if (isOver) await hold(deps, input);
  } catch (error) {
    deps.log.error({ batchId: input.batchId, error: String(error) }, 'batch.events_not_held');
  }
}

/** Runs `work` inside a step's frame. Answers `ended` instead of throwing when the batch is over. */
export async function runStep(
  deps: BatchDeps,
  frame: StepFrame,
  work: (running: RunningStep) => Promise<StepResult>,
): Promise<StepResult> {
  const { input, context, step } = frame;
  const started = deps.clock.monotonic();
  const end = linkedSignal([context.signal]);
  const fenced = new Map<string, { readonly deleted: boolean }>();
  let heard = { nowMs: 0, at: 0 };
  /** When the last answered look at the fence was asked for. */
  let lookedAt = Number.NEGATIVE_INFINITY;
  let looking: Promise<boolean> | undefined;
  const ask = async (call: () => Promise<BatchCheck>): Promise<BatchCheck> => {
    const askedAt = deps.clock.monotonic();
    const check = learn(await call());
    lookedAt = Math.max(lookedAt, askedAt);
    return check;
  };
  const learn = (check: BatchCheck): BatchCheck => {
    heard = { nowMs: check.nowMs, at: deps.clock.monotonic() };
    for (const row of check.fenced) fenced.set(row.triggerId, { deleted: row.deleted });
    running.brake = check.brake;
    if (!check.live) {
      const lost = new LeaseLost(input.batchId);
      end.abort(lost);
      throw lost;
    }
    return check;
  };
  const extend = async (): Promise<BatchCheck> =>
    ask(() =>
      deps.store.extend({
        batchId: input.batchId,
        leaseSeconds: input.policy.leaseSeconds,
        hop: input.retryCounter,
        step,
        open: running.open ?? null,
      }),
    );
  const running: RunningStep = {
    input,
    context,
    signal: end.signal,
    budgetEnd: started + frame.budgetMs,
    fenced,
    brake: false,
    open: undefined,
    now: () => heard.nowMs + deps.clock.monotonic() - heard.at,
    check: async () => void (await ask(() => deps.store.check(input.batchId))),
    mayStart(triggerId) {
      if (fenced.has(triggerId)) return false;
      if (deps.clock.monotonic() - lookedAt <= FENCE_AGE_MS_MAX) return true;
      // One look for all that wait for it. Without an answer nothing is started: the entry stays for the next hop.
      looking ??= running
        .check()
        .then(
          () => true,
          () => false,
        )
        .finally(() => {
          looking = undefined;
        });
      return looking.then((answered) => answered && !fenced.has(triggerId));
    },
  };
  const quarter = (input.policy.leaseSeconds * 1000) / 4;
  try {
    await extend();
    const keepAlive = every(deps.clock, quarter, end.signal, async () => {
      context.heartbeat({ step, open: running.open });
      // A lost connection is not a lost lease: the next extension, or its expiry, decides.
      await extend().catch((error: unknown) => {
        if (!(error instanceof LeaseLost))
          deps.log.warn({ batchId: input.batchId, step, error: String(error) }, 'lease.extend_failed');
      });
    });
    let result: StepResult;
    try {
      result = await work(running);
      // Places are free as soon as polls have results: the next batch is claimed while this one is told and committed.
      if (frame.extendAtEnd !== false && (await extend()).waiting === true) await deps.timers.arm(input.timerShard);
    } finally {
      end.abort(new Error('the step is over'));
      await keepAlive;
    }
    const outcome = result.status === 'draining' ? 'draining' : 'completed';
    deps.metrics.observe('polling.step.duration', (deps.clock.monotonic() - started) / 1000, { step, outcome });
    for (const [how, entries] of [
      ['done', result.done],
      ['left', result.left],
      ['fenced', fenced.size],
    ] as const) {
      if (entries > 0) deps.metrics.count('polling.step.entries', entries, { step, outcome: how });
    }
    deps.log.info(
      {
        batchId: input.batchId,
        step,
        hop: input.retryCounter,
        attempt: context.attempt,
        ...result,
        fenced: fenced.size,
        ms: Math.round(deps.clock.monotonic() - started),
      },
      'step.completed',
    );
    return result;
  } catch (error) {
    if (error instanceof LeaseLost || (end.signal.reason instanceof LeaseLost && !context.signal.aborted)) {
      // Saved by this batch and told by none: of a source that cannot be asked again nobody else would know. A failure of
      // this is the step's: its next attempt, if there is one, finds the batch over and tries again.
      await hold(deps, input);
      deps.metrics.count('polling.batch.finished', 1, { outcome: 'lease_lost' });
      // Nobody polls for this batch any more: its credentials go with it.
      await deps.snapshots.deleteAuth(input.batchId).catch((failure: unknown) => {
        deps.log.warn({ batchId: input.batchId, step, error: String(failure) }, 'auth.delete_failed');
      });
      return { status: 'ended', done: 0, left: 0 };
    }
    // Its batch may have been cancelled, and committed without what it saved last; then nobody tries it again.
    if (step === 'poll') await holdForsaken(deps, input, context.signal.aborted);
    throw error;
  }
}
