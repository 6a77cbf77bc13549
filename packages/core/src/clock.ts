/** The production clock and randomness: the one place of the engine that reads the machine's own. */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from './ports/clock.ts';
import type { Rng } from './ports/rng.ts';

export const systemClock: Clock = Object.freeze({
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: (ms: number, signal?: AbortSignal) => delay(ms, undefined, signal ? { signal } : {}),
});

export const systemRng: Rng = Object.freeze({
  next: () => Math.random(),
  bytes: (count: number) => randomBytes(count),
});
