/**
 * Everything the engine does to the world goes through one of these. A drill may stand between them and the engine (`wrap`
 * of `startWorker`), and only one that starts the worker itself: no setting and no environment variable does it, and
 * without it the ports are handed on as they are.
 */
import type { BatchActivities } from '@milkrun/batch-poller';
import type { ControlPlane, TimerManager } from '@milkrun/core';
import type { TemporalClient, TickActivities } from '@milkrun/dispatch';
import type { OpenedObjectStore } from '@milkrun/object-store';
import type { LambdaPollRunner } from '@milkrun/poll-runner';
import type { WorkerDb } from '@milkrun/workerdb';

export interface WorkerPorts {
  /** Every statement on workerdb. */
  readonly store: WorkerDb;
  readonly objects: OpenedObjectStore;
  readonly controlPlane: ControlPlane;
  readonly runner: LambdaPollRunner;
  /** Signals and starts of workflows. */
  readonly temporal: TemporalClient;
  /** Arms after a commit, a feed page, a verb, and at start. */
  readonly commitTimers: TimerManager;
  readonly feedTimers: TimerManager;
  readonly verbTimers: TimerManager;
  readonly startTimers: TimerManager;
  /** The steps as Temporal calls them: before one begins, and after its end before Temporal is told. */
  readonly steps: BatchActivities;
  readonly ticks: TickActivities;
}

export type WrapPort = <Name extends keyof WorkerPorts>(name: Name, port: WorkerPorts[Name]) => WorkerPorts[Name];
