/**
 * Whoever can write to the bucket but holds no key must not be able to make us use anything: every stored object is
 * changed, cut, swapped and replayed, and each time it must count as absent and be reported by its key.
 */
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { createLocalKeys } from '../../src/snapshot/local-keys.ts';
import type { Snapshots } from '../../src/snapshot/snapshot.ts';
import { eventsOf, resultRecord, TRIGGER_ID, trigger } from '../factories.ts';
import { at, BATCH, createHarness, type Harness, keyText } from './harness.ts';

const OTHER = `${BATCH.slice(0, -1)}2`;
const CANARIES = [
  'canary-token-3f9c',
  'canary-event-77ab',
  'canary-cursor-51d0',
  'canary-config-9e1e',
  'canary-why-aa07',
];

let harness: Harness;
let original: ReadonlyMap<string, Uint8Array>;

async function fill(snapshots: Snapshots, batchId: string): Promise<void> {
  const [token, event, cursor, config, why] = CANARIES;
  await snapshots.writeEntries(batchId, [trigger({ config: JSON.stringify({ secret: config }) })]);
  for (const attempt of [1, 2]) {
    await snapshots.writeAuth(batchId, 0, attempt, [
      { connectionId: 'c', tenantId: 't', auth: JSON.stringify({ token }), expiresAtMs: null, fetchedAtMs: 1, hop: 0 },
    ]);
    const writer = snapshots.resultWriter(batchId, 0, attempt);
    writer.append(resultRecord({ attempt, events: eventsOf(event as string), cursorAfter: JSON.stringify(cursor) }));
    await writer.close();
    const origin = { triggerId: TRIGGER_ID, leaseEpoch: 7, hop: 0, attempt };
    await snapshots
      .deliveredWriter(batchId, 0, attempt)
      .record([{ ...origin, result: { object: `results/0.${attempt}-0`, line: 0 }, status: 'accepted' }]);
    await snapshots.writeVerdicts(batchId, 0, attempt, 0, [
      { triggerId: TRIGGER_ID, leaseEpoch: 7, hop: 0, code: 'auth.expired', reason: why as string },
    ]);
  }
}

beforeAll(async () => {
  harness = createHarness();
  await fill(harness.fresh(), BATCH);
  await fill(harness.fresh(), OTHER);
  original = await harness.stored();
});

/** What can be read of `BATCH`, as one comparable value for each object. */
async function readable(keys = harness.keys): Promise<string[]> {
  const snapshots = harness.fresh(keys);
  const entries = await snapshots.readEntries(BATCH);
  const [results, delivered] = [await snapshots.readResults(BATCH), await snapshots.readDelivered(BATCH)];
  const [verdicts, auth] = [await snapshots.readVerdicts(BATCH), await snapshots.readAuth(BATCH)];
  return [
    ...(Array.isArray(entries) ? ['entries'] : []),
    ...results.map((stored) => stored.at.object),
    ...delivered.map((stored) => stored.at.object),
    ...verdicts.map((_, n) => `verdicts:${n}`),
    ...[...auth.values()].map((_, n) => `auth:${n}`),
  ];
}

/** Damages one object, reads all, and puts the object back. Answers what was reported. */
async function damaged(key: string, bytes: Uint8Array): Promise<{ lost: number; reported: readonly string[] }> {
  const before = (await readable()).length;
  await harness.replace(key, bytes);
  harness.reported.length = 0;
  try {
    const after = await readable();
    return { lost: before - after.length, reported: [...harness.reported] };
  } finally {
    await harness.replace(key, original.get(key) as Uint8Array);
  }
}

const ownKeys = (): string[] => [...original.keys()].filter((key) => key.startsWith(`batches/${BATCH}/`));
/** Auth is merged over its objects, so the loss of one shows in the report only. */
const expectedLoss = (key: string): number => (key.includes('/auth/') ? 0 : 1);

describe('a stored object that is not what was written', () => {
  it('is never used when one bit of it is changed, anywhere', async () => {
    const keys = ownKeys();
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.nat(), fc.integer({ min: 0, max: 7 }), async (which, where, bit) => {
        const key = keys[which % keys.length] as string;
        const bytes = Uint8Array.from(original.get(key) as Uint8Array);
        const position = where % bytes.byteLength;
        bytes[position] = (bytes[position] as number) ^ (1 << bit);
        expect(await damaged(key, bytes)).toEqual({ lost: expectedLoss(key), reported: [key] });
      }),
      { numRuns: 400 },
    );
  });

  it('is never used when it is cut anywhere, or continued', async () => {
    const key = at('results/0.1-0');
    const bytes = original.get(key) as Uint8Array;
    for (let length = 0; length < bytes.byteLength; length += 1) {
      expect([length, await damaged(key, bytes.subarray(0, length))]).toEqual([length, { lost: 1, reported: [key] }]);
    }
    expect(await damaged(key, Buffer.concat([bytes, Buffer.from([0])]))).toEqual({ lost: 1, reported: [key] });
  });

  it('is never used in the place of another: not of another name, purpose or batch, nor an older one', async () => {
    let tried = 0;
    for (const key of ownKeys()) {
      for (const [other, bytes] of original) {
        if (other === key) continue;
        expect([key, other, await damaged(key, bytes)]).toEqual([
          key,
          other,
          { lost: expectedLoss(key), reported: [key] },
        ]);
        tried += 1;
      }
    }
    expect(tried).toBe(ownKeys().length * (original.size - 1));
  });

  it('is never used when head and body come from different objects', async () => {
    const [one, two] = [original.get(at('results/0.1-0')), original.get(at('results/0.2-0'))] as [Buffer, Buffer];
    const bodyOf = (bytes: Uint8Array): Uint8Array => bytes.subarray(8 + Buffer.from(bytes).readUInt16BE(6));
    const headOf = (bytes: Uint8Array): Uint8Array => bytes.subarray(0, 8 + Buffer.from(bytes).readUInt16BE(6));
    const key = at('results/0.1-0');
    expect(await damaged(key, Buffer.concat([headOf(one), bodyOf(two)]))).toEqual({ lost: 1, reported: [key] });
    expect(await damaged(key, Buffer.concat([headOf(two), bodyOf(one)]))).toEqual({ lost: 1, reported: [key] });
  });

  it('is never used without its key, and is used again when the key is back', async () => {
    harness.reported.length = 0;
    expect(await readable(createLocalKeys(keyText()))).toEqual([]);
    expect([...harness.reported].sort()).toEqual(ownKeys().sort());
    expect((await readable()).length).toBe(8);
  });

  it('is reported when its name is none of ours', async () => {
    const key = at('results/0.1-0.bak');
    await harness.objects.putIfAbsent(key, original.get(at('results/0.1-0')) as Uint8Array);
    harness.reported.length = 0;
    expect((await readable()).length).toBe(8);
    expect(harness.reported).toEqual([key]);
    await harness.objects.delete(key);
  });

  it('leaves entries unreadable, not missing', async () => {
    await harness.replace(at('entries'), Buffer.from('{}'));
    expect(await harness.fresh().readEntries(BATCH)).toBe('unreadable');
    await harness.replace(at('entries'), original.get(at('entries')) as Uint8Array);
  });
});

describe('a stored object', () => {
  it('shows nothing of what it holds', () => {
    const compressed = CANARIES.map((canary) => Buffer.from(canary));
    for (const bytes of original.values()) {
      for (const canary of [...compressed, Buffer.from(TRIGGER_ID)])
        expect(Buffer.from(bytes).includes(canary)).toBe(false);
    }
  });

  it('says in its head which key and algorithm it needs', () => {
    for (const bytes of original.values()) {
      const buffer = Buffer.from(bytes);
      expect(buffer.subarray(0, 6).toString()).toBe('MRSN1\n');
      const head = JSON.parse(buffer.toString('utf8', 8, 8 + buffer.readUInt16BE(6)));
      expect(head).toMatchObject({
        schema: 1,
        algorithm: 'A256GCM',
        keyId: expect.stringMatching(/^local-[0-9a-f]{16}$/),
      });
    }
  });

  it('has a data key and an IV of its own', () => {
    const heads = [...original.values()].map((bytes) => {
      const buffer = Buffer.from(bytes);
      return JSON.parse(buffer.toString('utf8', 8, 8 + buffer.readUInt16BE(6)));
    });
    expect(new Set(heads.map(({ iv }) => iv)).size).toBe(heads.length);
    expect(new Set(heads.map(({ wrapped }) => wrapped)).size).toBe(heads.length);
  });
});
