/** DispatchStore: what the tick, the feed reader and the liveness loop ask of workerdb. */
import type { FeedChange, LifecycleRecord } from './control-plane.ts';

export interface PlannedBatch {
  readonly batchId: string;
  readonly keys: number;
}

export interface TickInput {
  readonly timerShard: number;
  readonly batchSize: number;
  /** Fresh batch ids, in order; as many batches are planned at the most. */
  readonly batchIds: readonly string[];
  /** False while a breaker is open: nothing is planned, the next wake is still recorded. */
  readonly dispatch: boolean;
  /**
   * Batches whose keys a scan may rank beyond the places there are, for the ticks of the next 5 s to take without a scan of
   * their own; 0 by default. What falls due meanwhile is ranked by the next scan.
   */
  readonly batchesAhead?: number;
}

export interface TickResult {
  readonly planned: readonly PlannedBatch[];
  /** Batches planned earlier and not claimed yet, younger than 60 s: started again (USE_EXISTING makes it harmless). */
  readonly unclaimed: readonly string[];
  readonly due: number;
  /** Due rows left behind for want of places. */
  readonly left: number;
  /** Milliseconds from the database's now to the next wake, 0 when due rows were left. */
  readonly wakeInMs: number;
  readonly oldestDueSeconds: number;
  readonly backoffMs: number;
  /** The timer shard is no more: re-sharding gave its rows to others. */
  readonly gone?: boolean;
}

export interface FeedPageInput {
  /** The cursor the page was read from: compare-and-set. Null at the beginning; `push` skips the cursor. */
  readonly after: string | null;
  readonly next: string;
  readonly changes: readonly FeedChange[];
  readonly source: 'pull' | 'push';
}

export interface FeedPageResult {
  /** False: another reader applied it first; re-read the cursor. */
  readonly applied: boolean;
  readonly upserted: number;
  readonly deleted: number;
  readonly fenced: number;
  readonly stale: number;
  /** Triggers whose owner the feed knew better: a hand-off that this workerdb has forgotten. 0 when absent. */
  readonly moved?: number;
  /** Triggers of which the feed said the owner before the last hand-off, and was not believed. 0 when absent. */
  readonly older?: number;
  /** Timer shards whose recorded wake lies behind a due time just written. */
  readonly arm: readonly number[];
}

export interface Violation {
  readonly kind: string;
  readonly triggerId?: string;
  readonly timerShard?: number;
  readonly detail: string;
  /** A recorded hold keeps it from being polled: listed, not counted. */
  readonly held?: boolean;
  /** What a check that repairs did about it; absent when it only looked. */
  readonly done?: string;
}

/** Lists name at most 1,000 of a kind; the counts are whole. */
export interface LivenessReport {
  readonly checked: number;
  readonly polled: number;
  /** Violations under no hold, by kind. */
  readonly open: Readonly<Record<string, number>>;
  readonly violations: readonly Violation[];
  /** Polled triggers without a good poll for three intervals. */
  readonly stale: number;
  readonly staleTriggers: readonly Violation[];
  /** Polled triggers without an event for many of their usual gaps. */
  readonly silent: number;
  readonly silentTriggers: readonly Violation[];
  readonly oldestDueSeconds: number;
  /** Timer shards that have not ticked when they should have, to be started. */
  readonly quietShards: readonly number[];
}

export interface DispatchStore {
  tick(input: TickInput): Promise<TickResult>;
  feedCursor(): Promise<string | null>;
  applyFeedPage(input: FeedPageInput): Promise<FeedPageResult>;
  /** Rows not seen in a full resync are deleted, unless more than max(50, 5 %) would be: then none is. */
  finishResync(input: { readonly token: string; readonly confirmMassDelete: boolean }): Promise<{
    readonly deleted: number;
    readonly refused: number;
  }>;
  beginResync(): Promise<string>;
  /** The token of a full resync that was begun and not finished, by whichever worker; null when there is none. */
  resyncInProgress(): Promise<string | null>;
  heartbeatWorker(input: { readonly workerId: string; readonly width: number }): Promise<{ readonly live: number }>;
  removeWorker(workerId: string): Promise<{ readonly othersLive: number }>;
  timerShards(): Promise<readonly number[]>;
  /** Makes the timer shards when there are none yet; a fleet that has some keeps them. */
  ensureTimerShards(count: number): Promise<void>;
  /** Looks, and changes nothing. */
  liveness(): Promise<LivenessReport>;
  /** Mends what SQL alone can mend of the report, and clears away what is over. */
  repairLiveness(report: LivenessReport): Promise<void>;
  /** Unsent lifecycle records under the advisory lock; `acknowledge` removes those echoed. Null when another worker has the lock. */
  pendingLifecycle(limit: number): Promise<readonly (LifecycleRecord & { readonly id: string })[] | null>;
  acknowledgeLifecycle(ids: readonly string[]): Promise<void>;
  /**
   * Runs `work` when the named turn is this worker's, else answers undefined. A turn stays with its worker while the work
   * goes on and for `holdSeconds` after, so that a loop keeps it; a worker that vanished costs at most those.
   */
  withTurn<T>(name: string, holdSeconds: number, workerId: string, work: () => Promise<T>): Promise<T | undefined>;
}
