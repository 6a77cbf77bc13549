import { describe, expect, test } from 'vitest';
import { decideRow } from '../src/decide-row.ts';
import { type FoldedEntry, foldEntries, isDelivered, undelivered } from '../src/fold.ts';
import type { DeliveredRecord, ResultRecord, Stored, VerdictRecord } from '../src/snapshot/records.ts';
import { eventsOf, resultRecord, trigger } from './factories.ts';

const at = (object: string, line = 0) => ({ object, line });
const stored = (
  record: ResultRecord,
  object = `results/${record.hop}.${record.attempt}-0`,
  line = 0,
): Stored<ResultRecord> => ({ record, at: at(object, line) });
const taken = (record: ResultRecord, over: Partial<DeliveredRecord> = {}): DeliveredRecord => ({
  triggerId: record.triggerId,
  leaseEpoch: record.leaseEpoch,
  hop: record.hop,
  attempt: record.attempt,
  result: at(`results/${record.hop}.${record.attempt}-0`),
  status: 'accepted',
  ...over,
});

function fold(input: {
  results?: Stored<ResultRecord>[];
  delivered?: DeliveredRecord[];
  verdicts?: VerdictRecord[];
  hop?: number;
}): FoldedEntry {
  const [entry] = foldEntries({
    entries: [trigger()],
    results: input.results ?? [],
    delivered: input.delivered ?? [],
    verdicts: input.verdicts ?? [],
    hop: input.hop ?? 0,
  });
  return entry as FoldedEntry;
}

function row(entry: FoldedEntry, forced = false) {
  return decideRow(entry, undefined, forced);
}

describe('which chain is the result', () => {
  const early = resultRecord({ attempt: 1, events: eventsOf('a'), cursorAfter: '1' });
  const late = resultRecord({ attempt: 2, events: eventsOf('a', 'b'), cursorAfter: '2' });

  test('the first chain in order counts while nothing was delivered', () => {
    expect(fold({ results: [stored(early), stored(late)] })).toMatchObject({ state: 'polled', chain: { attempt: 1 } });
  });

  test('the chain whose page was first recorded as delivered is the result, even when an earlier one turns up late', () => {
    const entry = fold({ results: [stored(early), stored(late)], delivered: [taken(late)] });
    expect(entry).toMatchObject({ state: 'polled', chain: { attempt: 2 } });
    expect(row(entry)).toMatchObject({ kind: 'row', row: { cursor: '2', events: 2 } });
  });

  test('what a source that cannot be asked again gave on a chain that lost, or behind a lost page, is no result and not forgotten', () => {
    const own = trigger({ pollPolicy: { dedupe: 'unique', repeatable: false } });
    const other = resultRecord({ attempt: 2, events: eventsOf('c'), cursorAfter: '3' });
    const behind = resultRecord({ attempt: 1, page: 2, events: eventsOf('d'), cursorAfter: '4' });
    const results = [stored(early), stored(behind, 'results/0.1-1'), stored(other)];
    const [entry] = foldEntries({ entries: [own], results, delivered: [], verdicts: [], hop: 0 });
    expect(entry).toMatchObject({ state: 'polled', chain: { attempt: 1 }, strays: eventsOf('d', 'c') });
    expect(fold({ results }).strays).toEqual([]);
  });

  test('a record of another epoch is never used', () => {
    expect(fold({ results: [stored(resultRecord({ leaseEpoch: 6 }))] }).state).toBe('claimed');
  });

  test('a page whose predecessor is missing is not used', () => {
    expect(fold({ results: [stored(resultRecord({ page: 1 }))] }).state).toBe('claimed');
  });

  test('pages saved before a failure stand', () => {
    const first = stored(resultRecord({ page: 0, more: true, cursorAfter: '1', events: eventsOf('a') }));
    const entry = fold({ results: [first], delivered: [taken(first.record)] });
    expect(row(entry)).toMatchObject({ kind: 'row', row: { outcome: 'more', cursor: '1', code: 'ok' } });
  });

  test('a listing that cannot be remembered tells no page of its chain', () => {
    const first = stored(resultRecord({ page: 0, more: true, events: eventsOf('a') }));
    const second = stored(resultRecord({ page: 1, code: 'poll.listing_too_large' }), 'results/0.1-0', 1);
    expect(fold({ results: [first, second] })).toMatchObject({ state: 'failed', code: 'poll.listing_too_large' });
  });
});

describe('what a hop starts anew', () => {
  const platform = resultRecord({ code: 'poll.throttled' });

  test('a platform verdict is forgotten by the next hop and released on the last', () => {
    expect(row(fold({ results: [stored(platform)], hop: 0 }))).toEqual({ kind: 'open' });
    expect(fold({ results: [stored(platform)], hop: 1 }).state).toBe('claimed');
    expect(row(fold({ results: [stored(platform)], hop: 0 }), true)).toMatchObject({
      kind: 'row',
      row: { outcome: 'release', code: 'poll.throttled' },
    });
  });

  test('an auth verdict that stops stays, one that is tried again does not', () => {
    const verdict = (code: string): VerdictRecord => ({
      triggerId: trigger().triggerId,
      leaseEpoch: 7,
      hop: 0,
      code,
      reason: 'why',
    });
    expect(fold({ verdicts: [verdict('auth.revoked')], hop: 1 })).toMatchObject({
      state: 'failed',
      code: 'auth.revoked',
    });
    expect(fold({ verdicts: [verdict('auth.unavailable')], hop: 1 }).state).toBe('claimed');
    expect(fold({ verdicts: [verdict('auth.unavailable')], hop: 0 })).toMatchObject({
      state: 'failed',
      code: 'auth.unavailable',
    });
  });

  test('rejected credentials get fresh ones once, then the trigger halts', () => {
    const first = stored(resultRecord({ hop: 0, code: 'poll.auth_rejected' }));
    const second = stored(resultRecord({ hop: 1, code: 'poll.auth_rejected' }));
    expect(row(fold({ results: [first], hop: 0 }))).toEqual({ kind: 'open' });
    expect(fold({ results: [first], hop: 1 }).state).toBe('claimed');
    expect(row(fold({ results: [first, second], hop: 1 }))).toMatchObject({
      kind: 'row',
      row: { outcome: 'halt', haltCode: 'auth.expired' },
    });
  });
});

describe('cursor and keys follow what was delivered', () => {
  const first = resultRecord({ page: 0, more: true, events: eventsOf('a'), cursorAfter: '1' });
  const second = resultRecord({ page: 1, events: eventsOf('b', 'c'), cursorAfter: '2' });
  const results = [stored(first, 'results/0.1-0', 0), stored(second, 'results/0.1-0', 1)];
  const partly = [
    taken(first, { result: at('results/0.1-0', 0) }),
    taken(second, { result: at('results/0.1-0', 1), eventIds: [second.events[0]?.eventId ?? ''] }),
  ];

  test('a parked entry stays open, and the last hop takes the cursor of the last whole page and the keys beyond it', () => {
    const entry = fold({ results, delivered: partly });
    if (entry.state !== 'polled') throw new Error(entry.state);
    expect(isDelivered(entry)).toBe(false);
    expect(entry.chain.pages.flatMap(undelivered).map((event) => event.eventId)).toEqual([second.events[1]?.eventId]);
    expect(row(entry)).toEqual({ kind: 'open' });
    const decision = row(entry, true);
    expect(decision).toMatchObject({ kind: 'row', row: { outcome: 'release', cursor: '1', events: 2, polled: true } });
    if (decision.kind !== 'row') throw new Error(decision.kind);
    expect(Buffer.from(decision.row.seen ?? []).toString('base64')).toBe(
      Buffer.concat([
        Buffer.from(first.newKeys, 'base64'),
        Buffer.from(second.newKeys, 'base64').subarray(0, 8),
      ]).toString('base64'),
    );
  });

  test('nothing delivered: the cursor stays where it was', () => {
    const decision = row(fold({ results }), true);
    expect(decision).toMatchObject({ kind: 'row', row: { outcome: 'release', events: 0 } });
    if (decision.kind === 'row') expect(decision.row).not.toHaveProperty('cursor');
    if (decision.kind === 'row') expect(decision.row).not.toHaveProperty('seen');
  });

  test('events of a source that cannot repeat itself are held, and its cursor moves on', () => {
    const [entry] = foldEntries({
      entries: [trigger({ pollPolicy: { dedupe: 'unique', repeatable: false } })],
      results,
      delivered: partly,
      verdicts: [],
      hop: 3,
    });
    expect(decideRow(entry as FoldedEntry, undefined, true)).toMatchObject({
      kind: 'row',
      row: { cursor: '2', held: [{ eventId: second.events[1]?.eventId }] },
    });
  });

  test('a prime is done only when its last page was told', () => {
    const prime = resultRecord({ primeDone: true, cursorAfter: '1' });
    expect(row(fold({ results: [stored(prime)] }))).toEqual({ kind: 'open' });
    expect(row(fold({ results: [stored(prime)], delivered: [taken(prime)] }))).toMatchObject({
      kind: 'row',
      row: { primed: true, outcome: 'success' },
    });
    const forced = row(fold({ results: [stored(prime)] }), true);
    if (forced.kind === 'row') expect(forced.row.primed).toBeUndefined();
  });
});

test.each([
  ['poll.timeout', { outcome: 'backoff', charge: 'failure' }],
  ['poll.connector_error', { outcome: 'backoff', charge: 'failure' }],
  ['poll.response_invalid', { outcome: 'backoff', charge: 'poison', haltAfter: 5, haltCode: 'quarantined' }],
  ['poll.too_large', { outcome: 'backoff', charge: 'poison', haltAfter: 5 }],
  ['poll.permanent', { outcome: 'backoff', haltAfter: 3, haltCode: 'poll.permanent', warnings: ['poll.permanent'] }],
  ['poll.rate_limited', { outcome: 'rate_limited', retryAfterSeconds: 86_400 }],
] as const)('%s stops the entry in this batch', (code, expected) => {
  const entry = fold({ results: [stored(resultRecord({ code, retryAfterSeconds: 999_999 }))] });
  expect(row(entry)).toMatchObject({ kind: 'row', row: { code, ...expected } });
});

test('an entry without a result is free on the last hop and open before', () => {
  expect(row(fold({}))).toEqual({ kind: 'open' });
  expect(row(fold({}), true)).toEqual({ kind: 'free' });
});

describe('the hot path', () => {
  test('a page that nothing else speaks of is folded as among records that do not count', () => {
    for (const over of [{}, { events: eventsOf('a') }, { hop: 2, attempt: 3 }, { more: true }, { primeDone: true }]) {
      const only = stored(resultRecord(over));
      const stranger = stored(resultRecord({ leaseEpoch: 6 }), 'results/0.1-9');
      expect(fold({ results: [only], hop: 2 })).toEqual(fold({ results: [only, stranger], hop: 2 }));
    }
    expect(fold({ results: [stored(resultRecord({ leaseEpoch: 6 }))] }).state).toBe('claimed');
    expect(fold({ results: [stored(resultRecord({ page: 1 }))] }).state).toBe('claimed');
  });

  const empty = { sameCursor: true, deduplicated: 3 };

  test('a page that leaves nothing to remember is a row that says it was polled, and no more', () => {
    const plain = { outcome: 'success', code: 'ok', polled: true, events: 0, deduplicated: 3, found: 3, pollMs: 5 };
    for (const over of [empty, { ...empty, versionUsed: '1' }]) {
      const { shard, triggerId, leaseEpoch } = trigger();
      expect(row(fold({ results: [stored(resultRecord(over))] }))).toEqual({
        kind: 'row',
        row: { shard, triggerId, leaseEpoch, ...plain },
      });
    }
  });

  test.each([
    [{ sameCursor: false, cursorAfter: '{"n":2}' }, { cursor: '{"n":2}' }],
    [{ quietKeys: Buffer.alloc(8, 1).toString('base64') }, { seen: new Uint8Array(8).fill(1) }],
    [{ more: true }, { outcome: 'more' }],
    [
      { rekeys: true, versionUsed: '2' },
      { rekeyed: true, versionUsed: '2' },
    ],
    [{ versionUsed: '2' }, { versionUsed: '2' }],
    [{ gap: true }, { warnings: ['gap_suspected'] }],
    [{ retryAfterSeconds: 9 }, { retryAfterSeconds: 9 }],
    [
      { deadLetters: [{ stage: 'poll', code: 'poll.item_invalid', reason: 'no', raw: '' }] },
      { deadLetters: [{ reason: 'no' }] },
    ],
  ] as const)('and whatever else it says is committed: %j', (over, expected) => {
    const entry = fold({ results: [stored(resultRecord({ ...empty, ...over }))] });
    expect(row(entry)).toMatchObject({ kind: 'row', row: { deduplicated: 3, found: 3, ...expected } });
  });
});
