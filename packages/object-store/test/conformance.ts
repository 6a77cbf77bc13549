/**
 * The exam every driver of the ObjectStore port sits: what the engine relies on, and nothing a driver may choose.
 *
 * `open` gives a store over the same place each time it is called within one test, so that two instances stand for two
 * processes; `reset` empties the place.
 */
import { createHash } from 'node:crypto';
import { type ObjectStore, ObjectTooLarge } from '@milkrun/core';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { InvalidObjectKey } from '../src/index.ts';

export interface ConformanceHarness {
  /** Makes an empty place for one test. */
  reset(): Promise<void>;
  /** A store on that place. */
  open(): ObjectStore;
}

const MIB = 1024 * 1024;

/** Bytes that no encoding leaves alone by chance, the same for the same arguments. */
export function bytesOf(length: number, seed = 1): Uint8Array {
  const out = Buffer.alloc(length);
  for (let at = 0, block = 0; at < length; block += 1) {
    at += createHash('sha512').update(`${seed}:${block}`).digest().copy(out, at);
  }
  return out;
}

const ODD_KEYS = [
  'batches/batch-poller:timer-shard:0:0199a/entries',
  'batches/batch-poller:timer-shard:0:0199a/results/0.1-10',
  'batches/batch-poller:timer-shard:0:0199a/results/0.1-2',
  'batches/a',
  'batches/a/b',
  'batches/A/b',
  'batches/a b',
  'batches/a+b',
  'batches/a%2fb',
  'batches/a%b',
  'batches/a&b=c?d#e',
  'batches/<a>\'"',
  'batches/ünï',
  'batches/\u{1f600}',
  'batches/\uffee',
  'batches/...',
  'batches/~tmp',
  'batches/x~',
  'other/z',
];

const BAD_KEYS = ['', '/', '/a', 'a/', 'a//b', '.', '..', 'a/../b', 'a/./b', 'a\0b', 'a\nb', '\ud800', 'x'.repeat(901)];

const utf8Order = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

export function describeObjectStore(name: string, harness: ConformanceHarness): void {
  describe(`object store: ${name}`, () => {
    let store: ObjectStore;

    beforeEach(async () => {
      await harness.reset();
      store = harness.open();
    });
    afterEach(async () => {
      await store.close();
    });

    it('writes an object once and never over another', async () => {
      expect(await store.putIfAbsent('batches/b/entries', bytesOf(100, 1))).toBe('created');
      expect(await store.putIfAbsent('batches/b/entries', bytesOf(100, 2))).toBe('exists');
      expect(Buffer.from((await store.get('batches/b/entries')) ?? [])).toEqual(bytesOf(100, 1));
    });

    it('lets one of 32 racing writers win, and keeps what the winner wrote', async () => {
      const others = [store, harness.open()];
      for (let round = 0; round < 6; round += 1) {
        const length = round % 2 === 0 ? 1_000 : 200_000;
        const key = `races/${round}`;
        const outcomes = await Promise.all(
          Array.from({ length: 32 }, (_, writer) =>
            (others[writer % 2] as ObjectStore).putIfAbsent(key, bytesOf(length, writer)),
          ),
        );
        const winners = outcomes.flatMap((outcome, writer) => (outcome === 'created' ? [writer] : []));
        expect(winners).toHaveLength(1);
        expect(Buffer.from((await store.get(key)) ?? []).equals(bytesOf(length, winners[0]))).toBe(true);
      }
      await others[1]?.close();
    });

    it.each([0, 1, 1_000, 65_536, 65_537, 8 * MIB])('returns %d bytes as they were written', async (length) => {
      await store.putIfAbsent('bytes', bytesOf(length));
      const read = await store.get('bytes');
      expect(read?.byteLength).toBe(length);
      expect(Buffer.from(read ?? []).equals(bytesOf(length))).toBe(true);
    });

    it('does not share bytes with its callers', async () => {
      const body = bytesOf(10);
      await store.putIfAbsent('own', body);
      body.fill(0);
      (await store.get('own'))?.fill(1);
      expect(Buffer.from((await store.get('own')) ?? [])).toEqual(bytesOf(10));
    });

    it('keeps keys with odd characters apart and lists them in byte order', async () => {
      for (const key of ODD_KEYS) expect(await store.putIfAbsent(key, Buffer.from(key))).toBe('created');
      for (const key of ODD_KEYS) expect(Buffer.from((await store.get(key)) ?? []).toString()).toBe(key);
      for (const prefix of ['', 'b', 'batches/', 'batches/a', 'batches/a/', 'batches/a%', 'batches/\u{1f600}', '../']) {
        const expected = ODD_KEYS.filter((key) => key.startsWith(prefix)).sort(utf8Order);
        expect([prefix, await store.list(prefix)]).toEqual([prefix, expected]);
      }
    });

    it('stores any valid key and lists it under its prefixes', async () => {
      const segment = fc
        .string({ unit: 'binary', minLength: 1, maxLength: 12 })
        .filter((text) => !/[\p{Cc}\p{Cs}\uFFFE\uFFFF/]/u.test(text) && !/^\.{1,2}$/.test(text));
      await fc.assert(
        fc.asyncProperty(fc.array(segment, { minLength: 1, maxLength: 4 }), fc.nat(), async (segments, cut) => {
          const key = `any/${segments.join('/')}`;
          const outcome = await store.putIfAbsent(key, Buffer.from(key));
          const prefix = [...key].slice(0, cut % [...key].length).join('');
          expect((await store.list(prefix)).includes(key)).toBe(true);
          expect(Buffer.from((await store.get(key)) ?? []).toString()).toBe(key);
          if (outcome === 'created') await store.delete(key);
        }),
        { numRuns: 60 },
      );
    });

    it.each(BAD_KEYS)('refuses the key %j', async (key) => {
      await expect(store.putIfAbsent(key, bytesOf(1))).rejects.toThrow(InvalidObjectKey);
      await expect(store.get(key)).rejects.toThrow(InvalidObjectKey);
      await expect(store.delete(key)).rejects.toThrow(InvalidObjectKey);
      expect(await store.list('')).toEqual([]);
    });

    it('lists more than one page whole', async () => {
      const keys = Array.from({ length: 1_050 }, (_, at) => `many/${at}`);
      for (let at = 0; at < keys.length; at += 50) {
        await Promise.all(keys.slice(at, at + 50).map((key) => store.putIfAbsent(key, bytesOf(1))));
      }
      expect(await store.list('many/')).toEqual(keys.sort(utf8Order));
    });

    it('shows a write at once, to other instances too, and no longer after its removal', async () => {
      const other = harness.open();
      await store.putIfAbsent('a/b', bytesOf(3));
      expect(await other.list('a/')).toEqual(['a/b']);
      await other.delete('a/b');
      expect(await store.get('a/b')).toBeUndefined();
      expect(await store.list('')).toEqual([]);
      expect(await store.putIfAbsent('a/b', bytesOf(4))).toBe('created');
      await other.close();
    });

    it('answers undefined for an absent object and removes one without complaint', async () => {
      expect(await store.get('not/there')).toBeUndefined();
      await store.delete('not/there');
      expect(await store.list('not/')).toEqual([]);
    });

    it('returns nothing of an object above the bound', async () => {
      await store.putIfAbsent('large', bytesOf(100_000));
      await expect(store.get('large', 99_999)).rejects.toThrow(ObjectTooLarge);
      expect((await store.get('large', 100_000))?.byteLength).toBe(100_000);
    });

    it('never shows a part of an object that is being written', async () => {
      const body = bytesOf(2 * MIB);
      let writing = true;
      const written = store.putIfAbsent('whole', body).finally(() => {
        writing = false;
      });
      const reads: (Uint8Array | undefined)[] = [];
      while (writing) reads.push(await store.get('whole'));
      await written;
      reads.push(await store.get('whole'));
      expect(reads.filter((read) => read !== undefined && !body.every((byte, at) => byte === read[at]))).toEqual([]);
      expect(reads.at(-1)?.byteLength).toBe(body.byteLength);
    });

    it('passes its own probe and leaves nothing of it behind', async () => {
      await store.probe();
      expect(await store.list('')).toEqual([]);
    });
  });
}
