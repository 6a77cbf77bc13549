/**
 * Random lives of triggers against polls in flight, on a real control plane and a real engine.
 *
 * Real are registrydb and its API over HTTP, the feed reader, the push twin, the five steps and workerdb; the drill's own
 * is the provider. What users do to each trigger is kept as a list of versions, and what workerdb holds is read by SQL
 * after every action of the feed and every commit. Between two looks only what the versions in between say may have
 * changed: nothing is primed again, no cursor moves, no halt is lifted but by a change that says so; and each that says so
 * is carried out. At the end of each round both sides must say the same of each trigger.
 */
import { startApi } from '@milkrun/api';
import { BATCH_STEPS, type BatchDeps } from '@milkrun/batch-poller';
import { createControlPlane, parseChanges } from '@milkrun/control-plane';
import {
  type BatchPollerInput,
  batchIdOf,
  type ControlPlane,
  type FeedChange,
  noLog,
  noMetrics,
  Secret,
  systemClock,
  systemRng,
} from '@milkrun/core';
import { createFeedReader, createLifecycleSender, createPushChanges } from '@milkrun/dispatch';
import { createObjectStore } from '@milkrun/object-store';
import type { Actor, Registry, TriggerView } from '@milkrun/registrydb';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase } from '@milkrun/testkit';
import type { WorkerDb } from '@milkrun/workerdb';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';
import { type SteppedLoop, stepLoop } from './lib/stepped-loop.ts';
import { contextOf, createProvider, drillKeys, inputOf, pageOf, stepDeps } from './lib/steps.ts';
import { makeDue, openDrillDb, uuidsFrom } from './lib/workerdb.ts';

/** Triggers that share two connections; what is done to one group follows in order, groups at the same time. */
const GROUP = 6;
const GROUPS_AT_ONCE = 4;
const WORLD = 120;
const ROUNDS = 6;
/** How likely a trigger is touched at one of the moments of a round. */
const TOUCHED = 0.22;
const ENGINE_KEY = 'engine-key-of-the-drill';

/** What one version of a trigger says, and what it tells the engine to do once. */
interface Version {
  readonly no: number;
  readonly def: Definition | 'deleted';
  readonly lifts?: boolean;
  /** JSON text. */
  readonly rewinds?: string;
  readonly primes?: boolean;
}

interface Definition {
  readonly config: string;
  readonly connectionId: string;
  readonly version: string;
  readonly intervalSeconds: number;
  readonly enabled: boolean;
}

interface Life {
  readonly id: string;
  readonly versions: Version[];
  /** Its provider fails for good until its configuration changes. */
  broken: boolean;
  readonly done: string[];
}

interface Group {
  readonly lives: Life[];
  readonly connections: readonly [string, string];
}

/** A row of workerdb as SQL shows it. */
interface Row {
  readonly cv: number;
  readonly config: string;
  readonly connectionId: string;
  readonly version: string;
  readonly intervalSeconds: number;
  readonly enabled: boolean;
  readonly primed: boolean;
  readonly cursor: string | null;
  readonly halt: string | null;
  readonly epoch: number;
}
type Rows = ReadonlyMap<string, Row>;

export const drill: Drill = {
  name: 'feed',
  about:
    'Whatever users do while polls are in flight, engine and control plane come to agree, and nothing is primed again.',
  defaults: { count: 960 },
  fullCount: 10_000,
  ciCount: 240,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    const opened = await openDrillDb({ connections: 8 });
    const registrydbUrl = new Secret(await createDatabase(opened.url));
    const api = await startApi({
      config: {
        apiHost: '127.0.0.1',
        apiPort: 0,
        registrydbUrl,
        registryKey: new Secret(Buffer.alloc(32, 9).toString('base64')),
        controlPlaneKey: new Secret(ENGINE_KEY),
      },
      log: noLog,
      metrics: createMetrics({ prometheus: true, onUnknown: 'throw' }),
      clock: systemClock,
    });
    const controlPlane = createControlPlane({ url: api.url, key: ENGINE_KEY, clock: systemClock, rng: systemRng });
    const totals: Totals = {
      operations: 0,
      feedActions: 0,
      polls: 0,
      primes: 0,
      halts: 0,
      lifted: 0,
      fenced: 0,
      rewinds: 0,
      resyncs: 0,
    };
    let tried = 0;
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      if (violations <= 10) log(`violation: ${problem}`);
    };
    const engine = startEngine(opened.db, controlPlane, report);
    try {
      for (let n = 0; tried < count && violations === 0; n += 1) {
        const lives = Math.min(WORLD, count - tried);
        await live({
          engine,
          registry: api.registry,
          actor: { tenantId: `tenant-${n}`, name: 'drill' },
          lives,
          random,
          totals,
          report,
        });
        tried += lives;
        log(
          `${tried} of ${count} histories, ${totals.operations} changes, ${totals.polls} polls, ${totals.halts} halts, ${violations} violations`,
        );
      }
    } finally {
      await engine.stop();
      await controlPlane.close();
      await api.close();
      await opened.close();
    }
    for (const [what, number] of Object.entries(totals)) if (number === 0) report(`no ${what}`);
    return { tried, violations, ...totals };
  },
};

interface Totals {
  operations: number;
  feedActions: number;
  polls: number;
  primes: number;
  halts: number;
  lifted: number;
  fenced: number;
  rewinds: number;
  resyncs: number;
}

interface Engine {
  readonly db: WorkerDb;
  readonly controlPlane: ControlPlane;
  readonly reader: SteppedLoop;
  readonly sender: SteppedLoop;
  push(changes: readonly FeedChange[]): Promise<unknown>;
  stop(): Promise<void>;
}

function startEngine(db: WorkerDb, controlPlane: ControlPlane, report: (problem: string) => void): Engine {
  const timers = { arm: async () => {} };
  const log = {
    ...noLog,
    warn: (fields: object, event: string) => {
      if (event !== 'feed.resync_started') report(`${event} ${JSON.stringify(fields)}`);
    },
    error: (fields: object, event: string) => report(`${event} ${JSON.stringify(fields)}`),
  };
  const shared = { store: db, controlPlane, log, metrics: noMetrics, workerId: 'drill' };
  const reader = stepLoop((clock) => createFeedReader({ ...shared, timers, clock, waitSeconds: 0, limit: 100 }));
  const sender = stepLoop((clock) => createLifecycleSender({ ...shared, clock }));
  return {
    db,
    controlPlane,
    reader,
    sender,
    push: createPushChanges({ store: db, timers, metrics: noMetrics }),
    async stop() {
      await Promise.all([reader.stop(), sender.stop()]);
    },
  };
}

interface World {
  readonly engine: Engine;
  readonly registry: Registry;
  readonly actor: Actor;
  readonly lives: number;
  readonly random: () => number;
  readonly totals: Totals;
  readonly report: (problem: string) => void;
}

async function live({ engine, registry, actor, lives: count, random, totals, report }: World): Promise<void> {
  const { db, reader, sender } = engine;
  const uuid = uuidsFrom(random);
  await registry.keys.ensureTenant(actor.tenantId, actor.tenantId);
  const groups: Group[] = [];
  for (let made = 0; made < count; made += GROUP)
    groups.push(await createGroup(registry, actor, Math.min(GROUP, count - made)));
  const all = new Map(groups.flatMap(({ lives }) => lives.map((one) => [one.id, one] as const)));
  const pages: FeedChange[][] = [];
  let rows: Rows = new Map();
  let items = 10;

  const runner = createProvider(({ triggerId, cursor, since }) => {
    totals.polls += 1;
    if (cursor === 'null') totals.primes += 1;
    const life = all.get(triggerId);
    if (life === undefined || life.broken) return { code: 'poll.permanent', message: 'as the drill wants it' };
    const from = cursor === 'null' ? (since === undefined ? items - 2 : 0) : Number(cursor);
    return pageOf(
      Array.from({ length: Math.max(0, items - from) }, (_, n) => ({
        key: `item-${from + n}`,
        occurredAt: new Date(1_790_000_000_000 + from + n).toISOString(),
      })),
      items,
    );
  });
  const deps = (): BatchDeps =>
    stepDeps({ store: db, objects, keys: drillKeys(), controlPlane: engine.controlPlane, runner });
  const objects = createObjectStore('memory:');

  const touchSome = async (): Promise<void> => {
    const waiting = [...groups];
    const lanes = Array.from({ length: GROUPS_AT_ONCE }, async () => {
      for (let group = waiting.pop(); group !== undefined; group = waiting.pop()) {
        for (const life of group.lives) {
          if (random() >= TOUCHED) continue;
          totals.operations += 1;
          await touch(registry, actor, group, life, random, () => items);
        }
      }
    });
    await Promise.all(lanes);
  };

  /** One action of the feed, or none; whatever it brought must follow from the versions it brought. */
  const feedAction = async (): Promise<void> => {
    const what = random();
    if (what < 0.35) return;
    totals.feedActions += 1;
    if (what < 0.6) await reader.untilIdle();
    else if (what < 0.75) await pushSome();
    else if (what < 0.85) await readAgain();
    else {
      totals.resyncs += 1;
      if (what < 0.93) await db.beginResync();
      else await db.sql`update change_feed set cursor = 'unknown.0.0'`;
      await reader.untilIdle();
    }
    await look('feed');
  };

  /** A platform that pushes: some triggers’ changes, each one’s in order. */
  async function pushSome(): Promise<void> {
    const changes = await unread(registry, await db.feedCursor());
    pages.push(changes);
    const chosen = new Set([...all.keys()].filter(() => random() < 0.5));
    const some = changes.filter(({ triggerId }) => chosen.has(triggerId));
    for (let at = 0; at < some.length; at += 1000) await engine.push(some.slice(at, at + 1000));
  }

  async function readAgain(): Promise<void> {
    const page = pages[Math.floor(random() * pages.length)];
    if (page !== undefined && page.length > 0) await engine.push(page.slice(0, 1000));
  }

  async function look(by: 'feed' | 'commit', claimedAt?: ReadonlyMap<string, number>): Promise<void> {
    const now = await rowsOf(db);
    for (const life of all.values()) {
      const before = rows.get(life.id);
      const after = now.get(life.id);
      const problems =
        by === 'feed'
          ? afterFeed(life, before, after, totals)
          : afterCommit(life, before, after, claimedAt?.get(life.id), totals);
      for (const problem of problems)
        report(
          `${life.id} after ${by}: ${problem}; was ${JSON.stringify(before)}, is ${JSON.stringify(after)}; ${life.done.slice(-8).join(', ')}`,
        );
    }
    rows = now;
  }

  await reader.untilIdle();
  await look('feed');
  for (let round = 0; round < ROUNDS; round += 1) {
    items += 1;
    await makeDue(db);
    for (let n = 0; n < 2; n += 1) await db.heartbeatWorker({ workerId: `drill-${n}`, width: 1 });
    const { planned } = await db.tick({
      timerShard: 0,
      batchSize: WORLD,
      batchIds: [batchIdOf(0, uuid())],
      dispatch: true,
    });
    const batch = planned[0];
    if (batch === undefined) throw new Error('nothing is due');
    const input: BatchPollerInput = inputOf(batch.batchId, batch.keys);
    await BATCH_STEPS.claimAndSnapshot(deps(), input, contextOf(1));
    const claimedAt = new Map([...rows].map(([id, { cv }]) => [id, cv]));
    for (const step of [BATCH_STEPS.fetchAuth, BATCH_STEPS.poll, BATCH_STEPS.broadcast]) {
      await touchSome();
      await feedAction();
      await step(deps(), input, contextOf(1));
    }
    await touchSome();
    await feedAction();
    // What is left open waits for a next hop: it is forced here, and comes again in the next round.
    await BATCH_STEPS.commit(deps(), { ...input, force: true, askedSeconds: 0 }, contextOf(1));
    await look('commit', claimedAt);
    await touchSome();
    await feedAction();
    await reader.untilIdle();
    await look('feed');
    await sender.untilIdle();
    for (const problem of await compare(registry, actor, all, rows)) report(problem);
  }
  await forget(db, registry, actor, all);
}

async function createGroup(registry: Registry, actor: Actor, count: number): Promise<Group> {
  const connect = async (): Promise<string> =>
    (
      await registry.connections.create(actor, {
        toolkit: 'drill',
        name: 'drill',
        credentials: { type: 'bearer', token: 'x' },
      })
    ).id;
  const connections = [await connect(), await connect()] as const;
  const made = await registry.triggers.upsertMany(
    actor,
    Array.from({ length: count }, () => ({
      tags: [],
      toolkit: 'drill',
      slug: 'drill',
      version: '1',
      config: '{"n":0}',
      connectionId: connections[0],
      intervalSeconds: 300,
      enabled: true,
      poll: { dedupe: 'unique' as const, repeatable: true },
    })),
  );
  const def = { config: '{"n":0}', connectionId: connections[0], version: '1', intervalSeconds: 300, enabled: true };
  return { connections, lives: made.map(({ id }) => ({ id, versions: [{ no: 1, def }], broken: false, done: [] })) };
}

/** One thing a user does to a trigger, or to a connection of its group. */
async function touch(
  registry: Registry,
  actor: Actor,
  group: Group,
  life: Life,
  random: () => number,
  items: () => number,
): Promise<void> {
  const { triggers, connections } = registry;
  const last = life.versions.at(-1) as Version;
  if (last.def === 'deleted') return;
  const { id } = life;
  const { def } = last;
  const pick = <T>(...of: readonly T[]): T => of[Math.floor(random() * of.length)] as T;
  const took = (view: TriggerView, says: Omit<Version, 'no' | 'def'> = {}): void => {
    if (view.configVersion > (life.versions.at(-1) as Version).no)
      life.versions.push({ no: view.configVersion, def: definitionOf(view), ...says });
  };
  const from = pick('cursor', 'now');
  const acts: Record<string, () => Promise<void>> = {
    name: async () => took(await triggers.patch(actor, id, { name: pick('a', 'b', 'c') })),
    tags: async () => took(await triggers.patch(actor, id, { tags: [pick('a', 'b', 'c')] })),
    interval: async () => took(await triggers.patch(actor, id, { intervalSeconds: pick(60, 300, 900) })),
    config: async () => {
      took(await triggers.patch(actor, id, { config: JSON.stringify({ n: pick(0, 1, 2) }) }));
      life.broken = false;
    },
    connection: async () => took(await triggers.patch(actor, id, { connectionId: pick(...group.connections) })),
    version: async () => took(await triggers.patch(actor, id, { version: pick('1', '2') })),
    disable: async () => took(await triggers.disable(actor, id)),
    [`enable ${from}`]: async () =>
      took(await triggers.enable(actor, id, from), { lifts: true, primes: from === 'now' }),
    [`resume ${from}`]: async () =>
      took(await triggers.resume(actor, id, from), { lifts: true, primes: from === 'now' }),
    pollNow: async () => took(await triggers.pollNow(actor, id)),
    rewind: async () => {
      const cursor = String(Math.floor(random() * items()));
      took(await triggers.rewind(actor, id, { cursor }), { lifts: true, rewinds: cursor });
    },
    since: async () =>
      took(await triggers.rewind(actor, id, { since: '2026-09-01T00:00:00.000Z' }), { lifts: true, primes: true }),
    breaks: async () => {
      life.broken = true;
    },
    mends: async () => {
      life.broken = false;
    },
    revoke: async () =>
      void (await connections.patch(actor, def.connectionId, { status: 'revoked', statusReason: 'drill' })),
    credentials: async () => {
      await connections.patch(actor, def.connectionId, { credentials: { type: 'bearer', token: String(random()) } });
      for (const other of group.lives) {
        const own = other.versions.at(-1) as Version;
        if (own.def === 'deleted' || own.def.connectionId !== def.connectionId) continue;
        other.versions.push({ no: own.no + 1, def: own.def, lifts: true });
        other.done.push(`credentials@${own.no + 1}`);
      }
    },
    delete: async () => {
      await triggers.remove(actor, id);
      life.versions.push({ no: last.no + 1, def: 'deleted' });
    },
  };
  const weights: Record<string, number> = {
    name: 6,
    delete: 0.3,
    breaks: 3,
    mends: 0.5,
    revoke: 1,
    [`enable ${from}`]: def.enabled ? 0.5 : 8,
  };
  const names = Object.keys(acts);
  let at = random() * names.reduce((sum, name) => sum + (weights[name] ?? 1.5), 0);
  const name =
    names.find((one) => {
      at -= weights[one] ?? 1.5;
      return at < 0;
    }) ?? 'name';
  await acts[name]?.();
  life.done.push(`${name}@${(life.versions.at(-1) as Version).no}`);
}

const definitionOf = ({ config, connectionId, version, intervalSeconds, enabled }: TriggerView): Definition => ({
  config,
  connectionId,
  version,
  intervalSeconds,
  enabled,
});

/** All records behind a cursor, as a platform would push them. */
async function unread(registry: Registry, after: string | null): Promise<FeedChange[]> {
  const changes: FeedChange[] = [];
  for (let cursor = after; ; ) {
    const page = await registry.feed.read(cursor, 1000);
    if (page === 'expired') return [];
    const { changes: parsed, refused } = parseChanges(page.changes.map((text) => JSON.parse(text)));
    if (refused.length > 0) throw new Error(`records were refused: ${JSON.stringify(refused[0])}`);
    changes.push(...parsed);
    cursor = page.next;
    if (!page.more) return changes;
  }
}

async function rowsOf(db: WorkerDb): Promise<Rows> {
  const rows = await db.sql<(Row & { readonly id: string })[]>`
    select t.trigger_id as id, p.config_version::int as cv, p.config::text as config, p.connection_id as "connectionId",
      p.version_wanted as version, t.interval_s as "intervalSeconds", t.enabled, t.primed, s.cursor::text as cursor, c.code as halt,
      t.lease_epoch as epoch
    from polling_trigger_runs t join polling_triggers p using (shard, trigger_id) join polling_trigger_states s using (shard, trigger_id)
      left join codes c on c.no = t.halted_code`;
  return new Map(rows.map(({ id, ...row }) => [id, row]));
}

const sameJson = (a: string, b: string): boolean => JSON.stringify(JSON.parse(a)) === JSON.stringify(JSON.parse(b));

/** Whether going from one definition to another takes the row from its batch. */
function fences(life: Life, from: number, to: number): boolean {
  const steps = life.versions.filter(({ no }) => no > from && no <= to);
  if (steps.some(({ lifts, rewinds, primes, def }) => lifts || rewinds !== undefined || primes || def === 'deleted'))
    return true;
  const before = life.versions.findLast(({ no }) => no <= from)?.def as Definition;
  const after = steps.at(-1)?.def as Definition | undefined;
  return (
    after !== undefined &&
    (!sameJson(before.config, after.config) ||
      before.connectionId !== after.connectionId ||
      before.version !== after.version ||
      before.enabled !== after.enabled)
  );
}

/** Whether one of the versions between two looks has another config or connection than the one before it, or turns it on. */
function changesWhatLifts(life: Life, from: number, to: number): boolean {
  const at = life.versions.findLastIndex(({ no }) => no <= from);
  return life.versions.some(({ no, def }, index) => {
    const before = life.versions[index - 1]?.def;
    if (index <= at || no > to || def === 'deleted' || before === undefined || before === 'deleted') return false;
    return (
      !sameJson(before.config, def.config) ||
      before.connectionId !== def.connectionId ||
      (!before.enabled && def.enabled)
    );
  });
}

function* afterFeed(life: Life, before: Row | undefined, after: Row | undefined, totals: Totals): Generator<string> {
  const last = life.versions.at(-1) as Version;
  if (after === undefined) {
    if (before !== undefined && last.def !== 'deleted') yield 'the row is gone';
    return;
  }
  const from = before?.cv ?? 0;
  if (after.cv < from) yield 'the version went back';
  const brought = life.versions.filter(({ no }) => no > from && no <= after.cv);
  const known = life.versions.findLast(({ no }) => no <= after.cv);
  if (known === undefined || known.no !== after.cv || known.def === 'deleted') {
    yield `version ${after.cv} is none of this trigger’s`;
    return;
  }
  const { def } = known;
  if (!sameJson(def.config, after.config)) yield 'its config is another';
  if (def.connectionId !== after.connectionId) yield 'its connection is another';
  if (def.version !== after.version) yield 'its version is another';
  if (def.intervalSeconds !== after.intervalSeconds) yield 'its interval is another';
  if (def.enabled !== after.enabled) yield 'it is on where it should be off, or the reverse';
  let cursor = before?.cursor ?? null;
  let primed = before?.primed ?? false;
  for (const { rewinds, primes } of brought) {
    if (rewinds !== undefined) [cursor, primed] = [rewinds, true];
    if (primes) [cursor, primed] = [null, false];
  }
  if (brought.some(({ rewinds }) => rewinds !== undefined)) totals.rewinds += 1;
  if (cursor !== after.cursor) yield `its cursor should be ${cursor}`;
  if (primed !== after.primed) yield primed ? 'it primes again' : 'it was to prime again';
  const lifted = brought.some(({ lifts }) => lifts) && def.enabled;
  if (lifted && after.halt !== null) yield 'its halt was to be lifted';
  if (before?.halt !== undefined && before.halt !== null) {
    if (lifted) totals.lifted += 1;
    // A new config or connection lifts too, also one that was taken back before it was read; anything else must not.
    if (after.halt === null && !brought.some(({ lifts }) => lifts) && !changesWhatLifts(life, from, after.cv))
      yield 'its halt was lifted by a change that does not';
    if (after.halt !== null && after.halt !== before.halt) yield 'its halt is another';
  } else if (after.halt !== null) yield 'the feed halted it';
}

function* afterCommit(
  life: Life,
  before: Row | undefined,
  after: Row | undefined,
  claimedAt: number | undefined,
  totals: Totals,
): Generator<string> {
  if (before === undefined || after === undefined) {
    if (before !== after) yield 'a commit made or removed a row';
    return;
  }
  if (before.cv !== after.cv) yield 'a commit changed the version';
  if (before.primed && !after.primed) yield 'it primes again';
  if (claimedAt !== undefined && fences(life, claimedAt, before.cv)) {
    totals.fenced += 1;
    if (before.cursor !== after.cursor || before.primed !== after.primed || before.halt !== after.halt)
      yield 'a commit was taken over the fence';
    return;
  }
  if (before.cursor !== null && Number(after.cursor) < Number(before.cursor)) yield 'its cursor went back';
  if (before.halt === null && after.halt !== null) totals.halts += 1;
  if (before.halt !== null && after.halt === null && !before.halt.startsWith('auth.')) yield 'a commit lifted its halt';
  if (!before.enabled && JSON.stringify(before) !== JSON.stringify(after)) yield 'a commit changed a disabled row';
}

/** What the control plane shows against what the engine does. */
async function compare(
  registry: Registry,
  actor: Actor,
  all: ReadonlyMap<string, Life>,
  rows: Rows,
): Promise<string[]> {
  const problems: string[] = [];
  const views = new Map((await registry.triggers.list(actor.tenantId, { limit: 1000 })).map((view) => [view.id, view]));
  for (const life of all.values()) {
    const view = views.get(life.id);
    const row = rows.get(life.id);
    const of = (problem: string): void => {
      problems.push(
        `${life.id}: ${problem}; shown ${JSON.stringify(view?.status)} at ${view?.configVersion}, engine ${JSON.stringify(row)}; ${life.done.slice(-8).join(', ')}`,
      );
    };
    if ((view === undefined) !== (row === undefined)) of('one side has it, the other does not');
    if (view === undefined || row === undefined) continue;
    if (view.configVersion !== row.cv) of(`the engine is at version ${row.cv}`);
    const state = !row.enabled ? 'disabled' : row.halt === null ? 'active' : 'halted';
    if (view.status.state !== state) of(`the engine has it ${state}`);
    else if (state === 'halted' && view.status.code !== row.halt) of('the codes differ');
  }
  return problems;
}

/** Removes a world that is over, on both sides. */
async function forget(db: WorkerDb, registry: Registry, actor: Actor, all: ReadonlyMap<string, Life>): Promise<void> {
  const left = [...all.values()].filter(({ versions }) => versions.at(-1)?.def !== 'deleted');
  for (const { id } of left) await registry.triggers.remove(actor, id);
  await db.sql.unsafe(
    'delete from polling_triggers; delete from polling_trigger_runs; delete from polling_trigger_states; delete from source_limits; delete from source_health; delete from lifecycle_outbox; delete from batches; delete from batch_fences',
  );
}
