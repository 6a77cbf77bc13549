/**
 * The commit step against a workerdb that answers by script. Modelled: what workerdb says. Real: the sealed snapshot, the
 * fold, the decisions, the step's frame. Must hold: rows and the batch's end as decided, arming after the database, and
 * nothing written for what was fenced but the events that would be lost.
 */
import { eventIdOf, storageShardOf } from '@milkrun/core';
import { expect, test } from 'vitest';
import type { DeliveredRecord } from '../src/snapshot/records.ts';
import { A, B, BATCH, C, ids, of, runCommit, triggers, withEvent } from './commit-scene.ts';
import { trigger } from './factories.ts';

test('when every entry has an end the batch is ended by the statement that commits them, and its credentials go', async () => {
  const { result, commits, did, authLeft, counted } = await runCommit({
    entries: triggers(2),
    results: [of(A, { cursorAfter: '1' }), of(B, { code: 'poll.timeout', reason: 'late' })],
  });
  expect(commits).toMatchObject([
    {
      batchId: BATCH,
      rows: [
        { triggerId: A, outcome: 'success', cursor: '1' },
        { triggerId: B, outcome: 'backoff', code: 'poll.timeout', reason: 'late' },
      ],
      end: true,
      forced: false,
      open: 0,
    },
  ]);
  expect(commits[0]).not.toHaveProperty('extendSeconds');
  expect(result).toEqual({ status: 'ok', done: 2, left: 0, askedSeconds: 5 });
  expect([did, authLeft]).toEqual([['commit'], 0]);
  expect(counted).toMatchObject({
    'count polling.commit.rows committed': 2,
    'gauge polling.broadcast.brake': 0,
    'count polling.batch.finished committed': 1,
    'observe polling.batch.hops': 1,
    'observe polling.batch.duration': 42,
    'observe polling.commit.duration': 0,
  });
  for (const absent of ['primed', 'events_held', 'bisections', 'halts', 'rows fenced'])
    expect(Object.keys(counted).join('\n')).not.toContain(absent);
});

test('entries without an end keep the batch open, its credentials and its lease over the pause to the next hop', async () => {
  const { result, commits, did, authLeft, counted } = await runCommit({
    entries: triggers(3),
    results: [of(A)],
    hop: 1,
    askedSeconds: 20,
  });
  expect(commits).toMatchObject([{ rows: [{ triggerId: A }], end: false, forced: false, open: 2, extendSeconds: 65 }]);
  expect(result).toEqual({ status: 'ok', done: 1, left: 2, askedSeconds: 20 });
  expect([did, authLeft]).toEqual([['commit'], 1]);
  expect(Object.keys(counted).join('\n')).not.toContain('polling.batch');
});

test('the shard is armed after the database, when the commit says so', async () => {
  expect((await runCommit({ entries: triggers(1), results: [of(A)], answer: { arm: true } })).did).toEqual([
    'commit',
    'arm 4',
  ]);
});

test('a forced commit frees what has no result, ends the batch and arms; most of it released makes the shard wait', async () => {
  const { result, commits, did, counted } = await runCommit({
    entries: triggers(2),
    results: [of(A)],
    hop: 3,
    force: true,
  });
  expect(commits).toMatchObject([{ rows: [{ triggerId: A }], end: true, forced: true, open: 0 }]);
  expect(result).toEqual({ status: 'ok', done: 1, left: 0, askedSeconds: 60 });
  expect(did).toEqual(['commit', 'arm 4']);
  expect(counted).toMatchObject({ 'count polling.batch.finished forced': 1, 'observe polling.batch.hops': 4 });
});

test.each([
  [1, 30],
  [60, 60],
  [3_600, 300],
])(
  'a few released rows of a forced batch come again after their interval of %i s: in %i s',
  async (interval, seconds) => {
    const entries = triggers(3, { intervalSeconds: interval });
    const results = [of(A), of(B), of(C, { code: 'poll.throttled', reason: 'busy' })];
    const few = await runCommit({ entries, results, force: true });
    expect(few.commits[0]).toMatchObject({ forced: false });
    expect(few.commits[0]?.rows[2]).toMatchObject({ outcome: 'release', retryAfterSeconds: seconds });
    expect(few.commits[0]?.rows[0]).not.toHaveProperty('retryAfterSeconds');
    // Not for a drain: whoever starts next should go on at once.
    const drained = await runCommit({ entries, results, force: true, draining: true });
    expect(drained.commits[0]?.rows[2]).not.toHaveProperty('retryAfterSeconds');
    const early = await runCommit({ entries, results });
    expect(early.commits[0]).toMatchObject({ open: 1, end: false });
  },
);

test('half a batch released makes the shard wait, less than half does not, and a drain never does', async () => {
  const throttled = (id: string) => of(id, { code: 'poll.throttled' });
  const half = { entries: triggers(2), results: [of(A), throttled(B)], force: true };
  expect((await runCommit(half)).commits[0]).toMatchObject({ forced: true });
  expect((await runCommit(half)).commits[0]?.rows[1]).not.toHaveProperty('retryAfterSeconds');
  expect((await runCommit({ ...half, draining: true })).commits[0]).toMatchObject({ forced: false, end: true });
  const fewer = { entries: triggers(3), results: [of(A), of(B), throttled(C)], force: true };
  expect((await runCommit(fewer)).commits[0]).toMatchObject({ forced: false });
  const none = { entries: triggers(1), results: [of(A)], force: true };
  expect((await runCommit(none)).commits[0]).toMatchObject({ forced: false });
  expect((await runCommit({ ...half, force: false })).commits[0]).toMatchObject({ forced: false });
});

test('a batch that is over writes nothing, and arms: an earlier attempt may have died before it could', async () => {
  const { result, did } = await runCommit({ entries: triggers(1), results: [of(A)], live: false });
  expect(result).toEqual({ status: 'ended', done: 0, left: 0 });
  expect(did).toEqual(['arm 4']);
});

test('a snapshot that cannot be read is tried again, and on the last hop’s fifth attempt ends the batch and says so', async () => {
  const away = { entries: triggers(1), away: true };
  await expect(runCommit({ ...away, attempt: 5 })).rejects.toThrow('away');
  await expect(runCommit({ ...away, force: true, attempt: 4 })).rejects.toThrow('away');
  const { result, did, logged, counted } = await runCommit({ ...away, force: true, attempt: 5 });
  expect(result).toEqual({ status: 'ended', done: 0, left: 0 });
  expect(did).toEqual(['end', 'arm 4']);
  expect(logged).toEqual(['commit.snapshot_unread']);
  expect(counted).toMatchObject({ 'count polling.snapshot.unread': 1 });
});

test('of fenced entries only events that nobody could give again are kept, and never those of a deleted trigger', async () => {
  const once = { pollPolicy: { dedupe: 'unique', repeatable: false } } as const;
  const entries = [
    ...triggers(3, once),
    trigger({ triggerId: ids(5)[3] as string }),
    trigger({ triggerId: ids(5)[4] as string, ...once }),
  ];
  const [, , , D, E] = entries.map(({ triggerId }) => triggerId) as [string, string, string, string, string];
  const { held, commits } = await runCommit({
    entries,
    results: [withEvent(A), withEvent(B), withEvent(C), withEvent(D), of(E, { code: 'poll.timeout' })],
    fenced: [
      { triggerId: A, deleted: false },
      { triggerId: B, deleted: true },
      { triggerId: D, deleted: false },
      { triggerId: E, deleted: false },
    ],
    force: true,
  });
  expect(held).toEqual([{ shard: 27, triggerId: A, eventId: eventIdOf(A, 'a'), json: '{"key":"a"}' }]);
  expect(commits[0]?.rows).toMatchObject([{ triggerId: C, held: [{ eventId: eventIdOf(C, 'a') }] }]);
});

const ONCE = { pollPolicy: { dedupe: 'unique', repeatable: false } } as const;

test.each(['live', 'expires'] as const)(
  'a batch that is over holds what no source gives again, though its list is lost too (%s)',
  async (when) => {
    const results = [
      { ...withEvent(A), once: true as const },
      { ...withEvent(B), once: true as const },
      { ...of(C, { events: [...withEvent(C, 'taken').events, ...withEvent(C).events] }), once: true as const },
      withEvent(ids(4)[3] as string),
    ];
    const origin = { leaseEpoch: 7, hop: 0, attempt: 1, status: 'accepted' as const };
    const { result, held, did } = await runCommit({
      entries: triggers(4, ONCE),
      unlisted: true,
      results,
      delivered: [
        { ...origin, triggerId: B, result: { object: 'results/0.1-0', line: 1 } },
        { ...origin, triggerId: C, result: { object: 'results/0.1-0', line: 2 }, eventIds: [eventIdOf(C, 'taken')] },
        {
          ...origin,
          triggerId: C,
          result: { object: 'results/0.1-0', line: 2 },
          eventIds: [eventIdOf(C, 'a')],
          status: 'refused',
        },
      ],
      force: true,
      attempt: 5,
      ...(when === 'live' ? { live: false } : { expires: true }),
    });
    expect(result).toEqual({ status: 'ended', done: 0, left: 0 });
    expect(did).toEqual(['arm 4']);
    expect(held.map(({ shard, eventId }) => [shard, eventId])).toEqual([
      [storageShardOf(A), eventIdOf(A, 'a')],
      // Refused, and its dead letter is not written: told once more.
      [storageShardOf(C), eventIdOf(C, 'a')],
    ]);
  },
);

test('a batch that is over holds what its list says no source gives again, and nothing else', async () => {
  const [listed, lost] = [triggers(1, ONCE), { results: [withEvent(A), withEvent(B)], live: false }];
  const both = await runCommit({ entries: [...listed, ...triggers(2).slice(1)], ...lost });
  expect(both.held.map(({ triggerId }) => triggerId)).toEqual([A]);
  expect((await runCommit({ entries: triggers(2), ...lost })).held).toEqual([]);
});

test('in a later hop what is not the batch’s own any more is left alone, and its shard is armed', async () => {
  const entries = triggers(2);
  const { commits, did } = await runCommit({ entries, results: [of(A), of(B)], owned: entries.slice(1), hop: 1 });
  expect(commits[0]?.rows).toMatchObject([{ triggerId: B }]);
  expect(did).toEqual(['commit', 'arm 4']);
});

test('remembered keys are read for entries that add some, in slices of 2,500, and what is added comes behind them', async () => {
  const all = ids(2_502);
  const delivered = all.slice(0, 2_501).map(
    (triggerId, line): DeliveredRecord => ({
      triggerId,
      leaseEpoch: 7,
      hop: 0,
      attempt: 1,
      result: { object: `results/0.1-${Math.floor(line / 1_000)}`, line: line % 1_000 },
      status: 'accepted',
    }),
  );
  const { reads, commits } = await runCommit({
    entries: triggers(2_502),
    results: all.map((id, n) => (n === 2_501 ? of(id) : withEvent(id))),
    delivered,
    states: [{ shard: 27, triggerId: A, cursor: '0', seen: Uint8Array.of(9, 9, 9, 9, 9, 9, 9, 9) }],
  });
  expect(reads).toEqual([2_500, 1]);
  const [first, second] = commits[0]?.rows ?? [];
  expect(Buffer.from(first?.seen ?? []).toString('hex')).toBe(`${'09'.repeat(8)}0000000000000001`);
  expect(Buffer.from(second?.seen ?? []).toString('hex')).toBe('0000000000000001');
});

test('what the database made of the rows is counted by its name', async () => {
  const exception = (status: 'already' | 'fenced' | 'braked' | 'quarantined') => ({
    shard: 27,
    triggerId: A,
    leaseEpoch: 7,
    status,
  });
  const { counted } = await runCommit({
    entries: triggers(3),
    results: [of(A, { primeDone: true }), of(B, { primeDone: true }), withEvent(C)],
    delivered: [A, B].map((triggerId, line) => ({
      triggerId,
      leaseEpoch: 7,
      hop: 0,
      attempt: 1,
      result: { object: 'results/0.1-0', line },
      status: 'accepted',
    })),
    force: true,
    answer: {
      committed: 1,
      bisections: 3,
      exceptions: [exception('already'), exception('fenced'), exception('fenced'), exception('braked')],
      halted: { quarantined: 2 },
    },
  });
  expect(counted).toMatchObject({
    'count polling.commit.rows committed': 1,
    'count polling.commit.rows already': 1,
    'count polling.commit.rows fenced': 2,
    'count polling.commit.bisections': 3,
    'count polling.commit.halts quarantined': 2,
    'count polling.poll.primed': 2,
    'gauge polling.broadcast.brake': 1,
  });
  expect(counted).not.toHaveProperty('count polling.commit.rows braked');
});

test('held events are counted', async () => {
  const once = { pollPolicy: { dedupe: 'unique', repeatable: false } } as const;
  const { counted } = await runCommit({
    entries: triggers(2, once),
    results: [withEvent(A), withEvent(B)],
    force: true,
  });
  expect(counted).toMatchObject({ 'count polling.broadcast.events_held': 2 });
});
