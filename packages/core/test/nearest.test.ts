import fc from 'fast-check';
import { expect, test } from 'vitest';
import { nearest } from '../src/index.ts';

const NAMES = ['LEASE_TTL', 'POLL_WIDTH', 'POLL_CAP', 'BATCH_SIZE', 'dev', 'doctor'];

test.each([
  ['LEASE_TLL', 'LEASE_TTL'],
  ['LAESE_TTL', 'LEASE_TTL'],
  ['lease_ttl', 'LEASE_TTL'],
  ['POLL_WITDH', 'POLL_WIDTH'],
  ['BATCHSIZE', 'BATCH_SIZE'],
  ['dve', 'dev'],
  ['docter', 'doctor'],
  ['dev', 'dev'],
])('%s is answered with %s', (word, wanted) => {
  expect(nearest(word, NAMES)).toBe(wanted);
});

test.each(['', 'xyz', 'NATS_URL', 'zzzzzzzzzzzzzzzz'])('nothing is near %j', (word) => {
  expect(nearest(word, NAMES)).toBeUndefined();
});

/** Optimal string alignment as its definition recurs, for short words. */
function alignment(a: string, b: string): number {
  if (a === '' || b === '') return a.length + b.length;
  const replaced = alignment(a.slice(0, -1), b.slice(0, -1)) + (a.at(-1) === b.at(-1) ? 0 : 1);
  const others = [alignment(a.slice(0, -1), b) + 1, alignment(a, b.slice(0, -1)) + 1, replaced];
  const swaps = a.length > 1 && b.length > 1 && a.at(-1) === b.at(-2) && a.at(-2) === b.at(-1);
  return Math.min(...others, ...(swaps ? [alignment(a.slice(0, -2), b.slice(0, -2)) + 1] : []));
}

const words = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'A'), maxLength: 6 });

test('the nearest is the first of those at the least distance that is at most a third of the longer word', () => {
  fc.assert(
    fc.property(words, fc.array(words, { maxLength: 4 }), (word, candidates) => {
      const near = candidates
        .map((candidate) => ({ candidate, distance: alignment(word.toLowerCase(), candidate.toLowerCase()) }))
        .filter(({ candidate, distance }) => distance <= Math.max(1, Math.max(word.length, candidate.length) / 3))
        .toSorted((x, y) => x.distance - y.distance);
      expect(nearest(word, candidates)).toBe(near[0]?.candidate);
    }),
    { numRuns: 400 },
  );
});
