/**
 * seen: the index of seen keys (8-byte hashes in one reused table) beside a Set of strings, for a listing of 1,000 keys
 * compared with 1,000 and 5,000 remembered ones: what every poll of a `unique` trigger with items pays.
 */
import { KEY_BYTES, keyHashOf, SeenIndex } from '@milkrun/core';
import type { Bench, Figures } from '@milkrun/drills';

const ROUNDS = 7;
const POLLS = 400;
const LISTING = 1_000;

export const bench: Bench = {
  name: 'seen',
  about: 'A listing of 1,000 keys against those remembered: an index over hashes beside a Set of strings.',
  async run({ log }) {
    const figures: Record<string, Figures> = {};
    for (const remembered of [1_000, 5_000]) {
      const compared = compare(remembered);
      figures[`keys${remembered}`] = compared;
      log(`${remembered} keys: ${JSON.stringify(compared)}`);
    }
    return { listing: LISTING, rounds: ROUNDS, ...figures };
  },
};

/** Microseconds of a poll: loading what is remembered, then looking up each key of the listing. Hashing is not part. */
function compare(remembered: number): Figures {
  const hashes = Array.from({ length: remembered }, (_, n) => keyHashOf(`item-${n}`));
  // Nine in ten are known, as in a listing that moves slowly.
  const listing = Array.from({ length: LISTING }, (_, n) =>
    n % 10 === 0 ? keyHashOf(`new-${n}`) : (hashes[n % remembered] as Uint8Array),
  );
  const seen = new Uint8Array(remembered * KEY_BYTES);
  hashes.forEach((hash, n) => {
    seen.set(hash, n * KEY_BYTES);
  });
  const names = listing.map(textOf);
  const index = new SeenIndex();
  const expected = listing.length - listing.length / 10;
  const indexUs: number[] = [];
  const setUs: number[] = [];
  for (let round = 0; round <= ROUNDS; round += 1) {
    indexUs.push(
      timed(expected, () => {
        index.load(seen);
        let known = 0;
        for (const hash of listing) if (index.has(hash)) known += 1;
        return known;
      }),
    );
    setUs.push(
      timed(expected, () => {
        const set = new Set<string>();
        for (let at = 0; at < seen.byteLength; at += KEY_BYTES) set.add(textOf(seen.subarray(at, at + KEY_BYTES)));
        let known = 0;
        for (const name of names) if (set.has(name)) known += 1;
        return known;
      }),
    );
  }
  // The first round was for the compiler.
  const [own, sets] = [indexUs.slice(1), setUs.slice(1)];
  return {
    setOverIndex: spreadOf(sets.map((us, round) => us / (own[round] as number))),
    indexMicros: spreadOf(own),
    setMicros: spreadOf(sets),
  };
}

function timed(expected: number, poll: () => number): number {
  const started = performance.now();
  for (let n = 0; n < POLLS; n += 1) {
    if (poll() !== expected) throw new Error('the index does not know what it should');
  }
  return ((performance.now() - started) * 1000) / POLLS;
}

function textOf(hash: Uint8Array): string {
  return Buffer.from(hash.buffer, hash.byteOffset, hash.byteLength).toString('latin1');
}

function spreadOf(values: readonly number[]): Figures {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number): number => Number((sorted[index] ?? 0).toPrecision(4));
  return { median: at(Math.floor(sorted.length / 2)), min: at(0), max: at(sorted.length - 1), rounds: values.length };
}
