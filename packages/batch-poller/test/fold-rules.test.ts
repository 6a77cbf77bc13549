/** The fold's rules one by one: each object in the order it counts, and what of other batches, epochs and chains does not. */
import { expect, test } from 'vitest';
import { type FoldedEntry, type FoldInput, foldEntries, isDelivered, stateNameOf, undelivered } from '../src/fold.ts';
import {
  type DeliveredRecord,
  HELD_REF,
  type ResultRecord,
  type Stored,
  type VerdictRecord,
} from '../src/snapshot/records.ts';
import { eventsOf, resultRecord, TRIGGER_ID, trigger } from './factories.ts';

const place = ({ hop, attempt }: ResultRecord, line: number) => ({ object: `results/${hop}.${attempt}-0`, line });
const stored = (over: Partial<ResultRecord>, line = over.page ?? 0): Stored<ResultRecord> => {
  const record = resultRecord(over);
  return { record, at: place(record, line) };
};
const taken = ({ record, at }: Stored<ResultRecord>, over: Partial<DeliveredRecord> = {}): DeliveredRecord => ({
  triggerId: record.triggerId,
  leaseEpoch: record.leaseEpoch,
  hop: record.hop,
  attempt: record.attempt,
  result: at,
  status: 'accepted',
  ...over,
});
const verdict = (over: Partial<VerdictRecord>): VerdictRecord => ({
  triggerId: TRIGGER_ID,
  leaseEpoch: 7,
  hop: 0,
  code: 'auth.unavailable',
  reason: 'why',
  ...over,
});
function fold(input: Partial<FoldInput>): FoldedEntry {
  const whole = { entries: [trigger()], results: [], delivered: [], verdicts: [], hop: 0, ...input };
  return foldEntries(whole)[0] as FoldedEntry;
}
const polled = (input: Partial<FoldInput>) => {
  const entry = fold(input);
  if (entry.state !== 'polled') throw new Error(entry.state);
  return entry;
};
const idOf = (key: string): string => eventsOf(key)[0]?.eventId as string;

test('entries keep their order and know nothing of each other', () => {
  const other = trigger({ triggerId: '11111111-1111-4111-8111-111111111111' });
  const folded = foldEntries({
    entries: [other, trigger()],
    results: [stored({ events: eventsOf('a') })],
    delivered: [],
    verdicts: [],
    hop: 0,
  });
  expect(folded.map(({ trigger: { triggerId }, state }) => [triggerId, state])).toEqual([
    [other.triggerId, 'claimed'],
    [TRIGGER_ID, 'polled'],
  ]);
  expect(folded[0]).toMatchObject({ authRejections: 0 });
});

test('records of another epoch count nowhere: no page, no delivery, no held event, no verdict', () => {
  const page = stored({ events: eventsOf('a') });
  const foreign = { leaseEpoch: 6 };
  expect(fold({ results: [stored({ ...foreign, code: 'poll.auth_rejected' })], hop: 1 })).toMatchObject({
    state: 'claimed',
    authRejections: 0,
  });
  const entry = polled({
    results: [page],
    delivered: [
      taken(page, foreign),
      taken(page, { ...foreign, status: 'gone' }),
      taken(page, { ...foreign, deadLetters: [] }),
      taken(page, { ...foreign, result: HELD_REF, eventIds: ['evt_other'] }),
    ],
  });
  expect(entry).toMatchObject({
    gone: false,
    deadLetters: [],
    heldTaken: [],
    chain: { pages: [{ delivered: 'none' }] },
  });
  expect(fold({ verdicts: [verdict(foreign)] }).state).toBe('claimed');
});

test('held events that were taken are named, and are no delivery of a page', () => {
  const page = stored({ events: eventsOf('a') });
  const entry = polled({
    results: [page],
    delivered: [
      taken(page, { result: HELD_REF, eventIds: ['evt_1', 'evt_2'] }),
      taken(page, { result: HELD_REF }),
      taken(page, { result: HELD_REF, eventIds: ['evt_3'] }),
    ],
  });
  expect(entry.heldTaken).toEqual(['evt_1', 'evt_2', 'evt_3']);
  expect(isDelivered(entry)).toBe(false);
  expect(undelivered(entry.chain.pages[0] as never)).toHaveLength(1);
});

test('an entry is gone when any record says so, and keeps the records that carry dead letters', () => {
  const page = stored({ events: eventsOf('a', 'b') });
  const refused = taken(page, { status: 'refused', eventIds: [idOf('a')], deadLetters: [] });
  const entry = polled({
    results: [page],
    delivered: [taken(page, { eventIds: [idOf('b')] }), refused, taken(page, { status: 'gone' })],
  });
  expect(entry).toMatchObject({ gone: true, deadLetters: [refused] });
  expect(stateNameOf(entry)).toBe('halted');
  expect(polled({ results: [page], delivered: [refused] })).toMatchObject({ gone: false });
});

test.each([
  ['poll.timeout', 'failed', 'failed'],
  ['poll.response_invalid', 'failed', 'failed'],
  ['poll.throttled', 'failed', 'claimed'],
  ['poll.auth_rejected', 'failed', 'claimed'],
  ['something.newer', 'failed', 'claimed'],
])('a result of %s is %s in its hop and %s in the next', (code, own, next) => {
  const results = [stored({ code, reason: 'said', pollMs: 8, retryAfterSeconds: 4 })];
  const entry = fold({ results, hop: 0 });
  const isKnown = code !== 'something.newer';
  expect(entry).toMatchObject({
    state: own,
    code: isKnown ? code : 'poll.response_invalid',
    reason: 'said',
    pollMs: 8,
    retryAfterSeconds: 4,
  });
  expect(fold({ results, hop: 1 }).state).toBe(next);
  expect(fold({ results: [stored({ code })], hop: 0 })).toMatchObject({ reason: '' });
  expect(fold({ results: [stored({ code })], hop: 0 })).not.toHaveProperty('retryAfterSeconds');
});

test('refusals count by hop, not by attempt, and the last one of two hops stops the entry', () => {
  const refused = (hop: number, attempt: number, reason: string) =>
    stored({ hop, attempt, code: 'poll.auth_rejected', reason });
  const twice = [refused(0, 1, 'first'), refused(0, 2, 'again')];
  expect(fold({ results: twice, hop: 1 })).toMatchObject({ state: 'claimed', authRejections: 1 });
  const hops = [...twice, refused(1, 1, 'last'), stored({ hop: 1, attempt: 2, code: 'poll.throttled' })];
  expect(fold({ results: hops, hop: 2 })).toMatchObject({
    state: 'failed',
    code: 'poll.auth_rejected',
    reason: 'last',
    authRejections: 2,
  });
  const page = stored({ hop: 2, events: eventsOf('a') });
  expect(fold({ results: [...hops, page], hop: 2 })).toMatchObject({ state: 'polled', authRejections: 2 });
});

test('a stop verdict that came before the first good page wins, unless pages of its own chain stand before it', () => {
  const stop = stored({ attempt: 1, code: 'poll.timeout' });
  const good = stored({ attempt: 2, events: eventsOf('a') });
  expect(fold({ results: [stop, good] })).toMatchObject({ state: 'failed', code: 'poll.timeout' });
  expect(fold({ results: [good, stop] })).toMatchObject({ state: 'polled', chain: { attempt: 2 } });
  expect(fold({ results: [stored({ attempt: 1, code: 'poll.throttled' }), good] }).state).toBe('polled');
  expect(fold({ results: [stop, good], delivered: [taken(good)] })).toMatchObject({
    state: 'polled',
    chain: { attempt: 2 },
  });
  const sameChain = stored({ attempt: 2, page: 1, code: 'poll.timeout' });
  expect(fold({ results: [sameChain, good] })).toMatchObject({ state: 'polled' });
});

test('the anchor is the very line that was first delivered; a line that is gone still names its chain', () => {
  const [first, second] = [
    stored({ attempt: 1, events: eventsOf('a') }),
    stored({ attempt: 2, events: eventsOf('b') }),
  ];
  const [third, fourth] = [stored({ hop: 1, attempt: 2, events: eventsOf('c') }), stored({ hop: 1, attempt: 1 })];
  const all = { results: [first, second, third, fourth], hop: 1 };
  expect(polled({ ...all, delivered: [taken(third), taken(first)] }).chain).toMatchObject({ hop: 1, attempt: 2 });
  // A parked record is no delivery.
  expect(polled({ ...all, delivered: [taken(third, { status: 'parked' }), taken(second)] }).chain).toMatchObject({
    hop: 0,
    attempt: 2,
  });
  expect(polled({ ...all, delivered: [taken(third, { status: 'parked' })] }).chain).toMatchObject({
    hop: 0,
    attempt: 1,
  });
  const lost = { object: 'results/1.1-9', line: 0 };
  expect(polled({ ...all, delivered: [taken(fourth, { result: lost })] }).chain).toMatchObject({ hop: 1, attempt: 1 });
  const otherLine = { object: 'results/0.2-0', line: 5 };
  expect(polled({ ...all, delivered: [taken(second, { result: otherLine })] }).chain).toMatchObject({
    hop: 0,
    attempt: 2,
  });
  const nobody = taken(first, { hop: 3, attempt: 3, result: lost });
  expect(fold({ ...all, delivered: [nobody], hop: 2 }).state).toBe('claimed');
});

test('lines of one object are told apart', () => {
  const [one, two] = [
    stored({ page: 0, more: true, events: eventsOf('a') }, 0),
    stored({ page: 1, events: eventsOf('b') }, 1),
  ];
  expect(
    polled({ results: [one, two], delivered: [taken(two)] }).chain.pages.map(({ delivered }) => delivered),
  ).toEqual(['none', 'whole']);
});

test('pages count in their order up to the first that is missing, and only those of the chain', () => {
  const page = (n: number, over: Partial<ResultRecord> = {}) => stored({ page: n, cursorAfter: String(n), ...over });
  const results = [page(2), page(0), page(1), page(4), page(3, { attempt: 2 }), page(3, { hop: 1 })];
  const { chain } = polled({ results, delivered: [taken(results[1] as never)] });
  expect(chain.pages.map(({ record }) => record.cursorAfter)).toEqual(['0', '1', '2']);
  expect(fold({ results: [page(1), page(2)] }).state).toBe('claimed');
});

test('a rate limit belongs to the chain whose next page it stands for', () => {
  const first = stored({ more: true, cursorAfter: '1' });
  const limit = (over: Partial<ResultRecord>) =>
    stored({ page: 1, code: 'poll.rate_limited', retryAfterSeconds: 9, ...over });
  const limited = (...more: Stored<ResultRecord>[]) => polled({ results: [first, ...more] }).chain.limited;
  expect(limited(limit({}))).toMatchObject({ retryAfterSeconds: 9 });
  expect(limited(limit({ attempt: 2 }))).toBeUndefined();
  expect(limited(limit({ page: 2 }))).toBeUndefined();
  expect(limited(limit({ code: 'poll.throttled' }))).toBeUndefined();
  expect(limited(stored({ page: 1 }), limit({}))).toBeUndefined();
  expect(polled({ results: [stored({}), limit({})] }).chain).not.toHaveProperty('limited');
});

test('a listing too large to be remembered stops the entry, unless some of it was told', () => {
  const page = stored({ more: true, events: eventsOf('a') });
  const large = stored({ page: 1, code: 'poll.listing_too_large' });
  expect(fold({ results: [page, large] })).toMatchObject({ state: 'failed', code: 'poll.listing_too_large' });
  expect(fold({ results: [page, large], delivered: [taken(page)] }).state).toBe('polled');
  expect(
    fold({ results: [page, large], delivered: [taken(page, { result: HELD_REF, eventIds: ['evt'] })] }).state,
  ).toBe('failed');
});

test('a page is taken whole, in parts that add up, or not at all', () => {
  const page = stored({ events: eventsOf('a', 'b') });
  const by = (...delivered: DeliveredRecord[]) => polled({ results: [page], delivered }).chain.pages[0]?.delivered;
  const part = (key: string, status: DeliveredRecord['status'] = 'accepted') =>
    taken(page, { status, eventIds: [idOf(key)] });
  expect(by()).toBe('none');
  expect(by(taken(page))).toBe('whole');
  expect(by(part('a'))).toEqual(new Set([idOf('a')]));
  expect(by(part('a'), part('b', 'refused'))).toBe('whole');
  expect(by(part('a'), taken(page, { status: 'parked' }), taken(page, { status: 'gone' }))).toEqual(
    new Set([idOf('a')]),
  );
  expect(by(taken(page, { status: 'gone' }))).toBe('none');
  const elsewhere = { object: 'results/0.1-1', line: 0 };
  expect(by(part('a'), taken(page, { result: elsewhere }))).toEqual(new Set([idOf('a')]));
});

test('what is left to send of a page is what nobody took, in order', () => {
  const page = stored({ events: eventsOf('a', 'b', 'c') });
  const left = (...delivered: DeliveredRecord[]) =>
    undelivered(polled({ results: [page], delivered }).chain.pages[0] as never).map(({ eventId }) => eventId);
  expect(left()).toEqual(['a', 'b', 'c'].map(idOf));
  expect(left(taken(page, { eventIds: [idOf('b')] }))).toEqual([idOf('a'), idOf('c')]);
  expect(left(taken(page))).toEqual([]);
});

test('an entry is delivered when every page was taken or has nothing to tell, a finished prime told', () => {
  const isDone = (...results: Stored<ResultRecord>[]) => isDelivered(polled({ results }));
  expect([isDone(stored({})), isDone(stored({ primeDone: true })), isDone(stored({ events: eventsOf('a') }))]).toEqual([
    true,
    false,
    false,
  ]);
  const open = stored({ more: true, events: eventsOf('a') });
  const entry = polled({ results: [open, stored({ page: 1 })], delivered: [taken(open)] });
  expect([isDelivered(entry), stateNameOf(entry)]).toEqual([true, 'delivered']);
  expect(stateNameOf(polled({ results: [open] }))).toBe('polled');
  expect(stateNameOf(fold({}))).toBe('claimed');
  expect(stateNameOf(fold({ results: [stored({ code: 'poll.timeout' })] }))).toBe('failed');
});

test('the first verdict before a poll counts, with what it asked for; one that is tried again is forgotten by the next hop', () => {
  const verdicts = [
    verdict({ reason: 'first', retryAfterSeconds: 3 }),
    verdict({ code: 'auth.expired', reason: 'second' }),
  ];
  expect(fold({ verdicts })).toEqual({
    state: 'failed',
    trigger: trigger(),
    code: 'auth.unavailable',
    reason: 'first',
    pollMs: 0,
    authRejections: 0,
    strays: [],
    retryAfterSeconds: 3,
  });
  const later = fold({ verdicts, hop: 1 });
  expect(later).toMatchObject({ code: 'auth.expired', reason: 'second' });
  expect(later).not.toHaveProperty('retryAfterSeconds');
  expect(fold({ verdicts: [verdict({ hop: 1 })], hop: 1 })).toMatchObject({ state: 'failed' });
  expect(fold({ verdicts: [verdict({ code: 'something.newer' })] }).state).toBe('claimed');
  const page = stored({ events: eventsOf('a') });
  expect(fold({ verdicts, results: [page] }).state).toBe('polled');
});
