/** Delivery's rules one by one: what is sent together, what is recorded for each answer, and what is counted. */
import { type ControlPlane, noLog, type StateAnswer, type StateResult, type StateStatus } from '@milkrun/core';
import { describe, expect, test } from 'vitest';
import { deliverLane, outgoingOfHeld, type Parcel } from '../src/deliver.ts';
import { type BatchDeps, DEFAULT_LIMITS } from '../src/deps.ts';
import type { FoldedPage } from '../src/fold.ts';
import type { DeliveredRecord } from '../src/snapshot/records.ts';
import { eventsOf, resultRecord } from './factories.ts';

type Answer = (results: readonly StateResult[], call: number) => StateAnswer;

const statuses = (...list: StateStatus[]): StateAnswer => ({ kind: 'answered', statuses: list, lifecycle: [] });
const accepted: Answer = (results) =>
  statuses(...results.map(({ triggerId }) => ({ triggerId, status: 'accepted' as const })));
const idOf = (key: string): string => eventsOf(key)[0]?.eventId as string;

function pageOf(triggerId: string, line: number, keys: readonly string[], primeDone = false): FoldedPage {
  const record = resultRecord({ triggerId, page: line, events: eventsOf(...keys), primeDone });
  return { at: { object: `results/${triggerId}`, line }, record, delivered: 'none' };
}

/** A parcel of pages, each given by its keys; a page without keys is a finished prime. */
function parcel(triggerId: string, pages: readonly (readonly string[])[], pollState?: string): Parcel {
  const folded = pages.map((keys, line) => pageOf(triggerId, line, keys, keys.length === 0));
  return {
    triggerId,
    leaseEpoch: 7,
    triggerVersion: '3',
    configVersion: 5,
    hop: 1,
    attempt: 2,
    events: folded.flatMap((page) => page.record.events.map((event) => ({ ...event, page }))),
    emptyPages: folded.filter((page) => page.record.events.length === 0),
    ...(pollState === undefined ? {} : { pollState }),
  };
}

async function lane(
  parcels: readonly Parcel[],
  answer: Answer,
  over: {
    limits?: Partial<typeof DEFAULT_LIMITS>;
    brake?: () => boolean;
    aborted?: boolean;
    fenced?: () => string | undefined;
  } = {},
) {
  const calls: { batchId: string; results: readonly StateResult[]; lifecycle: readonly object[] }[] = [];
  const records: DeliveredRecord[][] = [];
  const counted: string[] = [];
  const logged: object[] = [];
  const controlPlane = {
    postState: async (input: (typeof calls)[number]) => {
      calls.push(input);
      return answer(input.results, calls.length);
    },
  } as unknown as ControlPlane;
  const deps = {
    controlPlane,
    metrics: {
      count: (name: string, value = 1, tags: object = {}) =>
        void counted.push([name.slice('polling.broadcast.'.length), value, ...Object.values(tags)].join(' ')),
    },
    log: { ...noLog, error: (fields: object, event: string) => void logged.push({ event, ...fields }) },
    limits: { ...DEFAULT_LIMITS, ...over.limits },
  } as unknown as BatchDeps;
  const stop = new AbortController();
  if (over.aborted === true) stop.abort();
  const report = await deliverLane(deps, parcels, {
    batchId: 'batch-1',
    signal: stop.signal,
    mayStart: () => true,
    brake: over.brake ?? (() => false),
    isFenced: (triggerId) => triggerId === over.fenced?.(),
    record: async (more) => void records.push([...more]),
  });
  const sent = calls.map(({ results }) =>
    results.map(({ triggerId, events, last }) => `${triggerId}:${events.length}${last ? '!' : ''}`).join(' '),
  );
  return { report, calls, records, counted, logged, sent, ends: Object.fromEntries(report.ends) };
}

test('a call names the batch, the lease and the version, and carries events as they are and the state with the last', async () => {
  const { calls, records, counted, ends } = await lane(
    [parcel('a', [['1'], ['2', '3']], 'state'), parcel('b', [[]])],
    accepted,
  );
  expect(calls).toMatchObject([
    {
      batchId: 'batch-1',
      lifecycle: [],
      results: [
        {
          triggerId: 'a',
          leaseEpoch: 7,
          triggerVersion: '3',
          events: eventsOf('1', '2', '3').map(({ json }) => json),
          last: true,
          pollState: 'state',
        },
        { triggerId: 'b', leaseEpoch: 7, triggerVersion: '3', events: [], last: true },
      ],
    },
  ]);
  expect(calls[0]?.results[1]).not.toHaveProperty('pollState');
  const origin = { leaseEpoch: 7, hop: 1, attempt: 2, status: 'accepted' };
  expect(records).toEqual([
    [
      { ...origin, triggerId: 'a', result: { object: 'results/a', line: 0 } },
      { ...origin, triggerId: 'a', result: { object: 'results/a', line: 1 } },
      { ...origin, triggerId: 'b', result: { object: 'results/b', line: 0 } },
    ],
  ]);
  expect(counted).toEqual(['chunks 1 answered', 'events_delivered 3']);
  expect(ends).toEqual({ a: 'delivered', b: 'delivered' });
});

test('nothing to send is no call, and a trigger without anything open is delivered', async () => {
  const { calls, records, ends, report } = await lane([], accepted);
  expect([calls, records, ends, report.delivered, report.refused, report.askedSeconds]).toEqual([[], [], {}, 0, 0, 0]);
});

test('a trigger whose state alone was told leaves no record', async () => {
  const { records, ends } = await lane([{ ...parcel('a', [], 'state') }], accepted);
  expect([records, ends]).toEqual([[], { a: 'delivered' }]);
});

test('a page taken in parts is recorded by its events, and its finished prime with the last piece', async () => {
  const limits = { chunkEventsMax: 2 };
  const { records, sent, counted } = await lane([parcel('a', [['1'], ['2', '3'], []])], accepted, { limits });
  expect(sent).toEqual(['a:2', 'a:1!']);
  expect(records.map((list) => list.map(({ result, eventIds }) => [result.line, eventIds]))).toEqual([
    [
      [0, undefined],
      [1, [idOf('2')]],
    ],
    [
      [1, [idOf('3')]],
      [2, undefined],
    ],
  ]);
  expect(counted.filter((line) => line.startsWith('events'))).toEqual(['events_delivered 2', 'events_delivered 1']);
});

test('held events are recorded by their ids under a place of their own', async () => {
  const held = outgoingOfHeld([{ shard: 1, triggerId: 'a', eventId: 'evt_held', json: '{"held":true}' }]);
  expect(held).toEqual([{ eventId: 'evt_held', json: '{"held":true}', page: undefined }]);
  const page = parcel('a', [['1']]);
  const { records, calls } = await lane([{ ...page, events: [...held, ...page.events] }], accepted);
  expect(calls[0]?.results[0]?.events).toEqual(['{"held":true}', eventsOf('1')[0]?.json]);
  expect(records[0]?.map(({ result, eventIds }) => [result, eventIds])).toEqual([
    [{ object: 'held', line: 0 }, ['evt_held']],
    [{ object: 'results/a', line: 0 }, undefined],
  ]);
});

test('a stopped step sends nothing and parks what it has, uncounted', async () => {
  const { calls, ends, counted } = await lane([parcel('a', [['1']])], accepted, { aborted: true });
  expect([calls, ends, counted]).toEqual([[], { a: 'parked' }, []]);
});

test('a trigger that is fenced between two pieces is not sent any more and comes to no end', async () => {
  let fenced: string | undefined;
  const answer: Answer = (results, call) => {
    fenced = 'a';
    return accepted(results, call);
  };
  const limits = { chunkEventsMax: 1 };
  const { sent, ends } = await lane([parcel('a', [['1', '2']]), parcel('b', [['3']])], answer, {
    limits,
    fenced: () => fenced,
  });
  expect([sent, ends]).toEqual([['a:1', 'b:1!'], { b: 'delivered' }]);
});

describe('parking', () => {
  test('counts each trigger once, with its reason, and asks for the longest pause', async () => {
    const answer: Answer = (_results, call) => ({
      kind: 'unavailable',
      reason: 'busy',
      retryAfterSeconds: call === 1 ? 9 : 4,
    });
    const limits = { chunkEventsMax: 1 };
    const { report, sent, counted } = await lane([parcel('a', [['1', '2']]), parcel('b', [['3']])], answer, { limits });
    expect(sent).toEqual(['a:1', 'b:1!']);
    expect(report.askedSeconds).toBe(9);
    expect(counted).toEqual([
      'chunks 1 unavailable',
      'parked 1 unavailable',
      'chunks 1 unavailable',
      'parked 1 unavailable',
    ]);
    const silent = await lane([parcel('a', [['1']])], () => ({ kind: 'unavailable', reason: 'busy' }));
    expect(silent.report.askedSeconds).toBe(0);
  });

  test('a receiver that refuses the engine parks all that waits, once each, and says so', async () => {
    const answer: Answer = () => ({ kind: 'misconfigured', status: 403, reason: 'key' });
    const limits = { chunkEventsMax: 1 };
    const { sent, counted, logged, ends } = await lane([parcel('a', [['1', '2']]), parcel('b', [['3']])], answer, {
      limits,
    });
    expect(sent).toHaveLength(1);
    expect(counted).toEqual(['chunks 1 misconfigured', 'parked 1 misconfigured', 'parked 1 misconfigured']);
    expect(logged).toEqual([{ event: 'broadcast.misconfigured', batchId: 'batch-1', status: 403, reason: 'key' }]);
    expect(ends).toEqual({ a: 'parked', b: 'parked' });
  });

  test('a trigger that is not named, named twice, or named with contradiction is parked', async () => {
    const answer: Answer = () =>
      statuses(
        { triggerId: 'b', status: 'accepted' },
        { triggerId: 'b', status: 'accepted' },
        { triggerId: 'c', status: 'gone' },
        { triggerId: 'c', status: 'gone' },
        { triggerId: 'd', status: 'rejected', eventId: idOf('4') },
        { triggerId: 'd', status: 'accepted' },
      );
    const parcels = ['a', 'b', 'c', 'd'].map((id, n) => parcel(id, [[String(n + 1)]]));
    const { ends, records, sent } = await lane(parcels, answer);
    expect([ends, records, sent.length]).toEqual([{ a: 'parked', b: 'parked', c: 'parked', d: 'parked' }, [], 1]);
  });
});

describe('a receiver that is gone', () => {
  const gone: Answer = (results) =>
    statuses(...results.map(({ triggerId }) => ({ triggerId, status: 'gone' as const })));

  test('is recorded with the page that was told, after what the others took', async () => {
    const answer: Answer = () => statuses({ triggerId: 'a', status: 'gone' }, { triggerId: 'b', status: 'accepted' });
    const { records, ends, counted } = await lane([parcel('a', [['1'], ['2']]), parcel('b', [['3']])], answer);
    expect(
      records.map((list) => list.map(({ triggerId, status, result }) => [triggerId, status, result.line])),
    ).toEqual([[['b', 'accepted', 0]], [['a', 'gone', 0]]]);
    expect(ends).toEqual({ a: 'gone', b: 'delivered' });
    expect(counted).toContain('gone 1');
  });

  test.each([
    ['a prime', [[]], { object: 'results/a', line: 0 }],
    ['a prime before events', [['1'], []], { object: 'results/a', line: 1 }],
    ['nothing but held events', [], { object: 'held', line: 0 }],
  ])('is recorded for %s', async (_what, pages, result) => {
    const held = outgoingOfHeld([{ shard: 1, triggerId: 'a', eventId: 'evt_held', json: '{}' }]);
    const base = parcel('a', pages);
    const { records } = await lane([{ ...base, events: [...held, ...base.events] }], gone);
    expect(records).toMatchObject([[{ status: 'gone', result }]]);
  });

  test('is parked while the brake is on, and nothing is recorded', async () => {
    const { ends, counted, records } = await lane([parcel('a', [['1']])], gone, { brake: () => true });
    expect([ends, records]).toEqual([{ a: 'parked' }, []]);
    expect(counted).toEqual(['chunks 1 answered', 'parked 1 brake']);
    const whole = await lane([parcel('a', [['1']])], () => ({ kind: 'gone' }), { brake: () => true });
    expect(whole.counted).toEqual(['chunks 1 gone', 'parked 1 brake']);
  });
});

describe('a refusal', () => {
  test('that names events gives them up with its reason, and sends the rest and the state again, alone', async () => {
    const long = 'r'.repeat(600);
    const answer: Answer = (results, call) =>
      call > 1
        ? accepted(results, call)
        : statuses(
            { triggerId: 'a', status: 'rejected', eventId: idOf('1'), reason: long },
            { triggerId: 'b', status: 'accepted' },
          );
    const { records, sent, counted, report } = await lane(
      [parcel('a', [['1'], ['2']], 'state'), parcel('b', [['3']])],
      answer,
    );
    expect(sent).toEqual(['a:2! b:1!', 'a:1!']);
    expect(records[0]).toEqual([
      {
        triggerId: 'a',
        leaseEpoch: 7,
        hop: 1,
        attempt: 2,
        result: { object: 'results/a', line: 0 },
        status: 'refused',
        eventIds: [idOf('1')],
        deadLetters: [
          {
            stage: 'broadcast',
            code: 'broadcast.event_refused',
            reason: 'r'.repeat(500),
            eventId: idOf('1'),
            raw: Buffer.from(eventsOf('1')[0]?.json as string).toString('base64'),
          },
        ],
      },
    ]);
    expect(counted).toContain('dead_letters 1 refused');
    expect(report).toMatchObject({ delivered: 2, refused: 1 });
  });

  test('without a reason gets one, and of a held event lies under the held', async () => {
    const held = outgoingOfHeld([{ shard: 1, triggerId: 'a', eventId: 'evt_held', json: '{}' }]);
    const answer: Answer = (results, call) =>
      call > 1 ? accepted(results, call) : statuses({ triggerId: 'a', status: 'rejected', eventId: 'evt_held' });
    const { records, ends } = await lane([{ ...parcel('a', []), events: held }], answer);
    expect(records[0]).toMatchObject([
      { result: { object: 'held' }, deadLetters: [{ reason: 'the receiver refused it' }] },
    ]);
    expect(ends).toEqual({ a: 'delivered' });
  });

  test('that names only strangers’ events costs none of ours: the trigger waits', async () => {
    const answer: Answer = () => statuses({ triggerId: 'a', status: 'rejected', eventId: 'evt_stranger' });
    const { ends, records, sent } = await lane([parcel('a', [['1', '2']])], answer);
    expect([ends, records, sent.length]).toEqual([{ a: 'parked' }, [], 1]);
  });

  test('that names none is halved to the bad one', async () => {
    const bad = eventsOf('2')[0]?.json as string;
    const answer: Answer = (results, call) =>
      results.some(({ events }) => events.includes(bad))
        ? statuses({ triggerId: 'a', status: 'rejected' })
        : accepted(results, call);
    const { sent, records, ends } = await lane([parcel('a', [['1', '2', '3', '4']])], answer);
    expect(sent).toEqual(['a:4!', 'a:2', 'a:1', 'a:1', 'a:2!']);
    expect(records.flat().filter(({ status }) => status === 'refused')).toMatchObject([
      { eventIds: [idOf('2')], deadLetters: [{ reason: 'the receiver refused it' }] },
    ]);
    expect(ends).toEqual({ a: 'delivered' });
  });

  test('of nothing but the state parks the trigger', async () => {
    const { ends, records, sent } = await lane([parcel('a', [[]])], () => ({
      kind: 'refused',
      status: 422,
      reason: 'no',
    }));
    expect([ends, records, sent]).toEqual([{ a: 'parked' }, [], ['a:0!']]);
  });

  test('of the last event and the state is judged apart: the state may be what was refused', async () => {
    const answer: Answer = (results, call) =>
      results.some(({ pollState }) => pollState !== undefined)
        ? { kind: 'refused', status: 413, reason: 'state' }
        : accepted(results, call);
    const { sent, records, ends } = await lane([parcel('a', [['1']], 'state')], answer);
    expect(sent).toEqual(['a:1!', 'a:1', 'a:0!']);
    expect(records.flat()).toMatchObject([{ status: 'accepted' }]);
    expect(ends).toEqual({ a: 'parked' });
  });

  test('of one event without a state goes straight to dead letters, and nothing is left to send', async () => {
    const { sent, records, ends } = await lane([parcel('a', [['1']])], (results, call) =>
      call === 1 ? { kind: 'refused', status: 400, reason: 'schema' } : accepted(results, call),
    );
    // The last piece is sent even when it is empty: the receiver learns that no more comes.
    expect(sent).toEqual(['a:1!', 'a:0!']);
    expect(records.flat()).toMatchObject([{ status: 'refused', deadLetters: [{ reason: 'schema' }] }]);
    expect(ends).toEqual({ a: 'delivered' });
    const middle = await lane(
      [parcel('a', [['1', '2']])],
      (results, call) => (call === 1 ? { kind: 'refused', status: 400, reason: 'schema' } : accepted(results, call)),
      {
        limits: { chunkEventsMax: 1 },
      },
    );
    expect(middle.sent).toEqual(['a:1', 'a:1!']);
  });
});

describe('chunks', () => {
  const sized = (triggerId: string, sizes: readonly number[], stateBytes?: number): Parcel => {
    const page = pageOf(triggerId, 0, ['k']);
    const events = sizes.map((bytes, n) => ({ eventId: `evt_${triggerId}_${n}`, json: 'x'.repeat(bytes), page }));
    return {
      ...parcel(triggerId, []),
      events,
      ...(stateBytes === undefined ? {} : { pollState: 's'.repeat(stateBytes) }),
    };
  };
  const sentOf = async (parcels: readonly Parcel[], chunkBytesMax: number) =>
    (await lane(parcels, accepted, { limits: { chunkBytesMax } })).sent;

  // A result costs 512 bytes around its events.
  test('hold what fits, to the byte, events of several triggers among them', async () => {
    expect(await sentOf([sized('a', [100, 100])], 712)).toEqual(['a:2!']);
    expect(await sentOf([sized('a', [100, 100])], 711)).toEqual(['a:1', 'a:1!']);
    expect(await sentOf([sized('a', [100]), sized('b', [100])], 1_224)).toEqual(['a:1! b:1!']);
    expect(await sentOf([sized('a', [100]), sized('b', [100])], 1_223)).toEqual(['a:1!', 'b:1!']);
  });

  test('send an event that fits nowhere alone', async () => {
    expect(await sentOf([sized('a', [10, 5_000, 10])], 1_000)).toEqual(['a:1', 'a:1', 'a:1!']);
    expect(await sentOf([sized('a', [5_000])], 1_000)).toEqual(['a:1!']);
  });

  test('count characters by their bytes', async () => {
    const wide = sized('a', [0, 0]);
    const events = wide.events.map((event) => ({ ...event, json: 'é'.repeat(50) }));
    expect(await sentOf([{ ...wide, events }], 712)).toEqual(['a:2!']);
    expect(await sentOf([{ ...wide, events }], 711)).toEqual(['a:1', 'a:1!']);
  });

  test('hold a state where it fits, and send it apart where it does not', async () => {
    expect(await sentOf([sized('a', [100], 88)], 700)).toEqual(['a:1!']);
    expect(await sentOf([sized('a', [100], 89)], 700)).toEqual(['a:1', 'a:0!']);
    expect(await sentOf([sized('a', [], 5_000)], 700)).toEqual(['a:0!']);
  });

  test('begin anew for a trigger whose frame and state do not fit behind the others', async () => {
    // 612 of the first; the second needs its frame and its state at the least.
    expect(await sentOf([sized('a', [100]), sized('b', [], 76)], 1_200)).toEqual(['a:1! b:0!']);
    expect(await sentOf([sized('a', [100]), sized('b', [], 77)], 1_200)).toEqual(['a:1!', 'b:0!']);
    expect(await sentOf([sized('a', [100], 50), sized('b', [])], 1_174)).toEqual(['a:1! b:0!']);
    expect(await sentOf([sized('a', [100], 51), sized('b', [])], 1_174)).toEqual(['a:1!', 'b:0!']);
    expect(await sentOf([sized('a', [100]), sized('b', [])], 1_124)).toEqual(['a:1! b:0!']);
    expect(await sentOf([sized('a', [100]), sized('b', [])], 1_123)).toEqual(['a:1!', 'b:0!']);
  });

  test('count events over all triggers', async () => {
    const limits = { chunkEventsMax: 3 };
    const parcels = [parcel('a', [['1', '2']]), parcel('b', [['3', '4']]), parcel('c', [[]])];
    expect((await lane(parcels, accepted, { limits })).sent).toEqual(['a:2! b:1', 'b:1! c:0!']);
    const exact = [parcel('a', [['1', '2', '3']]), parcel('b', [['4']])];
    expect((await lane(exact, accepted, { limits })).sent).toEqual(['a:3!', 'b:1!']);
  });
});
