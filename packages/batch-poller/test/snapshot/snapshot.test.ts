import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Metrics, noLog, noMetrics, ObjectStoreUnavailable, systemClock } from '@milkrun/core';
import { createFsObjectStore } from '@milkrun/object-store';
import { describe, expect, it } from 'vitest';
import { createDecodedCache } from '../../src/snapshot/cache.ts';
import { encodeLines } from '../../src/snapshot/codec.ts';
import { createLocalKeys } from '../../src/snapshot/local-keys.ts';
import { type AuthRecord, authKeyOf, type DeliveredRecord, type VerdictRecord } from '../../src/snapshot/records.ts';
import { createSnapshots } from '../../src/snapshot/snapshot.ts';
import { eventsOf, resultRecord, trigger } from '../factories.ts';
import { at, BATCH, createHarness, keyText } from './harness.ts';

const idOf = (n: number): string => `3f2b8c1e-6f0a-4a53-9d53-${String(n).padStart(12, '0')}`;

const auth = (over: Partial<AuthRecord> = {}): AuthRecord => ({
  connectionId: 'connection-1',
  tenantId: 'tenant-1',
  auth: '{"token":"t"}',
  expiresAtMs: 1_000,
  hop: 0,
  fetchedAtMs: 500,
  ...over,
});

const delivered = (n: number, over: Partial<DeliveredRecord> = {}): DeliveredRecord => ({
  triggerId: idOf(n),
  leaseEpoch: 7,
  hop: 0,
  attempt: 1,
  result: { object: 'results/0.1-0', line: n },
  status: 'accepted',
  ...over,
});

describe('entries of a snapshot', () => {
  it('come back as they were written, to the process that wrote them and to others', async () => {
    const harness = createHarness();
    const entries = Array.from({ length: 1_234 }, (_, n) =>
      trigger({ triggerId: idOf(n), shard: n % 64, config: `{"query":"ünï \\" ${n}"}`, since: n % 2 ? null : 'then' }),
    );
    const writer = harness.fresh();
    await writer.writeEntries(BATCH, entries);
    expect(await writer.readEntries(BATCH)).toEqual(entries);
    expect(await harness.fresh().readEntries(BATCH)).toEqual(entries);
  });

  it('stay the first ones when they are written again', async () => {
    const harness = createHarness();
    await harness.fresh().writeEntries(BATCH, [trigger({ leaseEpoch: 1 })]);
    const second = harness.fresh();
    await second.writeEntries(BATCH, [trigger({ leaseEpoch: 2 })]);
    expect(await second.readEntries(BATCH)).toEqual([trigger({ leaseEpoch: 1 })]);
    expect([...(await harness.stored()).keys()]).toEqual([at('entries')]);
  });

  it('are missing before they are written, and may be none', async () => {
    const harness = createHarness();
    expect(await harness.fresh().readEntries(BATCH)).toBe('missing');
    await harness.fresh().writeEntries(BATCH, []);
    expect(await harness.fresh().readEntries(BATCH)).toEqual([]);
  });

  it('are neither missing nor unreadable while the store is away', async () => {
    const { objects, fresh } = createHarness();
    objects.get = () => Promise.reject(new ObjectStoreUnavailable('away'));
    await expect(fresh().readEntries(BATCH)).rejects.toThrow(ObjectStoreUnavailable);
  });

  it.each(['', '../other', 'a/b', 'a\nb', 'ä'])('are refused under the batch id %j', async (batchId) => {
    await expect(createHarness().fresh().writeEntries(batchId, [])).rejects.toThrow(/is no batch id/);
  });
});

describe('auth of a snapshot', () => {
  it('is the newest of each connection by (hop, attempt), tenants and connections kept apart', async () => {
    const harness = createHarness();
    const snapshots = harness.fresh();
    await snapshots.writeAuth(BATCH, 1, 2, [auth({ auth: '"hop 1, attempt 2"' })]);
    await snapshots.writeAuth(BATCH, 0, 10, [auth({ auth: '"hop 0"' }), auth({ connectionId: 'connection-2' })]);
    await snapshots.writeAuth(BATCH, 1, 1, [auth({ auth: '"hop 1, attempt 1"' }), auth({ tenantId: 'tenant-2' })]);
    const read = await harness.fresh().readAuth(BATCH);
    expect(read).toEqual(
      new Map([
        [authKeyOf('tenant-1', 'connection-1'), auth({ auth: '"hop 1, attempt 2"' })],
        [authKeyOf('tenant-1', 'connection-2'), auth({ connectionId: 'connection-2' })],
        [authKeyOf('tenant-2', 'connection-1'), auth({ tenantId: 'tenant-2' })],
      ]),
    );
  });

  it('written twice under one attempt is added to, and the later write counts', async () => {
    const harness = createHarness();
    await harness.fresh().writeAuth(BATCH, 0, 1, [auth({ auth: '1' }), auth({ connectionId: 'c' })]);
    await harness.fresh().writeAuth(BATCH, 0, 1, [auth({ auth: '2' })]);
    expect([...(await harness.fresh().readAuth(BATCH)).values()].map((record) => record.auth)).toEqual([
      '2',
      '{"token":"t"}',
    ]);
  });

  it('is gone after its removal, from memory too, and nothing else is', async () => {
    const harness = createHarness();
    const snapshots = harness.fresh();
    await snapshots.writeEntries(BATCH, [trigger()]);
    await snapshots.writeAuth(BATCH, 0, 1, [auth()]);
    await snapshots.writeAuth(BATCH, 0, 2, [auth()]);
    expect((await snapshots.readAuth(BATCH)).size).toBe(1);
    await snapshots.deleteAuth(BATCH);
    expect((await snapshots.readAuth(BATCH)).size).toBe(0);
    expect([...(await harness.stored()).keys()]).toEqual([at('entries')]);
  });
});

describe('results of a snapshot', () => {
  it('are read in (hop, attempt, n, line) order, each with the object and line it stands in', async () => {
    const harness = createHarness();
    const snapshots = harness.fresh();
    const write = async (hop: number, attempt: number, count: number): Promise<void> => {
      const writer = snapshots.resultWriter(BATCH, hop, attempt);
      for (let n = 0; n < count; n += 1) writer.append(resultRecord({ hop, attempt, page: n, triggerId: idOf(n) }));
      await writer.close();
    };
    await write(1, 1, 1);
    await write(0, 10, 1);
    await write(0, 2, 2_500);
    const read = await harness.fresh().readResults(BATCH);
    expect(read.map(({ record }) => [record.hop, record.attempt, record.page])).toEqual([
      ...Array.from({ length: 2_500 }, (_, page) => [0, 2, page]),
      [0, 10, 0],
      [1, 1, 0],
    ]);
    expect([0, 999, 1_000, 2_499, 2_500, 2_501].map((n) => read[n]?.at)).toEqual([
      { object: 'results/0.2-0', line: 0 },
      { object: 'results/0.2-0', line: 999 },
      { object: 'results/0.2-1', line: 0 },
      { object: 'results/0.2-2', line: 499 },
      { object: 'results/0.10-0', line: 0 },
      { object: 'results/1.1-0', line: 0 },
    ]);
    expect(await snapshots.readResults(BATCH)).toEqual(read);
  });

  it('keep events, cursors and keys byte for byte, hostile ones too', async () => {
    const harness = createHarness();
    const json = '{"__proto__":{"admin":true},"constructor":{"prototype":{"x":1}},"text":"\\u0000\\ud800 \u2028"}';
    const record = resultRecord({
      events: [...eventsOf('a', 'b'), { eventId: 'evt_x', json }],
      cursorAfter: '{"__proto__":null,"since":"\\n"}',
      reason: 'line one\nline two',
      retryAfterSeconds: 3,
    });
    const writer = harness.fresh().resultWriter(BATCH, 0, 1);
    writer.append(record);
    await writer.close();
    const [read] = await harness.fresh().readResults(BATCH);
    expect(read?.record).toEqual(record);
  });

  it('of a late attempt are added beside those of the attempt that took over, never over them', async () => {
    const harness = createHarness();
    const late = harness.fresh().resultWriter(BATCH, 0, 1);
    const next = harness.fresh().resultWriter(BATCH, 0, 2);
    next.append(resultRecord({ attempt: 2, cursorAfter: '2' }));
    await next.close();
    const before = await harness.stored();
    late.append(resultRecord({ attempt: 1, cursorAfter: '1' }));
    await late.close();
    const after = await harness.stored();
    for (const [key, bytes] of before) expect(after.get(key)).toEqual(bytes);
    expect([...after.keys()]).toEqual([at('results/0.1-0'), at('results/0.2-0')]);
    const read = await harness.fresh().readResults(BATCH);
    expect(read.map(({ record, at: { object } }) => [record.cursorAfter, object])).toEqual([
      ['1', 'results/0.1-0'],
      ['2', 'results/0.2-0'],
    ]);
  });

  it('of an attempt that ran twice under one number step over the names that are taken', async () => {
    const harness = createHarness();
    for (const cursorAfter of ['first', 'second']) {
      const writer = harness.fresh().resultWriter(BATCH, 0, 1);
      writer.append(resultRecord({ cursorAfter }));
      await writer.close();
    }
    const read = await harness.fresh().readResults(BATCH);
    expect(read.map(({ record, at: { object } }) => [record.cursorAfter, object])).toEqual([
      ['first', 'results/0.1-0'],
      ['second', 'results/0.1-1'],
    ]);
  });

  it('are whole objects only when the process is killed while it writes them', async () => {
    const root = await mkdtemp(join(tmpdir(), 'milkrun-snapshot-'));
    try {
      const key = keyText();
      const child = spawn(process.execPath, ['--input-type=module', '-e', ENDLESS_POLLS, root, key, BATCH], {
        cwd: new URL('.', import.meta.url),
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const closed = once(child, 'close');
      let stored = 0;
      for await (const chunk of child.stdout) {
        stored += String(chunk).length;
        if (stored >= 3) child.kill('SIGKILL');
      }
      await closed;
      const objects = createFsObjectStore(root);
      const harness = createHarness(objects);
      const read = await harness.fresh(createLocalKeys(key)).readResults(BATCH);
      expect(harness.reported).toEqual([]);
      expect(read.length).toBeGreaterThanOrEqual(3_000);
      expect(read.map(({ record }) => record.page)).toEqual(read.map((_, page) => page));
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  });
});

/** Appends results without end and says one letter for each object stored. */
const ENDLESS_POLLS = `
  const { createFsObjectStore } = await import('@milkrun/object-store');
  const { noLog, noMetrics, systemClock } = await import('@milkrun/core');
  const { createLocalKeys } = await import(${JSON.stringify(new URL('../../src/snapshot/local-keys.ts', import.meta.url).href)});
  const { createSnapshots } = await import(${JSON.stringify(new URL('../../src/snapshot/snapshot.ts', import.meta.url).href)});
  const [, root, key, batchId] = process.argv;
  const metrics = { ...noMetrics, count: (name) => void (name === 'polling.snapshot.puts' && process.stdout.write('.')) };
  const snapshots = createSnapshots({ objects: createFsObjectStore(root), keys: createLocalKeys(key), clock: systemClock, metrics, log: noLog });
  const writer = snapshots.resultWriter(batchId, 0, 1);
  for (let page = 0; ; page += 1) {
    const record = { triggerId: 't', leaseEpoch: 1, hop: 0, attempt: 1, page, code: 'ok', events: [], newKeys: '',
      cursorAfter: 'x'.repeat(1_000) + page, more: false, deduplicated: 0, pollMs: 1 };
    await writer.append(record);
    if (page % 250 === 0) await new Promise((resolve) => setImmediate(resolve));
  }`;

describe('verdicts and deliveries of a snapshot', () => {
  it('come back in order, deliveries with the result they delivered', async () => {
    const harness = createHarness();
    const snapshots = harness.fresh();
    const verdict: VerdictRecord = {
      triggerId: idOf(1),
      leaseEpoch: 7,
      hop: 0,
      code: 'auth.expired',
      reason: 'it has',
      retryAfterSeconds: 5,
    };
    await snapshots.writeVerdicts(BATCH, 1, 1, 0, [{ ...verdict, hop: 1 }]);
    await snapshots.writeVerdicts(BATCH, 0, 1, 0, [verdict]);
    expect(await harness.fresh().readVerdicts(BATCH)).toEqual([verdict, { ...verdict, hop: 1 }]);

    const writer = snapshots.deliveredWriter(BATCH, 0, 1);
    await writer.record([]);
    await writer.record([delivered(0), delivered(1, { status: 'gone' })]);
    await writer.record([delivered(2, { eventIds: ['evt_a'] })]);
    const read = await harness.fresh().readDelivered(BATCH);
    expect(read.map(({ record }) => record)).toEqual([
      delivered(0),
      delivered(1, { status: 'gone' }),
      delivered(2, { eventIds: ['evt_a'] }),
    ]);
    expect(read.map(({ at: { object, line } }) => `${object}:${line}`)).toEqual([
      'delivered/0.1-0:0',
      'delivered/0.1-0:1',
      'delivered/0.1-1:0',
    ]);
  });

  it('are durable when the writer says so, and share objects where lanes record side by side', async () => {
    const harness = createHarness();
    const writer = harness.fresh().deliveredWriter(BATCH, 0, 1);
    await Promise.all(
      Array.from({ length: 64 }, async (_, n) => {
        await writer.record([delivered(n)]);
        const seen = await harness.fresh().readDelivered(BATCH);
        expect(seen.some(({ record }) => record.triggerId === idOf(n))).toBe(true);
      }),
    );
    expect(await harness.fresh().readDelivered(BATCH)).toHaveLength(64);
    expect((await harness.objects.list(at('delivered/'))).length).toBeLessThanOrEqual(3);
  });

  it('fail for the lanes whose object could not be written, and go on for the next', async () => {
    const harness = createHarness();
    const writer = harness.fresh().deliveredWriter(BATCH, 0, 1);
    const { putIfAbsent } = harness.objects;
    harness.objects.putIfAbsent = () => Promise.reject(new ObjectStoreUnavailable('away'));
    await expect(writer.record([delivered(0)])).rejects.toThrow(ObjectStoreUnavailable);
    harness.objects.putIfAbsent = putIfAbsent;
    await writer.record([delivered(1)]);
    expect((await harness.fresh().readDelivered(BATCH)).map(({ record }) => record)).toEqual([delivered(1)]);
  });
});

/** As random as the ids of real triggers, which do not compress. */
const randomIdOf = (n: number): string => {
  const hex = createHash('sha256').update(String(n)).digest('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `a${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    '-',
  );
};

describe('a batch of 5,000 with events on every tenth', () => {
  it('costs at most 3.5 objects per 1,000 polls and 1.1 times one compressed entry and result each', async () => {
    const written = { puts: 0, bytes: 0 };
    const { objects, keys } = createHarness();
    const metrics: Metrics = {
      ...noMetrics,
      count: (name, value = 1) => {
        if (name === 'polling.snapshot.puts') written.puts += value;
        if (name === 'polling.snapshot.bytes') written.bytes += value;
      },
    };
    const snapshots = createSnapshots({ objects, keys, clock: systemClock, metrics, log: noLog });
    const entries = Array.from({ length: 5_000 }, (_, n) =>
      trigger({ triggerId: randomIdOf(n), connectionId: `connection-${n}`, config: `{"query":"${n}"}` }),
    );
    const results = entries.map(({ triggerId }, n) =>
      resultRecord({ triggerId, cursorAfter: `"${n}"`, events: n % 10 === 0 ? eventsOf(`item ${n}`) : [] }),
    );
    await snapshots.writeEntries(BATCH, entries);
    await snapshots.writeAuth(BATCH, 0, 1, [auth()]);
    const writer = snapshots.resultWriter(BATCH, 0, 1);
    for (const record of results) await writer.append(record);
    await writer.close();
    const deliveries = snapshots.deliveredWriter(BATCH, 0, 1);
    const delivering = (await snapshots.readResults(BATCH)).filter(({ record }) => record.events.length > 0);
    // Chunks hold up to 500 events: eight lanes have one each.
    const laneOf = (lane: number) => delivering.flatMap((_, n) => (n % 8 === lane ? [delivered(n)] : []));
    await Promise.all(Array.from({ length: 8 }, (_, lane) => deliveries.record(laneOf(lane))));
    expect(delivering).toHaveLength(500);
    expect(written.puts).toBeLessThanOrEqual(17);
    const compressed = async (records: readonly object[]): Promise<number> =>
      (await encodeLines(records.map((record) => JSON.stringify(record)))).byteLength;
    expect(written.bytes / ((await compressed(entries)) + (await compressed(results)))).toBeLessThanOrEqual(1.1);
  });
});

describe('the cache of decoded objects', () => {
  it('lets the batch used longest ago go, by count and by bytes, and never the one in use', () => {
    const cache = createDecodedCache(3, 100);
    for (const batch of ['a', 'b', 'c']) cache.set(batch, 'entries', [{ batch }], 20);
    cache.get('a', 'entries');
    cache.set('d', 'entries', [{}], 20);
    expect(['a', 'b', 'c', 'd'].filter((batch) => cache.get(batch, 'entries') !== undefined)).toEqual(['a', 'c', 'd']);
    cache.set('e', 'entries', [{}], 1_000);
    expect(['a', 'c', 'd', 'e'].filter((batch) => cache.get(batch, 'entries') !== undefined)).toEqual(['e']);
    cache.forget('e');
    cache.set('f', 'entries', [{}], 90);
    cache.set('g', 'entries', [{}], 10);
    expect(['e', 'f', 'g'].filter((batch) => cache.get(batch, 'entries') !== undefined)).toEqual(['f', 'g']);
  });
});
