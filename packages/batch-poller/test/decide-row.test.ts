/**
 * The row that each end of an entry becomes, whole: what is not in it is not written, so a field too many is as wrong as
 * one that is missing.
 */
import { type CommitRow, type DeadLetter, VERDICTS, type VerdictCode } from '@milkrun/core';
import { describe, expect, test } from 'vitest';
import { decideRow, heldOfFenced, needsState } from '../src/decide-row.ts';
import type { FoldedEntry, FoldedPage } from '../src/fold.ts';
import { type DeliveredRecord, deadLetterRecordOf, type ResultRecord } from '../src/snapshot/records.ts';
import { eventsOf, resultRecord, TRIGGER_ID, trigger } from './factories.ts';

type Polled = Extract<FoldedEntry, { state: 'polled' }>;
type Failed = Extract<FoldedEntry, { state: 'failed' }>;

const KEY = { shard: 27, triggerId: TRIGGER_ID, leaseEpoch: 7 };
const open = { kind: 'open' };
const row = (fields: Omit<CommitRow, keyof typeof KEY>) => ({ kind: 'row', row: { ...KEY, ...fields } });

function failed(code: VerdictCode, over: Partial<Failed> = {}): Failed {
  return {
    state: 'failed',
    trigger: trigger(),
    code,
    reason: 'why',
    pollMs: 9,
    authRejections: 0,
    strays: [],
    ...over,
  };
}

interface Page extends Partial<ResultRecord> {
  readonly keys?: string;
  readonly taken?: FoldedPage['delivered'];
}

function polled(pages: readonly Page[], over: Partial<Polled> & { limited?: ResultRecord } = {}): Polled {
  const { limited, ...rest } = over;
  const folded = pages.map(({ taken = 'whole', ...record }, page): FoldedPage => {
    return { at: { object: 'results/0.1-0', line: page }, record: resultRecord({ page, ...record }), delivered: taken };
  });
  const chain = { hop: 0, attempt: 1, pages: folded, ...(limited === undefined ? {} : { limited }) };
  return {
    state: 'polled',
    trigger: trigger(),
    chain,
    authRejections: 0,
    strays: [],
    gone: false,
    deadLetters: [],
    heldTaken: [],
    ...rest,
  };
}

const bytesOf = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'));
const keysOf = (...pages: ResultRecord['events'][]): Uint8Array =>
  bytesOf(resultRecord({ events: pages.flat() }).newKeys);
/** Rows hold a plain array of bytes, whatever made it. */
function decided(entry: FoldedEntry, forced = false, seen?: Uint8Array) {
  const state = seen === undefined ? undefined : { shard: 27, triggerId: TRIGGER_ID, cursor: '0', seen };
  const decision = decideRow(entry, state, forced);
  if (decision.kind !== 'row' || decision.row.seen === undefined) return decision;
  const { seen: all, seenAdded } = decision.row;
  const keys = {
    seen: new Uint8Array(all),
    ...(seenAdded === undefined ? {} : { seenAdded: new Uint8Array(seenAdded) }),
  };
  return { kind: 'row', row: { ...decision.row, ...keys } };
}

describe('an entry that failed', () => {
  const base = { events: 0, reason: 'why', pollMs: 9 };

  test.each(
    (Object.keys(VERDICTS) as VerdictCode[])
      .filter((code) => VERDICTS[code].atCommit === 'release')
      .map((code) => [code] as const),
  )('with %s stays open, and the last hop releases it with nothing charged', (code) => {
    expect(decided(failed(code, { retryAfterSeconds: 5 }))).toEqual(open);
    expect(decided(failed(code, { retryAfterSeconds: 5 }), true)).toEqual(row({ ...base, code, outcome: 'release' }));
  });

  test.each([
    ['auth.expired', 'auth.expired'],
    ['auth.revoked', 'auth.revoked'],
    ['auth.not_found', 'auth.not_found'],
  ] as const)('with %s is halted with %s, forced or not', (code, haltCode) => {
    const halted = row({ ...base, code, outcome: 'halt', haltCode });
    expect([decided(failed(code)), decided(failed(code), true)]).toEqual([halted, halted]);
  });

  test.each(['auth.payload_too_large', 'poll.connector_error', 'poll.timeout'] as const)(
    'with %s backs off and is charged a failure, no sooner than it was asked to',
    (code) => {
      expect(decided(failed(code))).toEqual(row({ ...base, code, outcome: 'backoff', charge: 'failure' }));
      expect(decided(failed(code, { retryAfterSeconds: 86_401 }))).toEqual(
        row({ ...base, code, outcome: 'backoff', charge: 'failure', retryAfterSeconds: 86_400 }),
      );
      expect(decided(failed(code, { retryAfterSeconds: 3 }))).toMatchObject({ row: { retryAfterSeconds: 3 } });
    },
  );

  test.each(['poll.response_invalid', 'poll.too_large', 'poll.listing_too_large'] as const)(
    'with %s is charged to its data, and quarantined at five in a row',
    (code) => {
      const charged = {
        ...base,
        code,
        outcome: 'backoff',
        charge: 'poison',
        haltAfter: 5,
        haltCode: 'quarantined',
      } as const;
      expect(decided(failed(code))).toEqual(row(charged));
      expect(decided(failed(code, { retryAfterSeconds: 7 }))).toEqual(row({ ...charged, retryAfterSeconds: 7 }));
    },
  );

  test.each([0, 2, 5])('for good warns and may halt, however many failures came before: %i', (failureCount) => {
    const entry = failed('poll.permanent', { trigger: trigger({ failureCount }), retryAfterSeconds: 7 });
    expect(decided(entry)).toEqual(
      row({
        ...base,
        code: 'poll.permanent',
        outcome: 'backoff',
        charge: 'failure',
        retryAfterSeconds: 7,
        haltAfter: 3,
        haltCode: 'poll.permanent',
        warnings: ['poll.permanent'],
      }),
    );
  });

  test('with a rate limit is polled when it was told to, or by its interval', () => {
    const limited = { ...base, code: 'poll.rate_limited', outcome: 'rate_limited' } as const;
    expect(decided(failed('poll.rate_limited'))).toEqual(row(limited));
    expect(decided(failed('poll.rate_limited', { retryAfterSeconds: 90 }))).toEqual(
      row({ ...limited, retryAfterSeconds: 90 }),
    );
  });

  test.each([
    [0, open, row({ ...base, code: 'poll.auth_rejected', outcome: 'release' })],
    [1, open, row({ ...base, code: 'poll.auth_rejected', outcome: 'release' })],
    [2, row({ ...base, code: 'poll.auth_rejected', outcome: 'halt', haltCode: 'auth.expired' }), undefined],
    [3, row({ ...base, code: 'poll.auth_rejected', outcome: 'halt', haltCode: 'auth.expired' }), undefined],
  ])('whose credentials were refused in %i hops', (authRejections, early, last) => {
    const entry = failed('poll.auth_rejected', { authRejections });
    expect(decided(entry)).toEqual(early);
    expect(decided(entry, true)).toEqual(last ?? early);
  });

  test('because its receiver does not take events waits, and never moves a cursor', () => {
    expect(decided(failed('broadcast.event_refused'))).toEqual(open);
  });
});

test('an entry without a result is free on the last hop and open before', () => {
  const entry: FoldedEntry = { state: 'claimed', trigger: trigger(), authRejections: 0, strays: [] };
  expect([decided(entry), decided(entry, true)]).toEqual([open, { kind: 'free' }]);
});

describe('an entry whose events were all taken', () => {
  const a = eventsOf('a');
  const bc = eventsOf('b', 'c');
  const before = bytesOf(resultRecord({ events: eventsOf('old') }).newKeys);

  test('writes the last cursor, all keys, and what its pages add up to', () => {
    const entry = polled([
      { events: a, more: true, cursorAfter: '1', deduplicated: 2, pollMs: 3 },
      { events: bc, cursorAfter: '2', deduplicated: 1, pollMs: 4, versionUsed: '7' },
    ]);
    const wanted = {
      events: 3,
      cursor: '2',
      seen: new Uint8Array([...before, ...keysOf(a, bc)]),
      versionUsed: '7',
      outcome: 'success',
      code: 'ok',
      polled: true,
      deduplicated: 3,
      found: 6,
      pollMs: 7,
    } as const;
    const added = row({ ...wanted, seenAdded: keysOf(a, bc) });
    expect(decided(entry, false, before)).toEqual(added);
    expect(decided(entry, true, before)).toEqual(added);
    expect(decided(entry)).toEqual(row({ ...wanted, seen: keysOf(a, bc) }));
  });

  test('without any writes no keys, and no cursor that is the stored one', () => {
    const quiet = {
      events: 0,
      outcome: 'success',
      code: 'ok',
      polled: true,
      deduplicated: 0,
      found: 0,
      pollMs: 5,
    } as const;
    expect(decided(polled([{ cursorAfter: '1', sameCursor: true }]))).toEqual(row(quiet));
    expect(decided(polled([{ cursorAfter: '1' }]))).toEqual(row({ ...quiet, cursor: '1' }));
    expect(decided(polled([{ cursorAfter: null }]))).toEqual(row({ ...quiet, cursor: 'null' }));
  });

  test('of the version that was used before writes none', () => {
    expect(decided(polled([{ cursorAfter: '1', versionUsed: '1' }]))).not.toHaveProperty('row.versionUsed');
    expect(decided(polled([{ cursorAfter: '1', versionUsed: '2' }]))).toMatchObject({ row: { versionUsed: '2' } });
  });

  test.each<[string, Page, object]>([
    ['more', { more: true }, { outcome: 'more' }],
    ['another version', { versionUsed: '2' }, { versionUsed: '2' }],
    ['other keys', { rekeys: true }, { rekeyed: true }],
    ['a finished prime', { primeDone: true }, { primed: true }],
    ['a gap', { gap: true }, { warnings: ['gap_suspected'] }],
    ['a pause', { retryAfterSeconds: 9 }, { retryAfterSeconds: 9 }],
    ['quiet keys', { quietKeys: 'AAAAAAAAAAE=' }, { seen: Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 1) }],
    ['nothing', { versionUsed: '1', deduplicated: 4 }, { outcome: 'success', deduplicated: 4, found: 4, pollMs: 5 }],
  ])('whose one page kept the cursor still says what else it brought: %s', (_what, page, wanted) => {
    expect(decided(polled([{ cursorAfter: '1', sameCursor: true, ...page }]))).toMatchObject({ row: wanted });
  });

  test('remembers quiet keys, and tells when it is primed', () => {
    const quietKeys = resultRecord({ events: a }).newKeys;
    const entry = polled([{ quietKeys, primeDone: true, cursorAfter: '1' }]);
    expect(decided(entry)).toEqual(
      row({
        events: 0,
        cursor: '1',
        seen: keysOf(a),
        outcome: 'success',
        code: 'ok',
        polled: true,
        deduplicated: 0,
        found: 0,
        pollMs: 5,
        primed: true,
      }),
    );
    expect(decided(polled([{ primeDone: true, more: true }, {}]))).not.toHaveProperty('row.primed');
  });

  test('with more to read is due at once, or when it was told to, a day at the most', () => {
    expect(decided(polled([{ more: true }]))).toMatchObject({ row: { outcome: 'more' } });
    expect(decided(polled([{ retryAfterSeconds: 9 }]))).toMatchObject({
      row: { outcome: 'success', retryAfterSeconds: 9 },
    });
    expect(decided(polled([{ retryAfterSeconds: 9, more: true }, {}]))).not.toHaveProperty('row.retryAfterSeconds');
    expect(decided(polled([{ retryAfterSeconds: 100_000 }]))).toMatchObject({ row: { retryAfterSeconds: 86_400 } });
  });

  test('whose next page was rate limited keeps what it has and says how long to wait', () => {
    const limited = resultRecord({ page: 1, code: 'poll.rate_limited', reason: 'slow down', retryAfterSeconds: 40 });
    const entry = polled([{ events: a, more: true, cursorAfter: '1', retryAfterSeconds: 3 }], { limited });
    expect(decided(entry)).toEqual(
      row({
        events: 1,
        cursor: '1',
        seen: keysOf(a),
        outcome: 'rate_limited',
        code: 'poll.rate_limited',
        reason: 'slow down',
        polled: true,
        deduplicated: 0,
        found: 1,
        pollMs: 5,
        retryAfterSeconds: 40,
      }),
    );
    const silent = resultRecord({ page: 1, code: 'poll.rate_limited' });
    expect(decided(polled([{ more: true }], { limited: silent }))).toMatchObject({ row: { reason: '' } });
  });

  test('of a version with other keys forgets what it remembered', () => {
    const entry = polled([{ events: a, rekeys: true, versionUsed: '2' }]);
    expect(decided(entry, false, before)).toMatchObject({ row: { rekeyed: true, versionUsed: '2', seen: keysOf(a) } });
    expect(decided(polled([{ rekeys: true }]), false, before)).toMatchObject({ row: { seen: new Uint8Array(0) } });
  });

  test('warns of a gap on any page', () => {
    expect(decided(polled([{ gap: true, more: true }, {}]))).toMatchObject({ row: { warnings: ['gap_suspected'] } });
    expect(decided(polled([{ gap: false }]))).not.toHaveProperty('row.warnings');
  });

  test('counts refused events as not delivered, and writes their dead letters behind those of the poll', () => {
    const letter = (reason: string): DeadLetter => ({ stage: 'poll', code: 'c', reason, raw: Uint8Array.of(1, 2) });
    const record = (...reasons: string[]): DeliveredRecord => ({
      ...KEY,
      hop: 0,
      attempt: 1,
      result: { object: 'results/0.1-0', line: 0 },
      status: 'refused',
      deadLetters: reasons.map((reason) => deadLetterRecordOf(letter(reason))),
    });
    const pages = [{ events: bc, deadLetters: [deadLetterRecordOf(letter('bad item'))] }];
    const entry = polled(pages, { deadLetters: [record('refused')], heldTaken: ['evt_held'] });
    expect(decided(entry)).toMatchObject({
      row: {
        events: 1,
        deadLetters: [letter('bad item'), letter('refused')],
        heldDelivered: ['evt_held'],
      },
    });
    // Of an earlier batch's held events some may be refused: that takes nothing from these.
    expect(decided(polled([{ events: a }], { deadLetters: [record('1', '2')] }))).toMatchObject({ row: { events: 0 } });
    expect(decided(polled([{}]))).not.toHaveProperty('row.deadLetters');
    expect(decided(polled([{}]))).not.toHaveProperty('row.heldDelivered');
  });
});

describe('an entry whose events were not all taken', () => {
  const a = eventsOf('a');
  const bc = eventsOf('b', 'c');
  const d = eventsOf('d');
  const third = { events: d, cursorAfter: '3', versionUsed: '3' };
  const parts = [
    { events: a, more: true, cursorAfter: '1', versionUsed: '1b', deduplicated: 2 },
    { events: bc, more: true, cursorAfter: '2', versionUsed: '2', taken: new Set([bc[0]?.eventId as string]) },
    { ...third, taken: 'none' },
  ] as const;
  const released = {
    deduplicated: 2,
    found: 6,
    outcome: 'release',
    code: 'broadcast.unavailable',
    reason: 'the receiver did not take all events in any of the batch’s hops',
    polled: true,
  } as const;

  test('stays open, and the last hop keeps what was taken: the cursor of the last whole page and the keys beyond it', () => {
    expect(decided(polled(parts))).toEqual(open);
    expect(decided(polled(parts), true)).toEqual(
      row({ ...released, events: 2, cursor: '1', versionUsed: '1b', seen: keysOf(a, bc.slice(0, 1)) }),
    );
  });

  test('never takes keys of a page behind the one that was not taken whole', () => {
    const pages = [parts[0], { ...parts[1], taken: 'none' as const }, { ...third, taken: 'whole' as const }];
    expect(decided(polled(pages), true)).toEqual(
      row({ ...released, events: 2, cursor: '1', versionUsed: '1b', seen: keysOf(a) }),
    );
  });

  test('of which nothing was taken writes no cursor and no keys', () => {
    const pages = [{ events: a, cursorAfter: '1', versionUsed: '1b', taken: 'none' as const }];
    expect(decided(polled(pages), true)).toEqual(row({ ...released, events: 0, deduplicated: 0, found: 1 }));
  });

  test('passes pages without events on the way', () => {
    const pages = [
      { more: true, cursorAfter: '1', taken: 'none' as const },
      { ...third, taken: 'none' as const },
    ];
    expect(decided(polled(pages), true)).toEqual(
      row({ ...released, events: 0, cursor: '1', deduplicated: 0, found: 1 }),
    );
  });

  test('and whose source cannot repeat itself is held whole, and its cursor moves on', () => {
    const once = trigger({ pollPolicy: { dedupe: 'unique', repeatable: false } });
    expect(decided(polled(parts, { trigger: once }), true)).toEqual(
      row({
        ...released,
        events: 2,
        cursor: '3',
        versionUsed: '1b',
        seen: keysOf(a, bc.slice(0, 1)),
        held: [bc[1], d[0]].map((event) => ({ eventId: event?.eventId as string, json: event?.json as string })),
      }),
    );
    const nullCursor = polled([{ events: a, cursorAfter: null, taken: 'none' }], { trigger: once });
    expect(decided(nullCursor, true)).toMatchObject({ row: { cursor: 'null', held: [{ eventId: a[0]?.eventId }] } });
  });

  test('because nobody wants them halts with what was taken, and holds the rest of a source that cannot repeat itself', () => {
    const gone = {
      outcome: 'halt',
      code: 'broadcast.gone',
      haltCode: 'receiver_gone',
      polled: true,
      events: 0,
    } as const;
    const taken = { cursor: '1', versionUsed: '1b', seen: keysOf(a, bc.slice(0, 1)) };
    expect(decided(polled(parts, { gone: true }))).toEqual(row({ ...gone, ...taken }));
    const once = trigger({ pollPolicy: { dedupe: 'unique', repeatable: false } });
    expect(decided(polled(parts, { gone: true, trigger: once }))).toMatchObject({
      row: { ...gone, cursor: '3', held: [{ eventId: bc[1]?.eventId }, { eventId: d[0]?.eventId }] },
    });
    const whole = polled([{ events: a, cursorAfter: '1' }], { gone: true, trigger: once });
    expect(decided(whole)).toEqual(row({ ...gone, cursor: '1', seen: keysOf(a) }));
  });

  test('and that was fenced keeps what nobody took and what was refused, in order', () => {
    const refused: DeliveredRecord = {
      ...KEY,
      hop: 0,
      attempt: 1,
      result: { object: 'results/0.1-0', line: 0 },
      status: 'refused',
      eventIds: [a[0]?.eventId as string],
      deadLetters: [],
    };
    expect(heldOfFenced(polled(parts)).map(({ eventId }) => eventId)).toEqual([bc[1]?.eventId, d[0]?.eventId]);
    expect(heldOfFenced(polled(parts, { deadLetters: [refused] })).map(({ eventId }) => eventId)).toEqual(
      [a[0], bc[1], d[0]].map((event) => event?.eventId),
    );
    const { eventIds: _, ...unnamed } = refused;
    expect(heldOfFenced(polled([parts[0]], { deadLetters: [unnamed] }))).toEqual([]);
  });
});

test('remembered keys are read only for entries that add some', () => {
  expect(needsState(polled([{}]))).toBe(false);
  expect(needsState(polled([{}, { events: eventsOf('a') }]))).toBe(true);
  expect(needsState(polled([{ quietKeys: 'AAAAAAAAAAA=' }]))).toBe(true);
  expect(needsState(failed('poll.timeout'))).toBe(false);
});
