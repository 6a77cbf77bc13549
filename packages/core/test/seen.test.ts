import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KEY_BYTES, rememberKeys, SEEN_KEYS_MAX, SeenIndex } from '../src/index.ts';

/** A hash of two words, so that two of them can share either. */
function hash(high: number, low: number): Buffer {
  const bytes = Buffer.alloc(KEY_BYTES);
  bytes.writeUInt32BE(high >>> 0, 0);
  bytes.writeUInt32BE(low >>> 0, 4);
  return bytes;
}
const nth = (n: number): Buffer => hash(Math.imul(n, 2654435761), n);
const listOf = (bytes: Uint8Array): string[] =>
  Array.from({ length: bytes.byteLength / KEY_BYTES }, (_, at) =>
    Buffer.from(bytes.subarray(at * KEY_BYTES, (at + 1) * KEY_BYTES)).toString('hex'),
  );

const words = fc.constantFrom(0, 1, 2, 0x3ff, 0x400, 0x3fff, 0x4000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff);
const hashes = fc.array(
  fc.tuple(words, words).map(([high, low]) => hash(high, low)),
  { maxLength: 60 },
);

test('an index knows exactly what was loaded last, hashes that share a word or a slot among them', () => {
  const index = new SeenIndex();
  fc.assert(
    fc.property(hashes, hashes, (loaded, asked) => {
      index.load(Buffer.concat(loaded));
      const known = new Set(loaded.map((one) => one.toString('hex')));
      expect(index.size).toBe(loaded.length);
      for (const one of [...loaded, ...asked]) expect(index.has(one)).toBe(known.has(one.toString('hex')));
    }),
    { numRuns: 500 },
  );
});

test.each([0, 1, 511, 512, 513, 8_192, 8_193, 40_000])('an index of %i hashes knows each and no other', (count) => {
  const index = new SeenIndex();
  const all = Array.from({ length: count }, (_, n) => nth(n));
  index.load(Buffer.concat(all));
  expect(all.filter((one) => index.has(one))).toHaveLength(count);
  expect(Array.from({ length: 1_000 }, (_, n) => nth(count + n)).filter((one) => index.has(one))).toEqual([]);
  index.load(new Uint8Array(0));
  expect(all.filter((one) => index.has(one))).toEqual([]);
});

test('a hash is found where it lies in a larger buffer', () => {
  const index = new SeenIndex();
  index.load(Buffer.concat([nth(1), nth(2), nth(3)]).subarray(KEY_BYTES));
  const within = Buffer.concat([Buffer.alloc(3), nth(2), nth(1)]);
  expect([index.has(within.subarray(3)), index.has(within.subarray(3 + KEY_BYTES))]).toEqual([true, false]);
});

/** As the rule reads: first the oldest that the listing leaves out, then the oldest. */
function remembered(seen: readonly string[], fresh: readonly string[], listing: readonly string[]): string[] {
  const all = [...seen, ...fresh].map((key, at) => ({ key, at }));
  const listed = new Set(listing);
  const excess = Math.max(0, all.length - SEEN_KEYS_MAX);
  const gone = new Set(
    [...all.filter(({ key }) => !listed.has(key)), ...all.filter(({ key }) => listed.has(key))].slice(0, excess),
  );
  return all.filter((one) => !gone.has(one)).map(({ key }) => key);
}

const range = (from: number, count: number): Buffer[] => Array.from({ length: count }, (_, n) => nth(from + n));

test.each([
  ['below the limit', range(0, SEEN_KEYS_MAX - 2), range(9_000, 1), range(9_000, 1)],
  ['at the limit', range(0, SEEN_KEYS_MAX - 2), range(9_000, 2), range(9_000, 2)],
  ['one above, nothing listed but the fresh', range(0, SEEN_KEYS_MAX), range(9_000, 1), range(9_000, 1)],
  ['the oldest listed', range(0, SEEN_KEYS_MAX), range(9_000, 3), [...range(0, 2), ...range(4, 1), ...range(9_000, 3)]],
  [
    'all but the newest listed',
    range(0, SEEN_KEYS_MAX),
    range(9_000, 2),
    [...range(0, SEEN_KEYS_MAX - 1), ...range(9_000, 2)],
  ],
  ['all listed', range(0, SEEN_KEYS_MAX), range(9_000, 4), [...range(0, SEEN_KEYS_MAX), ...range(9_000, 4)]],
  ['more fresh than fit', range(0, 10), range(9_000, SEEN_KEYS_MAX + 20), range(9_000, SEEN_KEYS_MAX + 20)],
])('what is remembered, %s, is what the rule says, newest last', (_how, seen, fresh, listing) => {
  const [before, added, last] = [seen, fresh, listing].map((list) => Buffer.concat(list)) as [Buffer, Buffer, Buffer];
  expect(listOf(rememberKeys(before, added, last))).toEqual(remembered(listOf(before), listOf(added), listOf(last)));
});

test('without a listing the fresh keys are what is listed', () => {
  const [seen, fresh] = [Buffer.concat(range(0, SEEN_KEYS_MAX)), Buffer.concat([nth(0), nth(9_000)])];
  expect(listOf(rememberKeys(seen, fresh))).toEqual(remembered(listOf(seen), listOf(fresh), listOf(fresh)));
});
