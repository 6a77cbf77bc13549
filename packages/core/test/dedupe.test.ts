import { expect, test } from 'vitest';
import {
  canonicalJson,
  decidePage,
  EVENT_BYTES_MAX,
  eventIdOf,
  keyHashOf,
  newChain,
  type PageInput,
  type PageOutcome,
  rememberKeys,
  SEEN_KEYS_MAX,
  SeenIndex,
} from '../src/index.ts';

const source = {
  triggerId: '3f2b8c1e-6f0a-4a53-9d53-0d6f1c5b7a10',
  toolkit: 'npm',
  slug: 'npm-package',
  triggerVersion: '1',
  batchId: 'batch-poller:0:018bcfe5-6800-7fff-bfff-ffffffffffff',
};

function seenIndex(seen: Uint8Array = new Uint8Array(0)): SeenIndex {
  const index = new SeenIndex();
  index.load(seen);
  return index;
}

function page(items: readonly unknown[], over: Partial<PageInput> = {}): PageOutcome {
  return decidePage({
    source,
    epoch: 1,
    page: 0,
    items,
    more: false,
    eventsMax: 500,
    policy: { dedupe: 'unique', repeatable: true },
    prime: null,
    chain: newChain(seenIndex()),
    ...over,
  });
}

function ok(outcome: PageOutcome) {
  if (outcome.code !== 'ok') throw new Error(outcome.message);
  return outcome;
}

const keysOf = (outcome: PageOutcome): Uint8Array =>
  Buffer.concat(
    [...ok(outcome).events.map((e) => e.key), ...ok(outcome).quietKeys].map((key) => Buffer.from(key, 'base64')),
  );

test('an item is told once and known from then on', () => {
  const first = page([
    { key: 'a', data: 1 },
    { key: 'b', data: 2 },
    { key: 'a', data: 1 },
  ]);
  expect(ok(first).events).toHaveLength(2);
  const second = page(
    [
      { key: 'a', data: 1 },
      { key: 'b', data: 2 },
    ],
    { chain: newChain(seenIndex(keysOf(first))) },
  );
  expect(ok(second)).toMatchObject({ events: [], deduplicated: 2 });
});

test('an item without a key is known by its data, whatever the order of its members', () => {
  const first = page([{ data: { a: 1, b: [2] } }]);
  expect(ok(page([{ data: { b: [2], a: 1 } }], { chain: newChain(seenIndex(keysOf(first))) })).events).toEqual([]);
});

test('a prime tells only what the provider dates at or after createdAt, or after since', () => {
  const createdAtMs = Date.parse('2026-01-10T00:00:00Z');
  const items = [
    { key: 'old', occurredAt: '2026-01-09T23:59:59Z', data: 0 },
    { key: 'same', occurredAt: '2026-01-10T00:00:00Z', data: 0 },
    { key: 'undated', data: 0 },
  ];
  const plain = ok(page(items, { prime: { createdAtMs, sinceMs: null } }));
  expect(plain.events).toHaveLength(1);
  expect(plain.quietKeys).toHaveLength(2);
  const since = ok(page(items, { prime: { createdAtMs, sinceMs: Date.parse('2026-01-01T00:00:00Z') } }));
  expect(since.events).toHaveLength(2);
});

test('a bad item goes to dead letters once and the rest go on', () => {
  const items = [
    { key: '', data: 1 },
    'text',
    null,
    { key: 'k'.repeat(513), data: 1 },
    { key: 'x' },
    { key: 'good', data: 1 },
    { key: 'd', occurredAt: 'never', data: 1 },
  ];
  const first = page(items);
  expect(ok(first).events).toHaveLength(1);
  expect(ok(first).deadLetters).toHaveLength(6);
  expect(ok(page(items, { chain: newChain(seenIndex(keysOf(first))) }))).toMatchObject({ events: [], deadLetters: [] });
});

test('NUL and lone surrogates are replaced in data with a mark, and refused in a key', () => {
  const outcome = ok(page([{ key: 'k', data: { 'a\u0000': 'x\ud800y', good: '😀' } }]));
  const event = JSON.parse(outcome.events[0]?.json ?? '') as { cleaned: boolean; data: unknown };
  expect(event.cleaned).toBe(true);
  expect(event.data).toEqual({ 'a\ufffd': 'x\ufffdy', good: '😀' });
  expect(page([{ key: 'a\u0000', data: 1 }]).code).toBe('poll.response_invalid');
});

test('hostile member names change no prototype', () => {
  const items = JSON.parse(
    '[{"key":"k","data":{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}}]',
  );
  const outcome = ok(page(items));
  expect(outcome.events[0]?.json).toContain('"__proto__":{"polluted":true}');
  expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
});

test('a listing longer than can be remembered is refused, never evicted in silence', () => {
  const items = Array.from({ length: SEEN_KEYS_MAX + 1 }, (_, n) => ({
    key: String(n),
    occurredAt: new Date(n * 60_000).toISOString(),
    data: n,
  }));
  expect(page(items).code).toBe('poll.listing_too_large');
  const watermark = { dedupe: 'watermark', overlapSeconds: 3600, repeatable: true } as const;
  expect(page(items, { policy: watermark }).code).toBe('ok');
  expect(page(items, { policy: { ...watermark, overlapSeconds: 10_000_000 } }).code).toBe('poll.listing_too_large');
});

test('a full page without a known key raises gap_suspected, but not on a prime, with more, or on a first listing', () => {
  const items = Array.from({ length: 3 }, (_, n) => ({ key: `n${n}`, data: n }));
  const known = () => newChain(seenIndex(keysOf(page([{ key: 'before', data: 0 }]))));
  expect(ok(page(items, { eventsMax: 3, chain: known() })).gapSuspected).toBe(true);
  expect(ok(page(items, { eventsMax: 3 })).gapSuspected).toBe(false);
  expect(ok(page(items, { eventsMax: 3, more: true, chain: known() })).gapSuspected).toBe(false);
  expect(ok(page([...items, { key: 'before', data: 0 }], { eventsMax: 3, chain: known() })).gapSuspected).toBe(false);
});

test('the oldest key that the last listing did not name is forgotten first', () => {
  const hash = (n: number) => Buffer.from(BigUint64Array.of(BigInt(n) * 2654435761n).buffer);
  const seen = Buffer.concat(Array.from({ length: SEEN_KEYS_MAX }, (_, n) => hash(n + 1)));
  const listing = Buffer.concat([hash(1), hash(SEEN_KEYS_MAX + 1)]);
  const kept = new SeenIndex();
  kept.load(rememberKeys(seen, hash(SEEN_KEYS_MAX + 1), listing));
  expect(kept.size).toBe(SEEN_KEYS_MAX);
  expect([1, 2, 3, SEEN_KEYS_MAX + 1].map((n) => kept.has(hash(n)))).toEqual([true, false, true, true]);
});

const hashText = (key: string): string => Buffer.from(keyHashOf(key)).toString('base64');
const nestedData = (levels: number): unknown => JSON.parse('['.repeat(levels) + ']'.repeat(levels));

test.each<[string, unknown, string]>([
  ['no object', 7, 'an item must be an object with data'],
  ['a function of none', () => 1, 'an item must be an object with data'],
  ['a list', [], 'an item must be an object with data'],
  ['nothing', null, 'an item must be an object with data'],
  ['no data', { key: 'a' }, 'the item has no data'],
  ['an empty key', { key: '', data: 1 }, 'key must be a non-empty string'],
  ['a key that is null', { key: null, data: 1 }, 'key must be a non-empty string'],
  ['a key of 513 bytes', { key: `${'k'.repeat(511)}é`, data: 1 }, 'key is longer than 512 bytes'],
  ['a time that is none', { key: 'a', occurredAt: 'never', data: 1 }, 'occurredAt is not an RFC 3339 time'],
  [
    'a time that is a number',
    { key: 'a', occurredAt: 1_700_000_000_000, data: 1 },
    'occurredAt is not an RFC 3339 time',
  ],
])('an item with %s is a dead letter that holds the item and says why', (_what, item, reason) => {
  const outcome = ok(page([item]));
  const [letter, ...others] = outcome.deadLetters;
  expect([letter, others]).toMatchObject([{ stage: 'poll', code: 'poll.item_invalid', reason }, []]);
  expect(Buffer.from(letter?.raw ?? []).toString()).toBe(JSON.stringify(item) ?? 'null');
  // Known by the whole item, whatever key it claimed: a good one under that key is still told.
  expect([outcome.events, outcome.quietKeys]).toEqual([[], [hashText(canonicalJson(item))]]);
});

test('a key of 512 bytes, a time that is null and data that is null are good', () => {
  const items = [
    { key: 'k'.repeat(512), data: null },
    { key: 'b', occurredAt: null, data: 1 },
  ];
  const { events, deadLetters } = ok(page(items));
  expect(events.map(({ key }) => key)).toEqual([hashText('k'.repeat(512)), hashText('b')]);
  expect(events.map(({ eventId }) => eventId)).toEqual([
    eventIdOf(source.triggerId, 'k'.repeat(512)),
    eventIdOf(source.triggerId, 'b'),
  ]);
  expect(deadLetters).toEqual([]);
});

test('an item without a key has the identity of its data, not of what stands beside it', () => {
  const { events } = ok(page([{ occurredAt: '2026-01-02T00:00:00Z', data: { b: 1, a: 2 } }]));
  expect(events[0]).toMatchObject({
    key: hashText('{"a":2,"b":1}'),
    eventId: eventIdOf(source.triggerId, '{"a":2,"b":1}'),
  });
});

test('an event says when its item occurred, in UTC, and where it stood', () => {
  const items = [
    { key: 'a', data: 1 },
    { key: 'b', occurredAt: '2026-01-02T02:00:00+02:00', data: 1 },
  ];
  const [undated, dated] = ok(page(items, { epoch: 4, page: 2 })).events.map(({ json }) => JSON.parse(json));
  expect(undated).not.toHaveProperty('time');
  expect([undated.sequence, dated.sequence]).toEqual(['0000000004.002.000000', '0000000004.002.000001']);
  expect(dated.time).toBe('2026-01-02T00:00:00.000Z');
});

test('what is known and what stands twice is counted, each time', () => {
  const known = newChain(
    seenIndex(
      keysOf(
        page([
          { key: 'a', data: 0 },
          { key: 'b', data: 0 },
        ]),
      ),
    ),
  );
  const items = ['a', 'b', 'c', 'c', 'c'].map((key) => ({ key, data: 0 }));
  expect(ok(page(items, { chain: known }))).toMatchObject({ deduplicated: 4, events: [{ key: hashText('c') }] });
});

test('a chain knows what an earlier page of it held', () => {
  const chain = newChain(seenIndex());
  expect(ok(page([{ key: 'a', data: 0 }], { chain })).events).toHaveLength(1);
  expect(ok(page([{ key: 'a', data: 0 }], { chain, page: 1 }))).toMatchObject({ events: [], deduplicated: 1 });
  expect(chain.listing).toEqual([hashText('a')]);
});

test('a prime tells nothing undated, nothing before, and what lies on the edge of createdAt or since', () => {
  const at = (iso: string) => ({ key: iso, occurredAt: iso, data: 0 });
  const items = ['2026-01-09T23:59:59.999Z', '2026-01-10T00:00:00.000Z', '2026-01-11T00:00:00.000Z'].map(at);
  const told = (createdAt: string, since: string | null): number =>
    ok(
      page([...items, { key: 'undated', data: 0 }], {
        prime: { createdAtMs: Date.parse(createdAt), sinceMs: since === null ? null : Date.parse(since) },
      }),
    ).events.length;
  expect(told('2026-01-10T00:00:00Z', null)).toBe(2);
  expect(told('2026-02-01T00:00:00Z', null)).toBe(0);
  expect(told('2026-02-01T00:00:00Z', '2026-01-10T00:00:00Z')).toBe(2);
  expect(told('2026-02-01T00:00:00Z', '2026-01-10T00:00:00.001Z')).toBe(1);
  // A connector may be asked for what came before the epoch of the machines.
  expect(told('1960-01-01T00:00:00Z', null)).toBe(3);
});

test('an item deeper than the stack and an event too large are dead letters under the id they would have had', () => {
  const deep = nestedData(30_000);
  const items = [
    { key: 'deep', data: deep },
    { key: 'huge', data: 'x'.repeat(EVENT_BYTES_MAX) },
    { key: 'good', data: 0 },
  ];
  const outcome = ok(page(items));
  expect(outcome.events.map(({ key }) => key)).toEqual([hashText('good')]);
  expect(outcome.quietKeys).toEqual([hashText('deep'), hashText('huge')]);
  expect(outcome.deadLetters).toMatchObject([
    { code: 'poll.item_invalid', reason: 'the item nests too deeply', eventId: eventIdOf(source.triggerId, 'deep') },
    { code: 'poll.item_too_large', eventId: eventIdOf(source.triggerId, 'huge') },
  ]);
  const [first, second] = outcome.deadLetters.map(({ raw }) => Buffer.from(raw).toString());
  expect(first).toBe('['.repeat(30_000) + ']'.repeat(30_000));
  // Cut, so that a huge item costs no huge row.
  expect(second).toBe(`"${'x'.repeat(256 * 1024 - 1)}`);
});

test('an event of just the limit is told, and one byte more is not', () => {
  const frame = ok(page([{ key: 'fits', data: '' }])).events[0]?.json.length as number;
  const ofSize = (bytes: number) => ok(page([{ key: 'fits', data: 'x'.repeat(bytes - frame) }]));
  expect(ofSize(EVENT_BYTES_MAX).events).toHaveLength(1);
  expect(ofSize(EVENT_BYTES_MAX + 1).deadLetters).toHaveLength(1);
});

test('a listing of just what can be remembered is good, and a window counts what is undated and what lies on its edge', () => {
  const minute = (n: number) => new Date(n * 60_000).toISOString();
  const items = (count: number) =>
    Array.from({ length: count }, (_, n) => ({ key: String(n), occurredAt: minute(n), data: n }));
  expect(page(items(SEEN_KEYS_MAX)).code).toBe('ok');
  const keyless = Array.from({ length: SEEN_KEYS_MAX + 1 }, (_, n) => ({ key: String(n), data: n }));
  const window = (overlapSeconds: number | undefined, list: readonly object[]) =>
    page(list, {
      policy: { dedupe: 'watermark', repeatable: true, ...(overlapSeconds === undefined ? {} : { overlapSeconds }) },
    }).code;
  // 5,002 items a minute apart; the window from the newest back holds one more than its minutes.
  const many = items(SEEN_KEYS_MAX + 2);
  expect([window((SEEN_KEYS_MAX - 1) * 60, many), window(SEEN_KEYS_MAX * 60, many)]).toEqual([
    'ok',
    'poll.listing_too_large',
  ]);
  expect(window((SEEN_KEYS_MAX - 1) * 60, many.toReversed())).toBe('ok');
  expect(window(undefined, many)).toBe('ok');
  expect(window(0, keyless)).toBe('poll.listing_too_large');
});

test('a gap is suspected at a page of the limit or above it, never below, and never while priming', () => {
  const items = Array.from({ length: 3 }, (_, n) => ({ key: `n${n}`, occurredAt: '2026-01-02T00:00:00Z', data: n }));
  const known = () => newChain(seenIndex(keysOf(page([{ key: 'before', data: 0 }]))));
  const suspected = (over: Partial<PageInput>) => ok(page(items, { chain: known(), ...over })).gapSuspected;
  expect([suspected({ eventsMax: 2 }), suspected({ eventsMax: 3 }), suspected({ eventsMax: 4 })]).toEqual([
    true,
    true,
    false,
  ]);
  expect(suspected({ eventsMax: 3, prime: { createdAtMs: 0, sinceMs: null } })).toBe(false);
});
