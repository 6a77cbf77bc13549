/**
 * The commit step against a workerdb that answers by script. Modelled: what workerdb says. Real: the sealed snapshot, the
 * fold, the decisions, the step's frame. Must hold: rows and the batch's end as decided, arming after the database, and
 * nothing written for what was fenced but the events that would be lost.
 */
import {
  type BatchStore,
  type ClaimedTrigger,
  type Clock,
  type CommitInput,
  type CommitResult,
  eventIdOf,
  type HeldEvent,
  noLog,
  storageShardOf,
  type TriggerState,
  uuidv7,
} from '@milkrun/core';
import { expect, test } from 'vitest';
import { commit } from '../src/activities/commit.ts';
import { type BatchDeps, DEFAULT_LIMITS } from '../src/deps.ts';
import type { AuthRecord, DeliveredRecord, ResultRecord, VerdictRecord } from '../src/snapshot/records.ts';
import { resultRecord, trigger } from './factories.ts';
import { createHarness } from './snapshot/harness.ts';

const PLANNED_MS = Date.parse('2026-01-01T00:00:00Z');
const NOW_MS = PLANNED_MS + 42_000;
/** A clock that stands still: who sleeps sleeps until the step is over. */
const clock: Clock = {
  now: () => NOW_MS,
  monotonic: () => 1_000,
  sleep: (_ms, signal) =>
    new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true })),
};
const rng = { next: () => 0.5, bytes: (count: number) => new Uint8Array(count).fill(7) };
const BATCH = `batch-poller:0:${uuidv7({ ...clock, now: () => PLANNED_MS }, rng)}`;
const NOTHING: CommitResult = { committed: 0, exceptions: [], nextDueInMs: null, arm: false, halted: {} };

interface Script {
  readonly entries: readonly ClaimedTrigger[];
  readonly results?: readonly ResultRecord[];
  readonly delivered?: readonly DeliveredRecord[];
  readonly verdicts?: readonly VerdictRecord[];
  readonly fenced?: readonly { triggerId: string; deleted: boolean }[];
  /** What the batch still owns, asked for in later hops. */
  readonly owned?: readonly ClaimedTrigger[];
  readonly answer?: Partial<CommitResult>;
  readonly states?: readonly TriggerState[];
  readonly hop?: number;
  readonly force?: boolean;
  readonly askedSeconds?: number;
  readonly live?: boolean;
  readonly draining?: boolean;
  readonly attempt?: number;
  /** The object store cannot be read. */
  readonly away?: boolean;
  /** The object that lists the batch's entries is lost. */
  readonly unlisted?: boolean;
  /** The lease runs out after the step has begun. */
  readonly expires?: boolean;
}

async function run(script: Script) {
  const { hop = 0, force = false, askedSeconds = 0, live = true } = script;
  const harness = createHarness();
  const writing = harness.fresh();
  if (script.unlisted !== true) await writing.writeEntries(BATCH, script.entries);
  const auth: AuthRecord = { connectionId: 'c', tenantId: 't', auth: '{}', expiresAtMs: null, fetchedAtMs: 0, hop: 0 };
  await writing.writeAuth(BATCH, 0, 1, [auth]);
  if (script.verdicts !== undefined) await writing.writeVerdicts(BATCH, 0, 1, 0, script.verdicts);
  if (script.results !== undefined) {
    const writer = writing.resultWriter(BATCH, 0, 1);
    for (const record of script.results) await writer.append(record);
    await writer.close();
  }
  await writing.deliveredWriter(BATCH, 0, 1).record(script.delivered ?? []);

  const did: string[] = [];
  const commits: CommitInput[] = [];
  const held: HeldEvent[] = [];
  const reads: number[] = [];
  const counted: Record<string, number> = {};
  const logged: string[] = [];
  const note = (kind: string, name: string, value: number, tags: object = {}): void => {
    counted[`${kind} ${[name, ...Object.values(tags)].join(' ')}`] = value;
  };
  const check = { live, fenced: (script.fenced ?? []).map((row) => ({ shard: 27, ...row })), brake: false };
  const store = {
    extend: async () => check,
    check: async () => check,
    claim: async () =>
      script.expires === true
        ? { status: 'ended', triggers: [] }
        : { status: 'again', triggers: script.owned ?? script.entries },
    readStates: async (keys: readonly object[]) => {
      reads.push(keys.length);
      return script.states ?? [];
    },
    holdFenced: async (events: readonly HeldEvent[]) => void held.push(...events),
    commit: async (input: CommitInput) => {
      did.push('commit');
      commits.push(input);
      return { ...NOTHING, committed: input.rows.length, ...script.answer };
    },
    end: async () => void did.push('end'),
  } as unknown as BatchStore;
  const draining = new AbortController();
  if (script.draining === true) draining.abort();
  const snapshots = harness.fresh();
  const deps = {
    store,
    snapshots:
      script.away === true ? { ...snapshots, readResults: () => Promise.reject(new Error('away')) } : snapshots,
    timers: { arm: async (shard: number) => void did.push(`arm ${shard}`) },
    clock,
    rng,
    metrics: {
      count: (name: string, value = 1, tags: object = {}) => note('count', name, value, tags),
      gauge: (name: string, value: number, tags: object = {}) => note('gauge', name, value, tags),
      observe: (name: string, value: number, tags: object = {}) => note('observe', name, value, tags),
    },
    log: { ...noLog, error: (_fields: object, event: string) => void logged.push(event) },
    limits: DEFAULT_LIMITS,
    draining: draining.signal,
    alone: async () => true,
  } as unknown as BatchDeps;
  const policy = { maxRetryCounter: 3, leaseSeconds: 45 };
  const input = { batchId: BATCH, timerShard: 4, size: 1, retryCounter: hop, policy, force, askedSeconds };
  const context = { attempt: script.attempt ?? 1, signal: new AbortController().signal, heartbeat: () => {} };
  const result = await commit(deps, input, context);
  const authLeft = (await harness.objects.list(`batches/${BATCH}/auth/`)).length;
  return { result, did, commits, held, reads, counted, logged, authLeft };
}

const ids = (count: number): string[] =>
  Array.from({ length: count }, (_, n) => `3f2b8c1e-6f0a-4a53-9d53-${String(n).padStart(12, '0')}`);
const triggers = (count: number, over: Partial<ClaimedTrigger> = {}): ClaimedTrigger[] =>
  ids(count).map((triggerId) => trigger({ triggerId, ...over }));
const of = (triggerId: string, over: Partial<ResultRecord> = {}): ResultRecord => resultRecord({ triggerId, ...over });
const withEvent = (triggerId: string, key = 'a'): ResultRecord => {
  const event = { eventId: eventIdOf(triggerId, key), json: `{"key":"${key}"}` };
  return of(triggerId, { events: [event], newKeys: 'AAAAAAAAAAE=' });
};
const [A, B, C] = ids(3) as [string, string, string];

test('when every entry has an end the batch is ended by the statement that commits them, and its credentials go', async () => {
  const { result, commits, did, authLeft, counted } = await run({
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
  const { result, commits, did, authLeft, counted } = await run({
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
  expect((await run({ entries: triggers(1), results: [of(A)], answer: { arm: true } })).did).toEqual([
    'commit',
    'arm 4',
  ]);
});

test('a forced commit frees what has no result, ends the batch and arms; most of it released makes the shard wait', async () => {
  const { result, commits, did, counted } = await run({ entries: triggers(2), results: [of(A)], hop: 3, force: true });
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
    const few = await run({ entries, results, force: true });
    expect(few.commits[0]).toMatchObject({ forced: false });
    expect(few.commits[0]?.rows[2]).toMatchObject({ outcome: 'release', retryAfterSeconds: seconds });
    expect(few.commits[0]?.rows[0]).not.toHaveProperty('retryAfterSeconds');
    // Not for a drain: whoever starts next should go on at once.
    const drained = await run({ entries, results, force: true, draining: true });
    expect(drained.commits[0]?.rows[2]).not.toHaveProperty('retryAfterSeconds');
    const early = await run({ entries, results });
    expect(early.commits[0]).toMatchObject({ open: 1, end: false });
  },
);

test('half a batch released makes the shard wait, less than half does not, and a drain never does', async () => {
  const throttled = (id: string) => of(id, { code: 'poll.throttled' });
  const half = { entries: triggers(2), results: [of(A), throttled(B)], force: true };
  expect((await run(half)).commits[0]).toMatchObject({ forced: true });
  expect((await run(half)).commits[0]?.rows[1]).not.toHaveProperty('retryAfterSeconds');
  expect((await run({ ...half, draining: true })).commits[0]).toMatchObject({ forced: false, end: true });
  const fewer = { entries: triggers(3), results: [of(A), of(B), throttled(C)], force: true };
  expect((await run(fewer)).commits[0]).toMatchObject({ forced: false });
  const none = { entries: triggers(1), results: [of(A)], force: true };
  expect((await run(none)).commits[0]).toMatchObject({ forced: false });
  expect((await run({ ...half, force: false })).commits[0]).toMatchObject({ forced: false });
});

test('a batch that is over writes nothing, and arms: an earlier attempt may have died before it could', async () => {
  const { result, did } = await run({ entries: triggers(1), results: [of(A)], live: false });
  expect(result).toEqual({ status: 'ended', done: 0, left: 0 });
  expect(did).toEqual(['arm 4']);
});

test('a snapshot that cannot be read is tried again, and on the last hop’s fifth attempt ends the batch and says so', async () => {
  const away = { entries: triggers(1), away: true };
  await expect(run({ ...away, attempt: 5 })).rejects.toThrow('away');
  await expect(run({ ...away, force: true, attempt: 4 })).rejects.toThrow('away');
  const { result, did, logged, counted } = await run({ ...away, force: true, attempt: 5 });
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
  const { held, commits } = await run({
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
    const { result, held, did } = await run({
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
  const both = await run({ entries: [...listed, ...triggers(2).slice(1)], ...lost });
  expect(both.held.map(({ triggerId }) => triggerId)).toEqual([A]);
  expect((await run({ entries: triggers(2), ...lost })).held).toEqual([]);
});

test('in a later hop what is not the batch’s own any more is left alone, and its shard is armed', async () => {
  const entries = triggers(2);
  const { commits, did } = await run({ entries, results: [of(A), of(B)], owned: entries.slice(1), hop: 1 });
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
  const { reads, commits } = await run({
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
  const { counted } = await run({
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
  const { counted } = await run({ entries: triggers(2, once), results: [withEvent(A), withEvent(B)], force: true });
  expect(counted).toMatchObject({ 'count polling.broadcast.events_held': 2 });
});
