/** When a result writer stores, what it holds back, and how a failure comes out. */
import { type Clock, systemClock } from '@milkrun/core';
import { describe, expect, it } from 'vitest';
import { decodeLines, encodeLines, parseObject } from '../../src/snapshot/codec.ts';
import type { ResultRecord } from '../../src/snapshot/records.ts';
import { createResultWriter } from '../../src/snapshot/result-writer.ts';
import { resultRecord } from '../factories.ts';

interface Stores {
  readonly sizes: number[];
  /** Lets the oldest store in flight end. */
  finish(error?: Error): void;
  readonly store: (records: readonly ResultRecord[], lines: readonly string[]) => Promise<void>;
  inFlight(): number;
}

function heldStores(): Stores {
  const sizes: number[] = [];
  const open: { resolve: () => void; reject: (error: Error) => void }[] = [];
  return {
    sizes,
    inFlight: () => open.length,
    finish(error) {
      const oldest = open.shift();
      if (error === undefined) oldest?.resolve();
      else oldest?.reject(error);
    },
    store(records) {
      sizes.push(records.length);
      return new Promise((resolve, reject) => open.push({ resolve, reject }));
    },
  };
}

const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
};

describe('a result writer', () => {
  it('stores every 1,000 records, one object at a time and in order', async () => {
    const stores = heldStores();
    const writer = createResultWriter(stores.store, systemClock);
    for (let page = 0; page < 2_500; page += 1) expect(writer.append(resultRecord({ page }))).toBeUndefined();
    await settled();
    expect([stores.sizes, stores.inFlight()]).toEqual([[1_000], 1]);
    stores.finish();
    await settled();
    expect([stores.sizes, stores.inFlight()]).toEqual([[1_000, 1_000], 1]);
    const closed = writer.close();
    stores.finish();
    await settled();
    stores.finish();
    await closed;
    expect(stores.sizes).toEqual([1_000, 1_000, 500]);
  });

  it('stores what waits after 2 s, and nothing when nothing waits', async () => {
    const stores = heldStores();
    const asleep: { ms: number; wake: () => void; signal: AbortSignal | undefined }[] = [];
    const clock: Clock = {
      ...systemClock,
      sleep: (ms, signal) => new Promise((wake) => asleep.push({ ms, wake, signal })),
    };
    const writer = createResultWriter(stores.store, clock);
    writer.append(resultRecord());
    writer.append(resultRecord());
    await settled();
    expect([asleep.map(({ ms }) => ms), stores.sizes]).toEqual([[2_000], []]);
    asleep[0]?.wake();
    await settled();
    expect(stores.sizes).toEqual([2]);
    stores.finish();
    await settled();
    writer.append(resultRecord());
    const closed = writer.close();
    await settled();
    stores.finish();
    await closed;
    expect([stores.sizes, asleep.map(({ signal }) => signal?.aborted)]).toEqual([
      [2, 1],
      [true, true],
    ]);
  });

  it('stores at 8 MiB of text and makes its caller wait above 16', async () => {
    const stores = heldStores();
    const writer = createResultWriter(stores.store, systemClock);
    const large = resultRecord({ cursorAfter: 'x'.repeat(3 * 1024 * 1024) });
    const waits = Array.from({ length: 6 }, () => writer.append(large));
    await settled();
    expect(stores.sizes).toEqual([3]);
    expect(waits.map((wait) => wait !== undefined)).toEqual([false, false, false, false, false, true]);
    stores.finish();
    await settled();
    stores.finish();
    await waits.at(-1);
    expect(stores.sizes).toEqual([3, 3]);
    expect(writer.append(resultRecord())).toBeUndefined();
    const closed = writer.close();
    await settled();
    stores.finish();
    await closed;
  });

  it('throws what storing threw at the next append and at close, and stores nothing after it', async () => {
    const stores = heldStores();
    const writer = createResultWriter(stores.store, systemClock);
    for (let page = 0; page < 1_000; page += 1) writer.append(resultRecord({ page }));
    await settled();
    stores.finish(new Error('the store is away'));
    await settled();
    expect(() => writer.append(resultRecord())).toThrow('the store is away');
    await expect(writer.close()).rejects.toThrow('the store is away');
    expect(stores.sizes).toEqual([1_000]);
  });
});

describe('lines of an object', () => {
  it.each([0, 1, 249, 250, 251, 1_000])('come back, %d of them', async (count) => {
    const values = Array.from({ length: count }, (_, n) => ({ n, text: `\u2028 ünï ${n}` }));
    const bytes = await encodeLines(values.map((value) => JSON.stringify(value)));
    expect(await decodeLines(bytes)).toEqual(values);
  });

  it('may be larger than a slice', async () => {
    const values = Array.from({ length: 5 }, (_, n) => ({ n, text: 'x'.repeat(300_000) }));
    expect(await decodeLines(await encodeLines(values.map((value) => JSON.stringify(value))))).toEqual(values);
  });

  it('may be text with line breaks between its tokens', async () => {
    expect(await decodeLines(await encodeLines(['{\n  "a": [1,\r\n 2]\n}', '{"b":"\\n"}']))).toEqual([
      { a: [1, 2] },
      { b: '\n' },
    ]);
  });

  it.each(['1', '[]', 'null', '"x"', '', '{'])('are refused when one is %j', async (line) => {
    await expect(encodeLines([line]).then(decodeLines)).rejects.toThrow();
  });

  it.each([
    '{"__proto__":{"admin":true},"a":1}',
    '{"a":1,"__\\u0070roto__":{"admin":true}}',
    '{"a":1,"\\u005f_proto__":[{"admin":true}]}',
  ])('never carry a prototype: %s', (text) => {
    const value = parseObject(text) as { a: number; admin?: boolean };
    expect(Object.keys(value)).toEqual(['a']);
    expect(Object.assign({}, value)).toEqual({ a: 1 });
    expect((Object.assign({}, value) as { admin?: boolean }).admin).toBeUndefined();
    expect(({} as { admin?: boolean }).admin).toBeUndefined();
  });
});
