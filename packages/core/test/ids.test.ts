import fc from 'fast-check';
import { expect, test } from 'vitest';
import { batchIdOf, eventIdOf, keyHashOf, storageShardOf, timerShardOfBatchId, uuidv7 } from '../src/index.ts';

const uuid = '3f2b8c1e-6f0a-4a53-9d53-0d6f1c5b7a10';

test('the same item has the same event id, a different item another one', () => {
  expect(eventIdOf(uuid, 'left-pad@1.0.0')).toBe(eventIdOf(uuid, 'left-pad@1.0.0'));
  expect(eventIdOf(uuid, 'left-pad@1.0.0')).toMatch(/^evt_[a-z2-7]{26}$/);
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), fc.string(), (a, b, c, d) => {
      fc.pre(a !== c || b !== d);
      expect(eventIdOf(a, b)).not.toBe(eventIdOf(c, d));
    }),
  );
});

test('an event id never changes between releases', () => {
  // Worked out independently with Python's hashlib, struct and base64.
  expect(eventIdOf(uuid, 'left-pad@1.0.0')).toBe('evt_56vobahvhiojwpz576i25zdsso');
  expect(storageShardOf(uuid)).toBe(27);
  expect(Buffer.from(keyHashOf('left-pad@1.0.0')).toString('hex')).toBe('bedafb29a70b0b24');
});

test('storage shards are spread evenly and ignore letter case', () => {
  const counts = new Array<number>(64).fill(0);
  for (let n = 0; n < 6400; n += 1)
    counts[storageShardOf(`trigger-${n}`)] = (counts[storageShardOf(`trigger-${n}`)] ?? 0) + 1;
  expect(Math.min(...counts)).toBeGreaterThan(50);
  expect(storageShardOf(uuid.toUpperCase())).toBe(storageShardOf(uuid));
});

test('a batch id names its timer shard and anything else does not', () => {
  const clock = { now: () => 1_700_000_000_000, monotonic: () => 0, sleep: async () => {} };
  const id = uuidv7(clock, { next: () => 0, bytes: (count) => new Uint8Array(count).fill(255) });
  expect(id).toBe('018bcfe5-6800-7fff-bfff-ffffffffffff');
  expect(timerShardOfBatchId(batchIdOf(7, id))).toBe(7);
  expect(timerShardOfBatchId('timer-shard:7')).toBeUndefined();
});
