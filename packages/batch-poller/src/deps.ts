/** What the five steps are built from: ports and limits, nothing else. */
import type { BatchStore, Clock, ControlPlane, Log, Metrics, PollRunner, Rng, TimerManager } from '@milkrun/core';
import type { PollSlots } from './poll-slots.ts';
import type { Snapshots } from './snapshot/snapshot.ts';
import type { SourceHolds } from './source-holds.ts';

export interface BatchLimits {
  readonly pollDeadlineMs: number;
  readonly eventsMax: number;
  readonly pagesMax: number;
  readonly claimBytesMax: number;
  readonly broadcastLanes: number;
  readonly chunkEventsMax: number;
  readonly chunkBytesMax: number;
}

export const DEFAULT_LIMITS: BatchLimits = Object.freeze({
  pollDeadlineMs: 30_000,
  eventsMax: 500,
  pagesMax: 20,
  claimBytesMax: 8 * 1024 * 1024,
  broadcastLanes: 8,
  chunkEventsMax: 500,
  chunkBytesMax: 1024 * 1024,
});

export interface BatchDeps {
  readonly store: BatchStore;
  readonly snapshots: Snapshots;
  readonly controlPlane: ControlPlane;
  readonly runner: PollRunner;
  readonly timers: TimerManager;
  /** What this process knows of limited connections; absent: claim alone keeps them from being polled. */
  readonly holds?: SourceHolds;
  /** The slots of the whole process: shared by all poll steps. */
  readonly slots: PollSlots;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly limits: BatchLimits;
  /** Whether the object store's breaker is closed. */
  readonly storeAvailable: () => boolean;
  /** Aborts when the process drains. */
  readonly draining: AbortSignal;
  /** Whether no other worker is live: then a draining step returns early instead of handing over. */
  readonly alone: () => Promise<boolean>;
}

/** What one poll needs of them. */
export type PollDeps = Pick<BatchDeps, 'runner' | 'slots' | 'holds' | 'clock' | 'metrics' | 'limits'>;
/** What sending needs of them. */
export type DeliverDeps = Pick<BatchDeps, 'controlPlane' | 'metrics' | 'log' | 'limits'>;
