import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import {
  checkConnector,
  createHandler,
  defineConnector,
  httpJson,
  PollError,
  synthetic,
  syntheticKey,
  syntheticSlots,
} from '../src/index.ts';
import { HOSTILE_MODES } from '../src/synthetic/hostile.ts';
import { ask, clockAt, keysOf } from './support.ts';

const START = Date.UTC(2026, 10, 25);
const at = (minutes: number) => clockAt(START + minutes * 60_000);

describe('synthetic', () => {
  it('gives the same item the same key, time and content, whoever asks and whenever', async () => {
    const config = { ratePerMinute: 2, seed: 's' };
    const since = new Date(START).toISOString();
    const early = await ask(synthetic, { config, since, clock: at(3) });
    const late = await ask(synthetic, { config, since, clock: at(5) });
    expect(early.events).toHaveLength(7);
    expect(late.events.slice(0, 7)).toEqual(early.events);
  });

  it('loses and repeats nothing over pages, polls and fractional rates', async () => {
    for (const [ratePerMinute, phase] of [
      [0.3, 0],
      [1, 0.25],
      [7, 0.999],
      [60, 0],
    ] as const) {
      const config = { ratePerMinute, phase, pageSize: 13 };
      const seen: unknown[] = [];
      let cursor: unknown = null;
      for (const minutes of [0, 0.4, 1, 1, 9.7, 30]) {
        for (let more = true; more; ) {
          const page = await ask(synthetic, {
            config,
            cursor,
            since: new Date(START).toISOString(),
            clock: at(minutes),
          });
          seen.push(...keysOf(page));
          ({ cursor } = page);
          more = page.more === true;
        }
      }
      const { first, last } = syntheticSlots(ratePerMinute, START, START + 30 * 60_000, phase);
      const expected = Array.from({ length: last - first + 1 }, (_, i) => syntheticKey(first + i));
      expect(seen).toEqual(expected);
    }
  });

  it('lists known items again where asked to', async () => {
    const config = { relist: 3 };
    const first = await ask(synthetic, { config, clock: at(0) });
    const second = await ask(synthetic, { config, clock: at(1), cursor: first.cursor });
    expect(keysOf(second)).toEqual([...keysOf(first).slice(-3), ...keysOf(second).slice(-1)]);
    expect(second.events).toHaveLength(4);
  });

  it('fails as often as asked, by class', async () => {
    const config = { failures: { transient: 0.2, rate_limited: 0.2, crash: 0.1 } };
    const counts: Record<string, number> = {};
    for (let i = 0; i < 1_000; i += 1) {
      const reply = await ask(synthetic, { config, clock: clockAt(START + i) });
      const name = reply.error === undefined ? 'ok' : reply.error.class;
      counts[name] = (counts[name] ?? 0) + 1;
    }
    expect(Object.keys(counts).sort()).toEqual(['connector', 'ok', 'rate_limited', 'transient']);
    for (const [name, share] of [
      ['ok', 0.5],
      ['transient', 0.2],
      ['rate_limited', 0.2],
      ['connector', 0.1],
    ] as const) {
      expect(Math.abs((counts[name] ?? 0) / 1_000 - share)).toBeLessThan(0.05);
    }
  });

  it('has an answer for each hostile mode, and a hanging one ends at the deadline', async () => {
    for (const mode of HOSTILE_MODES) {
      const reply: unknown = await ask(synthetic, { config: { hostile: { mode } }, clock: at(0), deadlineMs: 300 });
      expect(typeof reply).toBe('object');
      if (mode === 'hang') expect(reply).toMatchObject({ error: { class: 'transient' } });
    }
  });

  it('passes the conformance kit', async () => {
    const since = new Date(START).toISOString();
    const invalidConfigs = [
      { ratePerMinute: 0 },
      { failures: { transient: 0.7, auth: 0.7 } },
      { hostile: { mode: 'x' } },
    ];
    const checks = await checkConnector(synthetic, {
      config: { ratePerMinute: 3 },
      invalidConfigs,
      since,
      clock: at(2),
    });
    expect(checks.flatMap(({ problems }) => problems)).toEqual([]);
  });
});

describe('handler', () => {
  const failing = (error: unknown) =>
    defineConnector({
      toolkit: 't',
      slug: 's',
      title: 'T',
      version: '3',
      configSchema: z.object({}),
      eventSchema: z.unknown(),
      dedupe: 'unique',
      defaultIntervalSeconds: 60,
      minimumIntervalSeconds: 60,
      repeatable: true,
      poll: () => (error === undefined ? Promise.resolve({ events: [], cursor: 1 }) : Promise.reject(error)),
    });

  it.each([
    [
      new PollError('rate_limited', 'slow', { retryAfter: 5 }),
      { class: 'rate_limited', message: 'slow', retryAfter: 5 },
    ],
    [new TypeError('x'.repeat(900)), { class: 'connector', message: `TypeError: ${'x'.repeat(489)}` }],
    ['text', { class: 'connector', message: 'the connector failed' }],
  ])('answers a thrown %s with its class', async (thrown, error) => {
    expect(await ask(failing(thrown), { config: {} })).toEqual({ error });
  });

  it('says the connector’s version and what is wrong with a request', async () => {
    expect(await ask(failing(undefined), { config: {} })).toEqual({ events: [], cursor: 1, version: '3' });
    expect(await ask(failing(undefined), { config: 7 })).toMatchObject({ error: { class: 'permanent' } });
    const handler = createHandler([httpJson]);
    for (const request of [null, {}, [], { trigger: { id: '' } }, 'x']) {
      expect(await handler(request)).toMatchObject({ error: { class: 'connector' } });
    }
    const unknown = {
      trigger: { id: 'a', slug: 'nope', version: '1', config: {} },
      cursor: null,
      limits: { deadlineMs: 1, eventsMax: 1 },
    };
    expect(await handler(unknown)).toMatchObject({
      error: { class: 'permanent', message: expect.stringContaining('nope') },
    });
  });

  it('refuses two connectors of one name and definitions that contradict themselves', () => {
    expect(() => createHandler([httpJson, httpJson])).toThrow(RangeError);
    const base = {
      toolkit: 't',
      title: 'T',
      version: '1',
      configSchema: z.object({}),
      eventSchema: z.unknown(),
      repeatable: true,
    };
    const poll = () => Promise.resolve({ events: [], cursor: null });
    const times = { defaultIntervalSeconds: 60, minimumIntervalSeconds: 30 };
    expect(() => defineConnector({ ...base, ...times, slug: 'A b', dedupe: 'unique', poll })).toThrow(RangeError);
    expect(() => defineConnector({ ...base, ...times, slug: 'a', dedupe: 'watermark', poll })).toThrow(
      'overlapSeconds',
    );
    const never = { defaultIntervalSeconds: 10, minimumIntervalSeconds: 30 };
    expect(() => defineConnector({ ...base, ...never, slug: 'a', dedupe: 'unique', poll })).toThrow('interval');
  });
});

describe('conformance kit', () => {
  it('finds what is wrong with a connector that breaks every rule', async () => {
    let calls = 0;
    const wrong = defineConnector({
      toolkit: 't',
      slug: 'wrong',
      title: 'T',
      version: '1',
      configSchema: z.any(),
      eventSchema: z.object({ id: z.string() }),
      dedupe: 'watermark',
      overlapSeconds: 1,
      defaultIntervalSeconds: 60,
      minimumIntervalSeconds: 60,
      repeatable: true,
      poll: async () => {
        calls += 1;
        const events = [
          { key: `${calls}`, occurredAt: 'soon', data: { id: 1 } },
          { key: `${calls}`, data: { id: '1' } },
          { key: '', data: { id: '' } },
        ];
        return { events, cursor: 'a\0'.repeat(9_000), more: true };
      },
    });
    const checks = await checkConnector(wrong, { config: {} });
    expect(checks.map(({ ok }) => ok)).toEqual([false, false, false, false, false, false]);
  });
});
