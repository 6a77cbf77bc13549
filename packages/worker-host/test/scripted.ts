/** A connection and workers whose ends a test decides; for what a real server does not do on command. */
import type { Clock } from '@milkrun/core';
import type { NativeConnection, WorkerOptions, WorkerStatus } from '@temporalio/worker';
import type { HostConnection, HostedWorker } from '../src/index.ts';

export class ScriptedWorker implements HostedWorker {
  readonly options: WorkerOptions;
  state: WorkerStatus['runState'] = 'INITIALIZED';
  readonly #ran = Promise.withResolvers<void>();

  constructor(options: WorkerOptions) {
    this.options = options;
  }

  run(): Promise<void> {
    this.state = 'RUNNING';
    return this.#ran.promise;
  }

  shutdown(): void {
    if (this.state !== 'RUNNING') throw Object.assign(new Error('Not running'), { name: 'IllegalStateError' });
    this.end();
  }

  /** A normal end. */
  end(): void {
    this.state = 'STOPPED';
    this.#ran.resolve();
  }

  /** An abnormal end whose promise rejects. */
  fail(message: string): void {
    this.state = 'FAILED';
    this.#ran.reject(new Error(message));
  }

  /** What the SDK does after a fatal poll error: FAILED, and `run()` stays pending. */
  hang(): void {
    this.state = 'FAILED';
  }

  getState(): WorkerStatus['runState'] {
    return this.state;
  }

  getStatus(): WorkerStatus {
    return {
      runState: this.state,
      workflowPollerState: 'SHUTDOWN',
      activityPollerState: this.state === 'RUNNING' ? 'POLLING' : 'SHUTDOWN',
      hasOutstandingWorkflowPoll: false,
      hasOutstandingActivityPoll: this.state === 'RUNNING',
      numInFlightWorkflowActivations: 0,
      numInFlightActivities: 0,
      numInFlightNonLocalActivities: 0,
      numInFlightLocalActivities: 0,
      numCachedWorkflows: 0,
      numHeartbeatingActivities: 0,
    };
  }
}

export class ScriptedConnection implements HostConnection {
  readonly native = {} as NativeConnection;
  answer: 'answered' | 'refused' | 'unanswered' = 'answered';
  isClosed = false;

  async probe(): Promise<void> {
    if (this.answer === 'refused') throw Object.assign(new Error('7 PERMISSION_DENIED'), { code: 7 });
    if (this.answer === 'unanswered') throw Object.assign(new Error('14 UNAVAILABLE'), { code: 14 });
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }
}

/** Time that passes as fast as it is asked for, each sleep in its turn; counts what was slept. */
export function quickClock(): Clock & { readonly slept: number[] } {
  let nowMs = 0;
  const slept: number[] = [];
  return {
    slept,
    now: () => nowMs,
    monotonic: () => nowMs,
    async sleep(ms, signal) {
      signal?.throwIfAborted();
      await new Promise((resolve) => setImmediate(resolve));
      signal?.throwIfAborted();
      nowMs += ms;
      slept.push(ms);
    },
  };
}
