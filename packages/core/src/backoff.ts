/** Full-jitter back-off with randomness as an argument. */

export interface BackoffOptions {
  readonly baseMs: number;
  readonly maxMs: number;
}

/** Milliseconds before try number `attempt` (0-based): between 0 and min(max, base × 2^attempt). */
export function fullJitterMs(attempt: number, options: BackoffOptions, random: number): number {
  return Math.floor(random * Math.min(options.maxMs, options.baseMs * 2 ** Math.min(attempt, 30)));
}
