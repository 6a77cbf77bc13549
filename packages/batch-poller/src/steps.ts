/** The five steps by the names under which they are scheduled: what a worker and the simulation run, each in its own frame. */
import type { BatchPollerInput } from '@milkrun/core';
import { broadcast } from './activities/broadcast.ts';
import { claimAndSnapshot } from './activities/claim-and-snapshot.ts';
import { type CommitStepInput, commit } from './activities/commit.ts';
import { fetchAuth } from './activities/fetch-auth.ts';
import { poll } from './activities/poll.ts';
import type { BatchDeps } from './deps.ts';
import type { StepContext, StepResult } from './step.ts';

type Step<Input> = (deps: BatchDeps, input: Input, context: StepContext) => Promise<StepResult>;

export interface BatchSteps {
  readonly claimAndSnapshot: Step<BatchPollerInput>;
  readonly fetchAuth: Step<BatchPollerInput>;
  readonly poll: Step<BatchPollerInput>;
  readonly broadcast: Step<BatchPollerInput>;
  readonly commit: Step<CommitStepInput>;
}

export const BATCH_STEPS: BatchSteps = Object.freeze({ claimAndSnapshot, fetchAuth, poll, broadcast, commit });
