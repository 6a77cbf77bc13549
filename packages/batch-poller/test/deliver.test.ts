/**
 * Delivery of one lane against a control plane that misbehaves by script. Modelled: `/state`'s answers. Real: chunking,
 * matching, halving, records. Must hold: an event is recorded as taken only after it was accepted, and order is kept.
 */
import { type ControlPlane, noLog, noMetrics, type StateAnswer, type StateResult } from '@milkrun/core';
import { expect, test } from 'vitest';
import { deliverLane, type Parcel } from '../src/deliver.ts';
import { type BatchDeps, DEFAULT_LIMITS } from '../src/deps.ts';
import type { FoldedPage } from '../src/fold.ts';
import type { DeliveredRecord } from '../src/snapshot/records.ts';
import { eventsOf, resultRecord } from './factories.ts';

type Answer = (results: readonly StateResult[]) => StateAnswer;

const accepted: Answer = (results) => ({
  kind: 'answered',
  statuses: results.map(({ triggerId }) => ({ triggerId, status: 'accepted' })),
  lifecycle: [],
});

function parcel(triggerId: string, ...keys: string[]): Parcel {
  const record = resultRecord({ triggerId, events: eventsOf(...keys), primeDone: keys.length === 0 });
  const page: FoldedPage = { at: { object: `results/${triggerId}`, line: 0 }, record, delivered: 'none' };
  return {
    triggerId,
    leaseEpoch: 7,
    configVersion: 1,
    triggerVersion: '1',
    hop: 0,
    attempt: 1,
    events: record.events.map((event) => ({ ...event, page })),
    emptyPages: keys.length === 0 ? [page] : [],
    pollState: 'state',
  };
}

async function lane(
  parcels: readonly Parcel[],
  answer: Answer,
  over: { brake?: boolean; eventsMax?: number; fenced?: string; mayStart?: () => boolean } = {},
) {
  const calls: (readonly StateResult[])[] = [];
  const records: DeliveredRecord[] = [];
  const controlPlane = {
    postState: async ({ results }: { results: readonly StateResult[] }) => {
      calls.push(results);
      return answer(results);
    },
  } as unknown as ControlPlane;
  const deps = {
    controlPlane,
    metrics: noMetrics,
    log: noLog,
    limits: { ...DEFAULT_LIMITS, chunkEventsMax: over.eventsMax ?? 500 },
  } as unknown as BatchDeps;
  const report = await deliverLane(deps, parcels, {
    batchId: 'batch',
    signal: new AbortController().signal,
    mayStart: over.mayStart ?? (() => true),
    brake: () => over.brake ?? false,
    isFenced: (triggerId) => triggerId === over.fenced,
    record: async (more) => {
      records.push(...more);
    },
  });
  return {
    report,
    calls,
    records,
    sent: calls.map((results) =>
      results.map((result) => `${result.triggerId}:${result.events.length}${result.last ? '!' : ''}`),
    ),
  };
}

test('several triggers share a chunk, and each is recorded whole', async () => {
  const { sent, records, report } = await lane([parcel('a', '1', '2'), parcel('b', '3'), parcel('c')], accepted);
  expect(sent).toEqual([['a:2!', 'b:1!', 'c:0!']]);
  expect(records.map((record) => [record.triggerId, record.eventIds])).toEqual([
    ['a', undefined],
    ['b', undefined],
    ['c', undefined],
  ]);
  expect([...report.ends.values()]).toEqual(['delivered', 'delivered', 'delivered']);
});

test('a long trigger spans chunks in order and only its final piece is the last and carries the state', async () => {
  const { sent, calls, records } = await lane([parcel('a', '1', '2', '3', '4', '5')], accepted, { eventsMax: 2 });
  expect(sent).toEqual([['a:2'], ['a:2'], ['a:1!']]);
  expect(calls.map(([result]) => result?.pollState)).toEqual([undefined, undefined, 'state']);
  expect(records.map((record) => record.eventIds?.length)).toEqual([2, 2, 1]);
});

test('after a piece was parked nothing later of that trigger is sent, while other triggers go on', async () => {
  let calls = 0;
  const flaky: Answer = (results) => {
    calls += 1;
    return calls === 1 ? { kind: 'unavailable', reason: 'reset', retryAfterSeconds: 9 } : accepted(results);
  };
  const { report, sent, records } = await lane([parcel('a', '1', '2', '3'), parcel('b', '4')], flaky, { eventsMax: 2 });
  expect(sent).toEqual([['a:2'], ['b:1!']]);
  expect(records.map((record) => record.triggerId)).toEqual(['b']);
  expect(Object.fromEntries(report.ends)).toEqual({ a: 'parked', b: 'delivered' });
  expect(report.askedSeconds).toBe(9);
});

test('shuffled, missing and double statuses are matched by id, and what is not named once is parked', async () => {
  const answer: Answer = () => ({
    kind: 'answered',
    statuses: [
      { triggerId: 'c', status: 'accepted' },
      { triggerId: 'a', status: 'accepted' },
      { triggerId: 'b', status: 'accepted' },
      { triggerId: 'b', status: 'accepted' },
      { triggerId: 'stranger', status: 'accepted' },
    ],
    lifecycle: [],
  });
  const { report } = await lane([parcel('a', '1'), parcel('b', '2'), parcel('c', '3'), parcel('d', '4')], answer);
  expect(Object.fromEntries(report.ends)).toEqual({ a: 'delivered', b: 'parked', c: 'delivered', d: 'parked' });
});

test('410 for one trigger is gone, for several it is asked one by one', async () => {
  const answer: Answer = (results) =>
    results.length > 1 || results[0]?.triggerId === 'b' ? { kind: 'gone' } : accepted(results);
  const { report, sent, records } = await lane([parcel('a', '1'), parcel('b', '2')], answer);
  expect(sent).toEqual([['a:1!', 'b:1!'], ['a:1!'], ['b:1!']]);
  expect(Object.fromEntries(report.ends)).toEqual({ a: 'delivered', b: 'gone' });
  expect(records.at(-1)?.status).toBe('gone');
});

test('with the brake on nothing is gone and nothing is split', async () => {
  const { report, sent } = await lane([parcel('a', '1'), parcel('b', '2')], () => ({ kind: 'gone' }), { brake: true });
  expect(sent).toHaveLength(1);
  expect(Object.fromEntries(report.ends)).toEqual({ a: 'parked', b: 'parked' });
});

test('a refused chunk is halved to the one bad event, which goes to dead letters while the rest goes on', async () => {
  const bad = eventsOf('5')[0]?.json;
  const answer: Answer = (results) =>
    results.some((result) => result.events.includes(bad ?? ''))
      ? { kind: 'refused', status: 422, reason: 'schema' }
      : accepted(results);
  const { report, records, calls } = await lane([parcel('a', '1', '2', '3'), parcel('b', '4', '5', '6', '7')], answer);
  expect(records.filter((record) => record.deadLetters !== undefined).map((record) => record.eventIds)).toEqual([
    [eventsOf('5')[0]?.eventId],
  ]);
  expect(report.delivered).toBe(6);
  expect(report.refused).toBe(1);
  expect(calls.length).toBeLessThanOrEqual(8);
});

test('one event refused by status goes to dead letters and the rest is sent again', async () => {
  const [bad] = eventsOf('2');
  const answer: Answer = (results) => ({
    kind: 'answered',
    statuses: results.map(({ triggerId, events }) =>
      events.includes(bad?.json ?? '')
        ? { triggerId, status: 'rejected', eventId: bad?.eventId ?? '', reason: 'no' }
        : { triggerId, status: 'accepted' },
    ),
    lifecycle: [],
  });
  const { report, sent, records } = await lane([parcel('a', '1', '2', '3')], answer);
  expect(sent).toEqual([['a:3!'], ['a:2!']]);
  expect(report).toMatchObject({ delivered: 2, refused: 1 });
  expect(records.map((record) => record.status)).toEqual(['refused', 'accepted']);
});

test('a misconfigured receiver parks everything at once', async () => {
  const { report, sent } = await lane(
    [parcel('a', '1'), parcel('b', '2')],
    () => ({ kind: 'misconfigured', status: 401, reason: 'key' }),
    { eventsMax: 1 },
  );
  expect(sent).toHaveLength(1);
  expect([...report.ends.values()]).toEqual(['parked', 'parked']);
});

test('a fenced trigger is not sent, and past the budget nothing is', async () => {
  const fenced = await lane([parcel('a', '1'), parcel('b', '2')], accepted, { fenced: 'a' });
  expect(fenced.sent).toEqual([['b:1!']]);
  const late = await lane([parcel('a', '1')], accepted, { mayStart: () => false });
  expect(late.sent).toEqual([]);
  expect([...late.report.ends.values()]).toEqual(['parked']);
});

test('two events refused by status in one answer both go to dead letters', async () => {
  const bad = eventsOf('1', '3').map((event) => event.eventId);
  const answer: Answer = (results) => {
    const refused = results.flatMap(({ triggerId, events }) =>
      bad
        .filter((eventId) => events.some((json) => json.includes(eventId)))
        .map((eventId) => ({ triggerId, status: 'rejected' as const, eventId })),
    );
    return refused.length === 0 ? accepted(results) : { kind: 'answered', statuses: refused, lifecycle: [] };
  };
  const { report, sent } = await lane([parcel('a', '1', '2', '3')], answer);
  expect(sent).toEqual([['a:3!'], ['a:1!']]);
  expect(report).toMatchObject({ delivered: 1, refused: 2 });
});

test('a large event and a large state are sent apart instead of the event being refused for their sum', async () => {
  const [large] = [parcel('a', '1')].map((one) => ({
    ...one,
    pollState: 'x'.repeat(90_000),
    events: one.events.map((event) => ({ ...event, json: JSON.stringify({ pad: 'x'.repeat(980_000) }) })),
  }));
  const tooLarge: Answer = (results) =>
    JSON.stringify(results).length > 1024 * 1024
      ? { kind: 'refused', status: 413, reason: 'too large' }
      : accepted(results);
  const { report, sent } = await lane([large as Parcel], tooLarge);
  expect(sent).toEqual([['a:1'], ['a:0!']]);
  expect(report).toMatchObject({ delivered: 1, refused: 0 });
});

test('when the last event of a trigger is refused its state is told all the same', async () => {
  const answer: Answer = (results) =>
    results.some((result) => result.events.length > 0)
      ? { kind: 'refused', status: 422, reason: 'schema' }
      : accepted(results);
  const { calls, report } = await lane([parcel('a', '1')], answer);
  expect(report.refused).toBe(1);
  expect(calls.at(-1)?.[0]).toMatchObject({ events: [], last: true, pollState: 'state' });
});

test('a trigger with nothing but held events is gone too', async () => {
  const held = { ...parcel('a', '1'), events: [{ eventId: 'evt_held', json: '{}', page: undefined }] };
  const { records } = await lane([held], () => ({ kind: 'gone' }));
  expect(records).toMatchObject([{ triggerId: 'a', status: 'gone', result: { object: 'held' } }]);
});
