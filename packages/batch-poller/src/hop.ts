/**
 * One hop of a batch, decided without Temporal: which step comes next, what a failed one leads to, when the commit is
 * forced, how long the next hop waits. The workflow runs it on a server, the simulation under a seed; both run this.
 * Free of Node: it becomes part of the workflow's bundle.
 */
import {
  type BatchPollerInput,
  hopBackoffSeconds,
  isForced,
  QUEUES,
  STEP_BUDGET_SECONDS,
} from '@milkrun/core/workflow';
import type { CommitStepInput } from './activities/commit.ts';
import type { StepResult } from './step.ts';

export interface BatchPollerResult {
  readonly status: 'committed' | 'ended' | 'forced';
  readonly hops: number;
}

export type HopEnd =
  | { readonly kind: 'over'; readonly result: BatchPollerResult }
  /** The successor's input, and how long it waits before it begins. */
  | { readonly kind: 'next'; readonly input: BatchPollerInput; readonly backoffSeconds: number };

/** The five steps, each with its own retries around it: rejects only when it failed for good or was cancelled. */
export interface HopSteps {
  claimAndSnapshot(input: BatchPollerInput): Promise<StepResult>;
  fetchAuth(input: BatchPollerInput): Promise<StepResult>;
  poll(input: BatchPollerInput): Promise<StepResult>;
  broadcast(input: BatchPollerInput): Promise<StepResult>;
  commit(input: CommitStepInput): Promise<StepResult>;
}

/** What a hop needs of whoever runs it. */
export interface HopHost {
  isCancellation(error: unknown): boolean;
  /** Runs work that a cancellation of the batch does not reach. */
  uncancelled<T>(work: () => Promise<T>): Promise<T>;
  warn(message: string, fields: Readonly<Record<string, unknown>>): void;
}

/** How a step is scheduled; times in milliseconds. */
export interface StepOptions {
  readonly taskQueue: string;
  readonly startToCloseTimeout: number;
  readonly scheduleToCloseTimeout: number;
  readonly heartbeatTimeout: number;
  readonly retry: {
    readonly initialInterval: number;
    readonly backoffCoefficient: number;
    readonly maximumInterval: number;
  };
}

/** A budget for what is started, one poll deadline for what is then in flight, and room to save. */
const TAIL_SECONDS = 45;

function optionsOf(budgetSeconds: number, heartbeatSeconds: number, taskQueue: string): StepOptions {
  return {
    taskQueue,
    startToCloseTimeout: (budgetSeconds + TAIL_SECONDS) * 1000,
    // Attempts within three budgets; a lost worker or a drain costs an attempt, never a hop.
    scheduleToCloseTimeout: (budgetSeconds * 3 + TAIL_SECONDS) * 1000,
    heartbeatTimeout: heartbeatSeconds * 1000,
    retry: { initialInterval: 1000, backoffCoefficient: 2, maximumInterval: 10_000 },
  };
}

/** Options of each step, by the name under which it is scheduled. */
export function stepOptions({ policy }: BatchPollerInput): Readonly<Record<keyof HopSteps, StepOptions>> {
  const heartbeat = policy.leaseSeconds / 2;
  return {
    claimAndSnapshot: optionsOf(STEP_BUDGET_SECONDS.claim, heartbeat, QUEUES.batchPoller),
    fetchAuth: optionsOf(STEP_BUDGET_SECONDS.auth, heartbeat, QUEUES.batchPoller),
    poll: optionsOf(STEP_BUDGET_SECONDS.poll, heartbeat, QUEUES.poll),
    broadcast: optionsOf(STEP_BUDGET_SECONDS.broadcast, heartbeat, QUEUES.batchPoller),
    commit: optionsOf(STEP_BUDGET_SECONDS.commit, heartbeat, QUEUES.batchPoller),
  };
}

/** Throws only when a forced commit failed for good: the lease then expires, and its rows are due again. */
export async function runHop(input: BatchPollerInput, steps: HopSteps, host: HopHost): Promise<HopEnd> {
  const over = (status: BatchPollerResult['status']): HopEnd => ({
    kind: 'over',
    result: { status, hops: input.retryCounter },
  });
  let force = isForced(input);
  let askedSeconds = 0;
  try {
    const claimed = await steps.claimAndSnapshot(input);
    if (claimed.status === 'ended') return over('ended');
    for (const run of [() => steps.fetchAuth(input), () => steps.poll(input), () => steps.broadcast(input)]) {
      const result = await run();
      if (result.status === 'ended') return over('ended');
      if (result.status === 'draining') force = true;
      askedSeconds = Math.max(askedSeconds, result.askedSeconds ?? 0);
    }
  } catch (error) {
    force ||= host.isCancellation(error);
    host.warn('a step failed for good', { batchId: input.batchId, hop: input.retryCounter, error: String(error) });
  }
  let left = 1;
  let backoffSeconds = hopBackoffSeconds(input.retryCounter, askedSeconds);
  try {
    // Cancelled or not, a forced commit must run.
    const result = await host.uncancelled(() => steps.commit({ ...input, force, askedSeconds }));
    if (result.status === 'ended') return over('ended');
    left = result.left;
    backoffSeconds = result.askedSeconds ?? backoffSeconds;
  } catch (error) {
    // Nothing more can be done from here: the lease expires, and its rows are due again.
    if (force) throw error;
    host.warn('commit failed for good', { batchId: input.batchId, hop: input.retryCounter, error: String(error) });
  }
  if (force) return over('forced');
  if (left === 0) return over('committed');
  return { kind: 'next', input: { ...input, retryCounter: input.retryCounter + 1 }, backoffSeconds };
}
