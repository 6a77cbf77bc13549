/**
 * Two that work on one batch at once, in every order of what they do: two attempts of a hop, or two hops.
 *
 * Real are the steps poll, broadcast and commit, the snapshot's reader and writer, and PostgreSQL. Each of the two stops
 * before everything the other could see: reading the objects, storing a result, posting, recording a delivery, committing.
 * The drill lets them go on one at a time, in each of the orders there are. What must hold is read from what was posted,
 * recorded and written, never from what the steps say of themselves: a commit takes the result that was delivered when it
 * looked, its cursor, its keys and nothing of another; and it takes no cursor whose events nobody has.
 */
import { BATCH_STEPS, type BatchDeps } from '@milkrun/batch-poller';
import {
  type BatchStore,
  batchIdOf,
  type ClaimedTrigger,
  type CommitInput,
  type CommitResult,
  type CommitRow,
  eventIdOf,
  keyHashOf,
  type PollReply,
  type StateResult,
} from '@milkrun/core';
import { createObjectStore } from '@milkrun/object-store';
import type { WorkerDb } from '@milkrun/workerdb';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { type Gate, interleave, orderOf, ordersOf } from './lib/interleave.ts';
import { randomFrom } from './lib/random.ts';
import {
  contextOf,
  createProvider,
  createReceiver,
  drillKeys,
  inputOf,
  LEASE_SECONDS,
  pageOf,
  stepDeps,
} from './lib/steps.ts';
import { changeOf, makeDue, openDrillDb, push, uuidsFrom } from './lib/workerdb.ts';

/** Gates of one of the two: poll reads and stores, broadcast reads, posts and records, commit reads and writes. */
const TURNS_EACH = 7;
const BATCHES = 16;
const LANES = 4;
const HOPS_MAX = 3;
/** One post in four reaches the receiver and its answer is lost. */
const ANSWERS_LOST = 0.25;

type Who = 'a' | 'b' | 'later';
type Finds = (who: Who) => PollReply;

const failed = (
  code: 'poll.connector_error' | 'poll.unavailable' | 'poll.rate_limited' | 'poll.permanent',
): PollReply => ({
  code,
  message: 'as the drill wants it',
});
const items = (who: Who, count: number): PollReply =>
  pageOf(
    Array.from({ length: count }, (_, n) => ({ key: keyOf(who, n), occurredAt: '2026-02-01T00:00:00.000Z' })),
    who,
  );
const keyOf = (who: Who, n: number): string => `${who}-${n}`;

/** What each of the two finds, one trigger of the batch a line. `later`: the hops that follow, when one is needed. */
const CASES: readonly Finds[] = [
  (who) => items(who, who === 'a' ? 2 : 1),
  (who) => items(who, who === 'a' ? 1 : 3),
  (who) => items(who, who === 'a' ? 2 : 0),
  (who) => items(who, who === 'a' ? 0 : 2),
  (who) => items(who, 0),
  (who) => (who === 'a' ? failed('poll.connector_error') : items(who, 1)),
  (who) => (who === 'a' ? items(who, 1) : failed('poll.connector_error')),
  (who) => (who === 'a' ? failed('poll.permanent') : items(who, 1)),
  (who) => (who === 'a' ? items(who, 1) : failed('poll.unavailable')),
  (who) => (who === 'a' ? failed('poll.unavailable') : items(who, 1)),
  (who) => (who === 'a' ? items(who, 1) : failed('poll.rate_limited')),
];

interface Pairing {
  readonly name: string;
  readonly a: { readonly hop: number; readonly attempt: number };
  readonly b: { readonly hop: number; readonly attempt: number };
}

const PAIRINGS: readonly Pairing[] = [
  { name: 'two attempts', a: { hop: 0, attempt: 1 }, b: { hop: 0, attempt: 2 } },
  { name: 'two hops', a: { hop: 0, attempt: 1 }, b: { hop: 1, attempt: 1 } },
];
const ORDERS = ordersOf(TURNS_EACH);

export const drill: Drill = {
  name: 'late-result',
  about: 'Two attempts or two hops at once, in every order: commit takes the result that was delivered.',
  defaults: { count: 300 },
  fullCount: PAIRINGS.length * ORDERS,
  ciCount: 60,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    const opened = await openDrillDb({ connections: 2 * LANES });
    const totals = { orders: 0, tried: 0, commits: 0, late: 0, answersLost: 0, violations: 0 };
    const all = shuffled(PAIRINGS.length * ORDERS, random).slice(0, count);
    try {
      const uuid = uuidsFrom(random);
      for (let at = 0; at < all.length && totals.violations === 0; at += BATCHES) {
        const orders = all.slice(at, at + BATCHES).map((order) => ({ order, losesAnswers: random() < ANSWERS_LOST }));
        const batches = await claimed(opened.db, orders.length, uuid);
        const lanes = Array.from({ length: LANES }, async (_, lane) => {
          for (let n = lane; n < orders.length; n += LANES) {
            const { order, losesAnswers } = orders[n] as (typeof orders)[number];
            const pairing = PAIRINGS[order % PAIRINGS.length] as Pairing;
            const turns = orderOf(Math.floor(order / PAIRINGS.length), TURNS_EACH);
            const found = await overlap(opened.db, batches[n] as Batch, pairing, turns, losesAnswers);
            totals.orders += 1;
            totals.tried += CASES.length;
            totals.commits += found.commits;
            totals.late += found.late;
            totals.answersLost += losesAnswers ? 1 : 0;
            totals.violations += found.problems.length;
            for (const problem of found.problems.slice(0, 5))
              log(`violation: ${problem}\n  ${found.trace.join('\n  ')}`);
          }
        });
        await Promise.all(lanes);
        log(
          `${totals.orders} of ${all.length} orders, ${totals.late} results came late, ${totals.violations} violations`,
        );
      }
    } finally {
      await opened.close();
    }
    if (totals.late === 0) {
      totals.violations += 1;
      log('violation: no result came after another had been delivered');
    }
    return { ...totals, ordersThereAre: PAIRINGS.length * ORDERS };
  },
};

interface Batch {
  readonly batchId: string;
  readonly triggers: readonly ClaimedTrigger[];
}

async function claimed(db: WorkerDb, count: number, uuid: () => string): Promise<Batch[]> {
  const size = CASES.length;
  // The tick plans by how much live workers can take.
  for (let n = 0; n < count; n += 1) await db.heartbeatWorker({ workerId: `drill-${n}`, width: 1 });
  await db.sql.unsafe(
    'delete from polling_triggers; delete from polling_trigger_runs; delete from polling_trigger_states; delete from source_limits; delete from source_health',
  );
  await push(
    db,
    Array.from({ length: count * size }, () => changeOf(uuid(), 1)),
  );
  await makeDue(db);
  // Known to be primed already, so that each item that is found is told.
  await db.sql`update polling_trigger_runs set primed = true`;
  const batchIds = Array.from({ length: count }, () => batchIdOf(0, uuid()));
  const { planned } = await db.tick({ timerShard: 0, batchSize: size, batchIds, dispatch: true });
  if (planned.length !== count) throw new Error(`${planned.length} batches were planned instead of ${count}`);
  return await Promise.all(
    planned.map(async ({ batchId }) => ({
      batchId,
      triggers: (await db.claim({ batchId, leaseSeconds: LEASE_SECONDS, bytesMax: 8 * 1024 * 1024 })).triggers,
    })),
  );
}

interface Commit {
  /** How many deliveries were recorded when it read the objects. */
  readonly recordedBefore: number;
  readonly rows: readonly CommitRow[];
  readonly result: CommitResult;
}

interface Recorded {
  readonly triggerId: string;
  readonly who: Who;
}

interface Found {
  readonly problems: readonly string[];
  readonly trace: readonly string[];
  readonly commits: number;
  readonly late: number;
}

async function overlap(
  db: WorkerDb,
  batch: Batch,
  pairing: Pairing,
  turns: readonly number[],
  losesAnswers: boolean,
): Promise<Found> {
  const { batchId, triggers } = batch;
  const caseOf = new Map(triggers.map(({ triggerId }, n) => [triggerId, CASES[n] as Finds]));
  const whoseId = new Map<string, { readonly who: Who; readonly triggerId: string }>();
  for (const { triggerId } of triggers) {
    for (const who of ['a', 'b', 'later'] as const) {
      for (let n = 0; n < 3; n += 1) whoseId.set(eventIdOf(triggerId, keyOf(who, n)), { who, triggerId });
    }
  }
  const objects = createObjectStore('memory:');
  const problems: string[] = [];
  const trace: string[] = [];
  const accepted = new Set<string>();
  const recorded: Recorded[] = [];
  const commits: Commit[] = [];
  let late = 0;

  const input = inputOf(batchId, triggers.length);
  /** A process of its own that passes each gate before it does what others can see. */
  function process(who: Who, gate: Gate): { readonly deps: BatchDeps; readonly step: () => void } {
    let read: Promise<void> | undefined;
    let recordedAtRead = 0;
    let posted: Recorded[] = [];
    const store: BatchStore = {
      ...db,
      async commit(commit: CommitInput) {
        const recordedBefore = recordedAtRead;
        await gate('commit');
        const result = await db.commit(commit);
        commits.push({ recordedBefore, rows: commit.rows, result });
        return result;
      },
    };
    const controlPlane = createReceiver({
      async onState(results: readonly StateResult[]) {
        await gate('post');
        posted = [];
        for (const { triggerId, events } of results) {
          for (const event of events) {
            const { id } = JSON.parse(event) as { id: string };
            const owner = whoseId.get(id);
            if (owner?.triggerId !== triggerId) problems.push(`${id} was posted for ${triggerId}`);
            else posted.push({ triggerId, who: owner.who });
            accepted.add(id);
          }
        }
        return losesAnswers && who === 'a' ? { kind: 'unavailable', reason: 'the answer is lost' } : undefined;
      },
    });
    const deps = stepDeps({
      store,
      objects: {
        ...objects,
        async list(prefix) {
          read ??= gate('read').then(() => {
            recordedAtRead = recorded.length;
          });
          await read;
          return await objects.list(prefix);
        },
        async putIfAbsent(key, body) {
          const name = key.slice(`batches/${batchId}/`.length);
          if (/^(results|delivered)\//.test(name)) await gate(`put ${name}`);
          if (name.startsWith('results/') && recorded.length > 0) late += 1;
          const done = await objects.putIfAbsent(key, body);
          if (name.startsWith('delivered/') && done === 'created') recorded.push(...posted);
          return done;
        },
      },
      keys: drillKeys(),
      controlPlane,
      runner: createProvider(({ triggerId }) => (caseOf.get(triggerId) as Finds)(who)),
      // One after the other, so that there is one gate at a time.
      limits: { broadcastLanes: 1 },
    });
    const step = (): void => {
      read = undefined;
    };
    return { deps, step };
  }

  async function hop(who: Who, { hop: at, attempt }: Pairing['a'], gate: Gate, force: boolean): Promise<boolean> {
    const { deps, step } = process(who, gate);
    const own = { ...input, retryCounter: at };
    const context = contextOf(attempt);
    for (const run of [
      () => BATCH_STEPS.poll(deps, own, context),
      () => BATCH_STEPS.broadcast(deps, own, context),
      () => BATCH_STEPS.commit(deps, { ...own, force, askedSeconds: 0 }, context),
    ]) {
      step();
      const result = await run();
      if (result.status === 'ended') return true;
    }
    return false;
  }

  const open: Gate = async () => {};
  const { deps: first } = process('later', open);
  await first.snapshots.writeEntries(batchId, triggers);
  for (const at of [0, 1]) await BATCH_STEPS.fetchAuth(first, { ...input, retryCounter: at }, contextOf(1));
  await interleave(
    [
      async (gate) => void (await hop('a', pairing.a, gate, false)),
      async (gate) => void (await hop('b', pairing.b, gate, false)),
    ],
    turns,
    (actor, what) => trace.push(`${actor === 0 ? 'a' : 'b'} ${what}`),
  );
  // Then nobody overlaps any more, and the batch comes to its end.
  for (let at = pairing.b.hop + 1; at <= HOPS_MAX; at += 1) {
    await BATCH_STEPS.fetchAuth(first, { ...input, retryCounter: at }, contextOf(1));
    if (await hop('later', { hop: at, attempt: 1 }, open, at === HOPS_MAX)) break;
  }

  const taken = new Map<string, CommitRow>();
  for (const { recordedBefore, rows, result } of commits) {
    const refused = new Set(result.exceptions.map(({ triggerId }) => triggerId));
    for (const row of rows) {
      if (refused.has(row.triggerId)) continue;
      if (taken.has(row.triggerId)) problems.push(`${row.triggerId} was committed twice under one epoch`);
      taken.set(row.triggerId, row);
      const before = recorded.slice(0, recordedBefore).filter(({ triggerId }) => triggerId === row.triggerId);
      problems.push(
        ...problemsOf(row, new Set(before.map(({ who }) => who)), accepted, caseOf.get(row.triggerId) as Finds),
      );
    }
  }
  problems.push(...(await compare(db, triggers, taken)));
  return {
    problems,
    trace: [`${pairing.name}${losesAnswers ? ', answers to a are lost' : ''}`, ...trace],
    commits: commits.length,
    late,
  };
}

/** What is wrong with a row that was committed when the given ones' results had been recorded as delivered. */
function* problemsOf(
  row: CommitRow,
  delivered: ReadonlySet<Who>,
  accepted: ReadonlySet<string>,
  finds: Finds,
): Generator<string> {
  const who = row.cursor === undefined ? undefined : (JSON.parse(row.cursor) as Who);
  const found = who === undefined ? undefined : finds(who);
  const keys = found?.code === 'ok' ? found.page.items.map((item) => (item as { key: string }).key) : [];
  const of = `${row.triggerId} (${row.outcome}, ${row.code}, cursor ${row.cursor})`;
  if (delivered.size > 0 && (who === undefined || !delivered.has(who))) {
    yield `${of}: what had been delivered was of ${[...delivered].join(' and ')}`;
  }
  if (delivered.size === 0 && keys.length > 0) yield `${of}: nothing of it had been recorded as delivered`;
  for (const key of keys)
    if (!accepted.has(eventIdOf(row.triggerId, key))) yield `${of}: the receiver never took ${key}`;
  const hashes = Buffer.concat(keys.map((key) => Buffer.from(keyHashOf(key))));
  if (!hashes.equals(row.seen ?? Buffer.alloc(0))) yield `${of}: its keys are not those of its cursor`;
}

/** The rows as they lie in the database against what was committed. */
async function compare(
  db: WorkerDb,
  triggers: readonly ClaimedTrigger[],
  taken: ReadonlyMap<string, CommitRow>,
): Promise<string[]> {
  const rows = await db.sql<
    { trigger_id: string; cursor: string | null; epoch: number; committed: number; leased: boolean }[]
  >`
    select t.trigger_id, s.cursor::text as cursor, t.lease_epoch as epoch, t.last_committed_epoch as committed, exists (
      select from batches b where b.batch_no = t.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp()) as leased
    from polling_trigger_runs t join polling_trigger_states s using (shard, trigger_id)
    where t.trigger_id = any (${triggers.map(({ triggerId }) => triggerId)})`;
  const problems: string[] = [];
  for (const row of rows) {
    const last = taken.get(row.trigger_id);
    if (row.cursor !== (last?.cursor ?? null))
      problems.push(`${row.trigger_id}: the cursor is ${row.cursor}, committed was ${last?.cursor}`);
    if (row.leased) problems.push(`${row.trigger_id} is still leased`);
    if ((row.committed === row.epoch) !== (last !== undefined))
      problems.push(`${row.trigger_id}: committed epoch ${row.committed} of ${row.epoch}`);
  }
  return problems;
}

function shuffled(count: number, random: () => number): number[] {
  const all = Array.from({ length: count }, (_, n) => n);
  for (let n = count - 1; n > 0; n -= 1) {
    const other = Math.floor(random() * (n + 1));
    [all[n], all[other]] = [all[other] as number, all[n] as number];
  }
  return all;
}
