/**
 * The reader of the change feed, and its twin for pushed changes.
 *
 * One reader at a time (a turn, and a compare-and-set on the cursor that decides when two meet): it asks with `wait`, so
 * a change is applied the moment it is served. A page and its cursor are one transaction of the store, never open over
 * the call; timer shards are armed after it. An expired cursor (410) starts a full resync, whose rows not seen are
 * deleted, unless they are too many: then none is, and a person has to confirm.
 */
import type {
  Clock,
  ControlPlane,
  DispatchStore,
  FeedChange,
  FeedPageResult,
  Log,
  Metrics,
  TimerManager,
} from '@milkrun/core';
import { createLoop, type Loop } from './loop.ts';

export type FeedStore = Pick<
  DispatchStore,
  'feedCursor' | 'applyFeedPage' | 'beginResync' | 'resyncInProgress' | 'finishResync' | 'withTurn'
>;

export interface FeedReaderDeps {
  readonly store: FeedStore;
  readonly controlPlane: Pick<ControlPlane, 'readChanges'>;
  readonly timers: TimerManager;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly workerId: string;
  /** Changes asked for at once; default 1,000. */
  readonly limit?: number;
  /** Seconds an empty feed is waited on; default 20. */
  readonly waitSeconds?: number;
  /** Milliseconds between full resyncs without a 410, for platforms that push; none by default. */
  readonly resyncEveryMs?: number;
}

const LIMIT = 1_000;
const WAIT_SECONDS = 20;
/** The store renews it over a call that waits; a dead reader's turn is free after it. */
const TURN_SECONDS = 6;
/** How soon a worker without the turn asks for it again. */
const NO_TURN_MS = 2_000;
const HASTY_MS = 1_000;
const UNAVAILABLE_MS = 1_000;
const UNAVAILABLE_MS_MAX = 30_000;

export function createFeedReader(deps: FeedReaderDeps): Loop {
  const { store, clock, workerId, resyncEveryMs } = deps;
  let resyncedAt = clock.monotonic();
  let unanswered = 0;

  async function read(signal: AbortSignal): Promise<number> {
    // Kept in workerdb: a resync begun by a worker that has gone is finished by the next reader.
    let resync = await store.resyncInProgress();
    if (resync === null && resyncEveryMs !== undefined && clock.monotonic() - resyncedAt >= resyncEveryMs) {
      resync = await store.beginResync();
    }
    const after = await store.feedCursor();
    const askedAt = clock.monotonic();
    const answer = await deps.controlPlane.readChanges({
      after,
      limit: deps.limit ?? LIMIT,
      waitSeconds: resync === null ? (deps.waitSeconds ?? WAIT_SECONDS) : 0,
      signal,
    });
    signal.throwIfAborted();
    if (answer.kind === 'unavailable') {
      deps.metrics.count('polling.feed.pages', 1, { outcome: 'failed' });
      const ownMs = Math.min(UNAVAILABLE_MS_MAX, UNAVAILABLE_MS * 2 ** Math.min(10, unanswered));
      unanswered += 1;
      const waitMs = Math.max(ownMs, (answer.retryAfterSeconds ?? 0) * 1000);
      deps.log.warn({ reason: answer.reason, waitMs }, 'feed.unavailable');
      return waitMs;
    }
    unanswered = 0;
    if (answer.kind === 'expired') {
      deps.metrics.count('polling.feed.pages', 1, { outcome: 'expired' });
      // Expired again while reading from the beginning: the feed moved on underneath, so the reading starts over.
      await store.beginResync();
      deps.log.warn({}, 'feed.resync_started');
      return 0;
    }
    const isNews = answer.changes.length > 0 || answer.next !== after;
    if (isNews) {
      const result = await store.applyFeedPage({
        after,
        next: answer.next,
        changes: answer.changes,
        source: 'pull',
      });
      if (!result.applied) {
        deps.metrics.count('polling.feed.pages', 1, { outcome: 'lost_race' });
        return 0;
      }
      await settle(deps, result);
    }
    if (resync !== null && !answer.more) {
      await finishResync(deps, resync);
      resyncedAt = clock.monotonic();
    }
    // A feed that does not honour `wait` must not be asked in a hot loop.
    const isHasty = clock.monotonic() - askedAt < HASTY_MS;
    return !isNews && isHasty ? HASTY_MS : 0;
  }

  return createLoop({
    name: 'feed',
    clock,
    log: deps.log,
    everyMs: 0,
    async round(signal) {
      return (await store.withTurn('feed', TURN_SECONDS, workerId, () => read(signal))) ?? NO_TURN_MS;
    },
  });
}

async function settle(
  deps: Pick<FeedReaderDeps, 'metrics' | 'timers'> & { readonly log?: Log },
  result: FeedPageResult,
): Promise<void> {
  const { metrics, timers, log } = deps;
  const { moved = 0, older = 0 } = result;
  metrics.count('polling.feed.pages', 1, { outcome: 'applied' });
  for (const [outcome, changes] of [
    ['upserted', result.upserted],
    ['deleted', result.deleted],
    ['stale', result.stale],
    ['fenced', result.fenced],
  ] as const) {
    if (changes > 0) metrics.count('polling.feed.changes', changes, { outcome });
  }
  if (moved > 0 || older > 0) log?.warn({ moved, older }, 'feed.owners_differ');
  // The database first, then the timers: the transaction has committed.
  await Promise.all(result.arm.map((timerShard) => timers.arm(timerShard)));
}

async function finishResync(
  { store, log, metrics }: Pick<FeedReaderDeps, 'store' | 'log' | 'metrics'>,
  token: string,
): Promise<void> {
  const { deleted, refused } = await store.finishResync({ token, confirmMassDelete: false });
  if (refused > 0) {
    metrics.count('polling.feed.mass_delete');
    log.error({ refused }, 'feed.mass_delete');
  } else {
    log.info({ deleted }, 'feed.resync_finished');
  }
}

/** Applies changes that the control plane pushed; idempotent by version, the feed's cursor stays where it is. */
export function createPushChanges(
  deps: Pick<FeedReaderDeps, 'store' | 'timers' | 'metrics'> & { readonly log?: Log },
): (changes: readonly FeedChange[]) => Promise<FeedPageResult> {
  return async (changes) => {
    const result = await deps.store.applyFeedPage({ after: null, next: '', changes, source: 'push' });
    await settle(deps, result);
    return result;
  };
}
