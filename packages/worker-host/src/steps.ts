/** What the host sees of each step (a Temporal activity): how it ended, counted, and whether its failure may be retried. */
import type { Metrics } from '@milkrun/core';
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { messageOf } from './connection.ts';

/** `unclassified`: the step's own retry policy decides. */
export type RetryClass = 'retryable' | 'non-retryable' | 'unclassified';

/** The one place where failures of steps are classified; call sites tune how often and how soon, never whether. */
export type RetryClassifier = (error: unknown) => RetryClass;

/** Believes what an ApplicationFailure says of itself and leaves everything else to the retry policy. */
export const classifyFailure: RetryClassifier = (error) => {
  if (!(error instanceof ApplicationFailure)) return 'unclassified';
  return error.nonRetryable ? 'non-retryable' : 'retryable';
};

type Outcome = 'completed' | 'cancelled' | 'benign' | 'failed';

/** An interceptor for every step of a queue. */
export function watchSteps(metrics: Metrics, classify: RetryClassifier): ActivityInterceptorsFactory {
  return () => ({
    inbound: {
      async execute(input, next) {
        let outcome: Outcome = 'completed';
        try {
          return await next(input);
        } catch (error) {
          outcome = outcomeOf(error);
          throw outcome === 'cancelled' ? error : asClassified(error, classify(error));
        } finally {
          metrics.count('worker_host.steps', 1, { outcome });
        }
      },
    },
  });
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof CancelledFailure) return 'cancelled';
  // Expected ends, such as the hand-over of a draining worker, are no failure worth an alarm.
  return error instanceof ApplicationFailure && error.category === 'BENIGN' ? 'benign' : 'failed';
}

/** The failure in the form that makes the server keep to the class; unchanged where it says so itself or nothing was said. */
function asClassified(error: unknown, retry: RetryClass): unknown {
  if (retry === 'unclassified' || classifyFailure(error) === retry) return error;
  const given = error instanceof ApplicationFailure ? error : undefined;
  return ApplicationFailure.create({
    message: messageOf(error),
    type: given?.type ?? (error instanceof Error ? error.name : 'Error'),
    nonRetryable: retry === 'non-retryable',
    ...(given?.nextRetryDelay === undefined || given.nextRetryDelay === null
      ? {}
      : { nextRetryDelay: given.nextRetryDelay }),
    ...(error instanceof Error ? { cause: error } : {}),
  });
}
