/**
 * Proof that the checkers can fail. A sound history is written by hand; each case forges one lie into it, and the checker
 * of that invariant must say so, while the sound one passes all of them.
 */
import { eventIdOf } from '@milkrun/core';
import { expect, test } from 'vitest';
import { CHECKERS, checkHistory, type Ending, type Fact, type History, type RowFacts } from '../src/index.ts';

const T = '3f2b8c1e-6f0a-4a53-8d53-0d6f1c5b7a10';
const OTHER = '7a1b8c1e-6f0a-4a53-8d53-0d6f1c5b7a11';
const B = 'batch-poller:0:019b8e07-48c0-77f6-831e-78bf181bfbc2';
const NEXT = 'batch-poller:0:019b8e07-48c0-77f6-831e-78bf181bfbc3';

type Kind<K extends Fact['kind']> = Extract<Fact, { kind: K }>;
type CommitFact = Kind<'committed'>;
type CommitRow = CommitFact['rows'][number];

const items = [0, 1].map((n) => ({ key: `item-${n}`, occurredAt: '2026-01-05T12:00:30.000Z', data: { n } }));
const row = (over: Partial<RowFacts> = {}): RowFacts => ({
  epoch: 1,
  cursor: null,
  primed: true,
  createdAt: Date.parse('2026-01-05T12:00:00.000Z'),
  since: null,
  failures: 0,
  poisons: 0,
  halted: null,
  enabled: true,
  ...over,
});

const claimed = (over: Partial<Kind<'claimed'>> = {}): Fact => ({
  kind: 'claimed',
  at: 1_000,
  batchId: B,
  status: 'claimed',
  planned: 1,
  leaseSeconds: 45,
  rows: [{ triggerId: T, epoch: 1, takenFrom: 'free', primed: true, createdAt: 0, since: null }],
  ...over,
});
const polled = (over: Partial<Kind<'polled'>> = {}): Fact => ({
  kind: 'polled',
  at: 2_000,
  triggerId: T,
  process: 'worker-0.0',
  ranMs: 2_000,
  auth: { tenantId: 'tenant-a', connectionId: 'connection-0' },
  cursor: null,
  code: 'ok',
  items: [0, 1],
  cursorAfter: '2',
  ...over,
});
const events = items.map(({ key }) => ({ id: eventIdOf(T, key), key, triggerId: T }));
type ToldResult = Kind<'told'>['results'][number];
const toldResult = (over: Partial<ToldResult> = {}): ToldResult => ({
  triggerId: T,
  epoch: 1,
  events,
  status: 'accepted',
  refused: [],
  ...over,
});
const told = (over: Partial<Kind<'told'>> = {}): Fact => ({
  kind: 'told',
  at: 3_000,
  batchId: B,
  process: 'worker-0.0',
  status: 200,
  results: [toldResult()],
  ...over,
});
const commitRow = (over: Partial<CommitRow> = {}, input: Partial<CommitRow['input']> = {}): CommitRow => ({
  input: { shard: 1, triggerId: T, leaseEpoch: 1, outcome: 'success', code: 'ok', events: 2, cursor: '2', ...input },
  before: row(),
  after: row({ cursor: '2' }),
  owned: true,
  ...over,
});
const committed = (over: Partial<CommitFact> = {}): Fact => ({
  kind: 'committed',
  at: 4_000,
  batchId: B,
  hop: 0,
  end: true,
  wasLive: true,
  rows: [commitRow()],
  exceptions: [],
  process: 'worker-0.0',
  arm: false,
  ...over,
});
const fed = (over: Partial<Kind<'fed'>> = {}): Fact => ({
  kind: 'fed',
  at: 2_500,
  triggerId: T,
  op: 'upsert',
  fences: true,
  moves: false,
  lifts: false,
  asks: 'other',
  before: row(),
  after: row({ epoch: 2 }),
  configVersion: 2,
  ...over,
});

const SOUND: readonly Fact[] = [
  {
    kind: 'ticked',
    at: 900,
    ready: [{ triggerId: T, tenantId: 'tenant-a', rank: 1 }],
    planned: [{ batchId: B, triggerIds: [T] }],
  },
  claimed(),
  { kind: 'extended', at: 1_500, batchId: B, hop: 0, live: true, wasLive: true, leaseMs: 45_000 },
  { kind: 'asked', at: 1_600, connections: [{ tenantId: 'tenant-a', connectionId: 'connection-0' }] },
  polled(),
  { kind: 'called', at: 2_900, process: 'worker-0.0', path: '/state', digest: 'd' },
  told(),
  committed(),
  { kind: 'batch_over', at: 4_100, batchId: B, status: 'committed' },
];

const ending = (over: Partial<Ending> = {}): Ending => ({
  at: 400_000,
  faultsOffAt: 100_000,
  rested: true,
  liveBatches: [],
  rows: [{ ...row({ cursor: '2' }), triggerId: T, lastOkAt: 300_000, dueInMs: 10_000 }],
  held: {},
  letters: {},
  badItems: {},
  authObjects: [],
  saved: [{ batchId: B, triggerId: T, eventIds: events.map(({ id }) => id) }],
  unsentLifecycle: 0,
  faults: 0,
  faultKinds: [],
  ...over,
});

const historyOf = (
  facts: readonly Fact[],
  over: Partial<Ending> = {},
  kind: 'log' | 'listing' | 'queue' = 'log',
): History => ({
  seed: 0,
  leaseSeconds: 45,
  maxHops: 3,
  facts,
  ending: ending(over),
  triggers: [T, OTHER].map((triggerId, at) => ({
    triggerId,
    tenantId: at === 0 ? 'tenant-a' : 'tenant-b',
    toolkit: 'toolkit-x',
    kind,
    dedupe: 'unique',
    intervalSeconds: 20,
    items: at === 0 ? items : [],
    pageItems: 10,
    connections: ['connection-0'],
  })),
});

/** The sound facts with one kind of them replaced. */
const instead = (kind: Fact['kind'], ...facts: Fact[]): Fact[] =>
  SOUND.flatMap((fact) => (fact.kind === kind ? facts : [fact]));
const after = (...facts: Fact[]): Fact[] => [...SOUND, ...facts];

test('a sound history passes every checker', () => {
  expect(checkHistory(historyOf(SOUND))).toEqual([]);
});

const LIES: readonly (readonly [checker: string, lie: string, history: History])[] = [
  ['S1', 'more rows than planned', historyOf(instead('claimed', claimed({ planned: 0 })))],
  [
    'S1',
    'a row taken from a live batch',
    historyOf(
      after(
        claimed({
          batchId: NEXT,
          at: 5_000,
          rows: [{ triggerId: T, epoch: 2, takenFrom: 'live', primed: true, createdAt: 0, since: null }],
        }),
      ),
    ),
  ],
  ['S1', 'an epoch claimed twice', historyOf(after(claimed({ batchId: NEXT, at: 5_000 })))],
  ['S1', 'an epoch lowered by a change', historyOf(after(fed({ at: 5_000, after: row({ epoch: 0 }) })))],
  [
    'S2',
    'a row written that was not owned',
    historyOf(instead('committed', committed({ rows: [commitRow({ owned: false })] }))),
  ],
  ['S2', 'a write of a batch that was over', historyOf(instead('committed', committed({ wasLive: false })))],
  [
    'S2',
    'a refused row that changed',
    historyOf(
      after(
        committed({
          at: 5_000,
          batchId: NEXT,
          exceptions: [{ shard: 1, triggerId: T, leaseEpoch: 1, status: 'fenced' }],
        }),
      ),
    ),
  ],
  [
    'S2',
    'an expired lease revived',
    historyOf(after({ kind: 'extended', at: 5_000, batchId: B, hop: 0, live: true, wasLive: false, leaseMs: 45_000 })),
  ],
  [
    'S3',
    'an impossible transition',
    historyOf(after({ kind: 'logged', at: 5_000, event: 'entry.impossible_transition', batchId: B })),
  ],
  ['S3', 'a commit after the end', historyOf(after(committed({ at: 5_000, rows: [] })))],
  ['S4', 'one epoch committed twice', historyOf(after(committed({ at: 5_000 })))],
  ['S5', 'a cursor past what nobody took', historyOf(instead('told', told({ results: [] })))],
  ['S5', 'a cursor past what was offered and answered 503', historyOf(instead('told', told({ status: 503 })))],
  [
    'S5',
    'a cursor that went back',
    historyOf(instead('committed', committed({ rows: [commitRow({ before: row({ cursor: '5' }) })] }))),
  ],
  ['S6', 'saved events of a queue that nobody has', historyOf(instead('told'), {}, 'queue')],
  [
    'S6',
    'a log at rest before its end',
    historyOf(SOUND, { rows: [{ ...row({ cursor: '1' }), triggerId: T, lastOkAt: 1, dueInMs: 1 }] }),
  ],
  ['S6', 'an item of the listing that nobody has', historyOf(instead('told'), {}, 'listing')],
  [
    'S7',
    'an item told under another id',
    historyOf(
      instead(
        'told',
        told({ results: [toldResult({ events: [{ ...events[0], id: 'evt_other' } as (typeof events)[0]] })] }),
      ),
    ),
  ],
  [
    'S7',
    'an event that is no item',
    historyOf(instead('told', told({ results: [toldResult({ events: [{ id: 'evt_x', key: 'x', triggerId: T }] })] }))),
  ],
  ['S7', 'an event told twice in peace', historyOf(after(told({ at: 5_000, batchId: NEXT })))],
  [
    'S8',
    'a lease too long',
    historyOf(
      instead('extended', {
        kind: 'extended',
        at: 1_500,
        batchId: B,
        hop: 0,
        live: true,
        wasLive: true,
        leaseMs: 200_000,
      }),
    ),
  ],
  [
    'S8',
    'a run begun twice',
    historyOf(after({ kind: 'hop', at: 5_000, batchId: B, hop: 0 }, { kind: 'hop', at: 6_000, batchId: B, hop: 0 })),
  ],
  ['S8', 'a fifth run', historyOf(after({ kind: 'hop', at: 5_000, batchId: B, hop: 4 }))],
  [
    'S8',
    'a last hop that ends nothing',
    historyOf(after(committed({ at: 5_000, batchId: NEXT, hop: 3, end: false, rows: [] }))),
  ],
  [
    'S8',
    'a batch over that nobody ended',
    historyOf(after({ kind: 'batch_over', at: 5_000, batchId: NEXT, status: 'forced' })),
  ],
  [
    'S9',
    'a trigger twice in one commit',
    historyOf(instead('committed', committed({ rows: [commitRow(), commitRow()] }))),
  ],
  [
    'S9',
    'an epoch that was not claimed',
    historyOf(instead('committed', committed({ rows: [commitRow({}, { leaseEpoch: 9 })] }))),
  ],
  [
    'S9',
    'a verdict its polls did not come to',
    historyOf(
      instead('committed', committed({ rows: [commitRow({}, { outcome: 'backoff', code: 'poll.too_large' })] })),
    ),
  ],
  [
    'S9',
    'a success without a good poll',
    historyOf(instead('polled', polled({ code: 'poll.unavailable', cursorAfter: '2' }))),
  ],
  [
    'S9',
    'gone though the receiver never said so',
    historyOf(instead('committed', committed({ rows: [commitRow({}, { outcome: 'halt', code: 'broadcast.gone' })] }))),
  ],
  ['S10', 'a poll long after the fence', historyOf(after(fed({ at: 5_000 }), polled({ at: 16_000 })))],
  [
    'S10',
    'a commit of what is off',
    historyOf(instead('committed', committed({ rows: [commitRow({ before: row({ enabled: false }) })] }))),
  ],
  [
    'S11',
    'a credential in a stored object',
    historyOf(after({ kind: 'stored', at: 5_000, key: 'k', leaks: true, orphaned: false })),
  ],
  ['S11', 'a cursor its source never gave', historyOf(instead('polled', polled({ cursorAfter: '1' })))],
  ['S11', 'credentials left behind', historyOf(SOUND, { authObjects: [`batches/${B}/auth/0.1`] })],
  [
    'S16',
    'another tenant’s credentials',
    historyOf(instead('polled', polled({ auth: { tenantId: 'tenant-b', connectionId: 'connection-0' } }))),
  ],
  [
    'S16',
    'a connection of nobody’s',
    historyOf(
      after({ kind: 'asked', at: 5_000, connections: [{ tenantId: 'tenant-b', connectionId: 'connection-9' }] }),
    ),
  ],
  [
    'S16',
    'an event in another’s result',
    historyOf(instead('told', told({ results: [toldResult({ triggerId: OTHER })] }))),
  ],
  [
    'L1',
    'a lease of before that never ends',
    historyOf(after({ kind: 'extended', at: 1_100_000, batchId: B, hop: 0, live: true, wasLive: true, leaseMs: 1 })),
  ],
  ['L1', 'a batch live at rest', historyOf(SOUND, { liveBatches: [B] })],
  ['L2', 'no rest', historyOf(SOUND, { rested: false })],
  [
    'L2',
    'something due and nobody armed after it',
    historyOf(
      after(committed({ at: 300_000, batchId: NEXT, rows: [], arm: true }), { kind: 'faults_off', at: 310_000 }),
    ),
  ],
  [
    'L3',
    'the same call twice at once',
    historyOf(after({ kind: 'called', at: 2_950, process: 'worker-0.0', path: '/state', digest: 'd' })),
  ],
  ['L3', 'an event told twice by one batch in peace', historyOf(after(told({ at: 300_000 }), told({ at: 301_000 })))],
  [
    'L4',
    'a rank behind another tenant’s',
    historyOf(
      instead('ticked', {
        kind: 'ticked',
        at: 900,
        ready: [
          { triggerId: OTHER, tenantId: 'tenant-b', rank: 1 },
          ...['first', T, 'third', 'fourth'].map((triggerId, n) => ({ triggerId, tenantId: 'tenant-a', rank: n + 1 })),
        ],
        planned: [{ batchId: B, triggerIds: [T] }],
      }),
    ),
  ],
  ['L5', 'a run in which nothing was committed', historyOf(instead('committed'))],
  ['process', 'a promise that failed unheard', historyOf(after({ kind: 'unheard', at: 5_000, error: 'x' }))],
];

test.each(LIES)('%s finds %s', (checker, _lie, history) => {
  expect(checkHistory(history).map((finding) => finding.checker)).toContain(checker);
});

test('every checker has a lie it was shown', () => {
  expect([...new Set(LIES.map(([checker]) => checker))].sort()).toEqual(Object.keys(CHECKERS).sort());
});
