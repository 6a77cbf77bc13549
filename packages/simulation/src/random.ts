/** Seeded randomness: small, fast, and the same on every machine. */
import type { Rng } from '@milkrun/core';

export interface Random extends Rng {
  /** An integer in [from, to]. */
  integer(from: number, to: number): number;
  /** A number in [from, to). */
  between(from: number, to: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
}

/** mulberry32. Streams of one seed under different names share nothing. */
export function createRandom(seed: number, stream = ''): Random {
  let state = seed >>> 0;
  for (const char of stream) state = (Math.imul(state ^ char.charCodeAt(0), 0x01000193) + 0x9e3779b9) >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  next();
  return {
    next,
    bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(next() * 256)),
    integer: (from, to) => from + Math.floor(next() * (to - from + 1)),
    between: (from, to) => from + next() * (to - from),
    chance: (probability) => next() < probability,
    pick: (from) => from[Math.floor(next() * from.length)] as never,
  };
}
