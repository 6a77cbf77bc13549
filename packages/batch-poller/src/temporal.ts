/** The five steps as Temporal activities: the only file of the steps' side that knows Temporal. */
import type { BatchPollerInput } from '@milkrun/core';
import { ApplicationFailure, Context } from '@temporalio/activity';
import type { CommitStepInput } from './activities/commit.ts';
import type { BatchDeps } from './deps.ts';
import { Draining, type StepContext, type StepResult } from './step.ts';
import { BATCH_STEPS } from './steps.ts';

export interface BatchActivities {
  claimAndSnapshot(input: BatchPollerInput): Promise<StepResult>;
  fetchAuth(input: BatchPollerInput): Promise<StepResult>;
  poll(input: BatchPollerInput): Promise<StepResult>;
  broadcast(input: BatchPollerInput): Promise<StepResult>;
  commit(input: CommitStepInput): Promise<StepResult>;
}

type Step<Input> = (deps: BatchDeps, input: Input, context: StepContext) => Promise<StepResult>;

/** Binds the steps to their ports. A drain is retried at once elsewhere; it is no failure worth an alarm. */
export function createBatchActivities(deps: BatchDeps): BatchActivities {
  const bind =
    <Input>(step: Step<Input>) =>
    async (input: Input): Promise<StepResult> => {
      const context = Context.current();
      try {
        return await step(deps, input, {
          attempt: context.info.attempt,
          signal: context.cancellationSignal,
          heartbeat: (details) => context.heartbeat(details),
        });
      } catch (error) {
        if (!(error instanceof Draining)) throw error;
        throw ApplicationFailure.create({
          type: 'Draining',
          message: error.message,
          nextRetryDelay: 1,
          category: 'BENIGN',
          cause: error,
        });
      }
    };
  return {
    claimAndSnapshot: bind(BATCH_STEPS.claimAndSnapshot),
    fetchAuth: bind(BATCH_STEPS.fetchAuth),
    poll: bind(BATCH_STEPS.poll),
    broadcast: bind(BATCH_STEPS.broadcast),
    commit: bind(BATCH_STEPS.commit),
  };
}
