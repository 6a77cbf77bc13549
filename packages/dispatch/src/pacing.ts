/** When a timer shard ticks next: pure arithmetic, shared by the workflow and its tests. */

/** What the workflow needs to know of a tick; everything else stays in the activity. */
export interface TickOutcome {
  /** Due rows left behind for want of places. */
  readonly left: number;
  /** Milliseconds until the next row is due, by the database; 0 when due rows were left. */
  readonly wakeInMs: number;
  /** The tick, milliseconds: a setting of the worker, so that a changed one takes effect at the next tick. */
  readonly tickMs: number;
  /** Something has to be done again at the next tick, whatever is due: a batch that could not be started. */
  readonly again: boolean;
  /** The timer shard is no more; absent in histories before re-sharding had a verb. */
  readonly gone?: boolean;
}

/** An idle shard sleeps no longer than this, so a lost arm costs a minute at the most. */
export const IDLE_MS_MAX = 60_000;
const ARM_GAP_MS = 1_000;
const ARM_GAP_LEFT_MS = 100;
export const RUN_MS_MAX = 3_600_000;
/** Silence after which the worker of a tick counts as dead and the tick is tried elsewhere. */
export const TICK_SILENCE_MS_MAX = 10_000;

/** Milliseconds from the start of a tick to the next one, when nobody arms the shard. */
export function pauseMs({ left, wakeInMs, tickMs, again }: TickOutcome): number {
  // Never before the tick, so that due rows become full batches and not many small ones.
  if (left > 0 || again) return tickMs;
  return Math.max(tickMs, Math.min(IDLE_MS_MAX, wakeInMs));
}

/** Milliseconds that must lie between the starts of two ticks even when the shard is armed. */
export function armGapMs({ left, wakeInMs, tickMs }: TickOutcome): number {
  // A wake that has passed: more fell due since the scan that this tick's keys were ranked by.
  return Math.min(tickMs, left > 0 || wakeInMs <= 0 ? ARM_GAP_LEFT_MS : ARM_GAP_MS);
}
