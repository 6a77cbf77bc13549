import { expect, test } from 'vitest';
import {
  decidePage,
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
