/**
 * Triggers are moved between the legacy pipeline and v2, both ways, a few at a time, while workers of both are killed with
 * kill -9 and started again, on a real PostgreSQL and a real Temporal server. Each has a provider with a new item every few
 * seconds.
 *
 * Both databases write down each commit with the ownership epoch it was made under, by triggers of PostgreSQL on one server, so
 * by one clock; a sampler reads both ownership records. The poll function writes down each call. What must hold: no commit
 * under an epoch that has passed, no epoch with commits of two pipelines, no moment at which both own the same epoch; no due
 * time without a poll within interval + grace; and of each item exactly one event, under the id that follows from trigger and
 * key, whichever pipeline found it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startApi } from '@milkrun/api';
import { eventIdOf, noLog, Secret, systemClock, systemRng, uuidv7 } from '@milkrun/core';
import { createMigrations, type Migrations } from '@milkrun/migration';
import { startInvokeServer } from '@milkrun/poll-runner';
import { openRegistry } from '@milkrun/registrydb';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase, startPostgres, startTemporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import postgres, { type Sql } from 'postgres';
import { until } from './lib/dev-run.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const MAIN = fileURLToPath(new URL('../apps/cli/src/main.ts', import.meta.url));
const KEY = 'a-key-for-this-drill-only';
const MASTER_KEY = Buffer.alloc(32, 7);
const TENANT = 'default';
const DEADLINE_S = 2;
/** The old side's longest call (deadline, what the function may take beyond it, the next look) + 60 s. */
const GRACE_S = DEADLINE_S + 5 + 5 + 60;
const ITEM_EVERY_S = 10;
/** Items a listing shows: longer than anything a trigger is allowed to wait. */
const LISTED = 60;
/** Groups under way at once; each is half of what a migration begins a second, so it is moved in two chunks. */
const MOVES_AT_ONCE = 6;
const TRIGGERS_A_MOVE = { least: 6, most: 50 };
const WAIT_MS = 3_600_000;

export const drill: Drill = {
  name: 'migration',
  about:
    'Moving triggers between the pipelines, workers killed at random: one committer always, nothing missed, nothing twice.',
  defaults: { count: 20 },
  fullCount: 1000,
  flags: {
    triggers: 'how many there are; 10 for each toggle when absent',
    interval: 'seconds between polls; by the number of triggers when absent',
    workers: 'worker processes; default 2',
  },
  run,
};

interface Fleet {
  readonly ids: readonly string[];
  readonly intervalS: number;
}

async function run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
  const random = randomFrom(seed);
  const triggers = integerFrom('triggers', flags.triggers, count * 10, 2);
  // Legacy, which polls one half, is what limits: some 40 polls a second of it leave room for everything else on two cores.
  const intervalS = integerFrom('interval', flags.interval, Math.max(15, Math.ceil(triggers / 2 / 40)), 1);
  const workers = integerFrom('workers', flags.workers, 2, 1);
  const home = await mkdtemp(join(tmpdir(), 'milkrun-migration-'));
  const undo: (() => Promise<unknown>)[] = [() => rm(home, { recursive: true, force: true })];
  try {
    const server = await startPostgres();
    undo.push(() => server.stop());
    const temporal = await startTemporal({ own: true });
    undo.push(() => temporal.stop());
    const [registryUrl, workerUrl] = [await createDatabase(server.url), await createDatabase(server.url)];
    const config = {
      ...{ apiHost: '127.0.0.1', apiPort: 0, registrydbUrl: new Secret(registryUrl) },
      ...{ registryKey: new Secret(MASTER_KEY.toString('base64')), controlPlaneKey: new Secret(KEY) },
    };
    const metrics = createMetrics({ prometheus: true });
    const api = await startApi({ config, log: noLog, metrics, clock: systemClock });
    undo.push(() => api.close());
    const calls = new Map<string, number[]>();
    const bornAt = Date.now();
    const functions = await startInvokeServer({
      timeoutMs: (DEADLINE_S + 5) * 1000,
      handler: async (event) => {
        const { trigger } = event as { trigger: { id: string } };
        calls.get(trigger.id)?.push(Date.now());
        const newest = slotAt(bornAt, Date.now());
        const slots = Array.from({ length: Math.min(LISTED, newest + 1) }, (_, i) => newest - i).reverse();
        return { events: slots.map((slot) => ({ key: keyOf(slot), data: { slot } })), cursor: { newest } };
      },
    });
    undo.push(() => functions.close());
    const env = {
      ...{ WORKERDB_URL: workerUrl, REGISTRYDB_URL: registryUrl, CONTROL_PLANE_URL: api.url, CONTROL_PLANE_KEY: KEY },
      ...{
        POLL_FUNCTION_ENDPOINT: functions.endpoint,
        OBJECT_STORE: `fs:${join(home, 'objects')}`,
        MILKRUN_HOME: home,
      },
      ...{
        TEMPORAL_ADDRESS: temporal.address,
        ENGINE_PORT: '0',
        METRICS_PORT: '0',
        DISPATCH_TICK: '1s',
        LEASE_TTL: '15s',
      },
      ...{
        POLL_DEADLINE: `${DEADLINE_S}s`,
        PIPELINES: 'both',
        LOG_LEVEL: 'warn',
        BLOB_KEY: MASTER_KEY.toString('base64'),
      },
    };
    const fleet = await createFleet({ registryUrl, triggers, intervalS, log });
    for (const id of fleet.ids) calls.set(id, []);
    const crew = createCrew(env, workers);
    undo.push(() => crew.stop());
    await crew.start();
    const [registrydb, workerdb] = [registryUrl, workerUrl].map((url) =>
      postgres(url, { max: 3, onnotice: () => {} }),
    ) as [Sql, Sql];
    undo.push(
      () => registrydb.end(),
      () => workerdb.end(),
    );
    await until('every trigger to have been polled', WAIT_MS, async () =>
      [...calls.values()].every((at) => at.length > 0),
    );
    await writeCommitsDown(registrydb, workerdb);
    log(`${triggers} triggers every ${intervalS} s are polled by both pipelines, ${workers} workers`);

    const connection = await Connection.connect({ address: temporal.address });
    undo.push(() => connection.close());
    const client = new Client({ connection });
    const migrations = createMigrations({ client, makeId: () => uuidv7(systemClock, systemRng) });
    const done = new AbortController();
    const sampling = sampleOwners(registrydb, workerdb, done.signal);
    const killing = crew.killAtRandom(random, done.signal, log);
    const moved = await moveAtRandom({ migrations, fleet, count, random, workerdb, log });
    done.abort();
    const [samples, kills] = await Promise.all([sampling, killing]);
    log(`${moved} toggles are done, ${kills} workers were killed`);
    await until('every hand-off to have ended', WAIT_MS, async () => (await underWay(registrydb, workerdb)) === 0);
    // One more poll of each that is committed: what was found meanwhile is delivered, and who polls is settled.
    const settledAt = Date.now();
    log('every hand-off has ended');
    await until('a poll of every trigger and its commit', WAIT_MS, async () => {
      if (![...calls.values()].every((at) => (at.at(-1) ?? 0) > settledAt)) return false;
      const last = new Map((await commitsOf(registrydb, workerdb)).map(({ triggerId, at }) => [triggerId, at * 1000]));
      return [...calls].every(([id, at]) => (last.get(id) ?? 0) > (at.find((time) => time > settledAt) ?? Infinity));
    });
    const commits = judgeCommits(await commitsOf(registrydb, workerdb));
    const gaps = judgeGaps(calls, fleet, Date.now(), GRACE_S);
    const events = await judgeEvents(registrydb, fleet, bornAt, settledAt);
    log(`${moved} toggles, ${kills} kills, ${commits.commits} commits, ${events.stored} events`);
    const violations =
      samples.both +
      commits.late +
      commits.shared +
      gaps.missed +
      events.strange +
      events.missing +
      Math.max(0, count - moved);
    return {
      tried: moved,
      violations,
      faults: kills,
      ...{ triggers, intervalSeconds: intervalS, graceSeconds: GRACE_S, toggles: moved, workersKilled: kills },
      ...{
        samples: samples.taken,
        momentsWithTwoCommitters: samples.both + commits.late + commits.shared,
        commits: commits.commits,
      },
      ...{ dueTimesMissed: gaps.missed, worstGapSeconds: gaps.worst, events: events.stored },
      ...{ eventsUnderAnotherId: events.strange, eventsMissing: events.missing },
      ...{ eventsOfLegacy: events.legacy, eventsOfV2: events.v2, triggersToldByBoth: events.both },
    };
  } finally {
    for (const step of undo.reverse()) await step();
  }
}

const slotAt = (bornAt: number, at: number): number => Math.floor((at - bornAt) / (ITEM_EVERY_S * 1000));
const keyOf = (slot: number): string => `item-${slot}`;

/** Half of them start under each pipeline. */
async function createFleet(input: {
  readonly registryUrl: string;
  readonly triggers: number;
  readonly intervalS: number;
  readonly log: (text: string) => void;
}): Promise<Fleet> {
  const ids: string[] = [];
  for (const pipeline of ['v2', 'legacy'] as const) {
    const registry = await openRegistry({
      ...{ url: input.registryUrl, masterKey: MASTER_KEY, clock: systemClock, rng: systemRng, pipeline },
    });
    const actor = { tenantId: TENANT, name: 'drill' };
    const { id: connectionId } = await registry.connections.create(actor, {
      ...{ toolkit: 'synthetic', name: pipeline, credentials: { type: 'none' } },
    });
    const wanted = Math.ceil((input.triggers - ids.length) / (pipeline === 'v2' ? 2 : 1));
    for (let made = 0; made < wanted; made += 1_000) {
      const rows = await registry.triggers.upsertMany(
        actor,
        Array.from({ length: Math.min(1_000, wanted - made) }, () => ({
          ...{
            tags: [],
            toolkit: 'synthetic',
            slug: 'synthetic',
            version: '1',
            config: '{}',
            connectionId,
            enabled: true,
          },
          ...{ intervalSeconds: input.intervalS, poll: { dedupe: 'unique', repeatable: true } as const },
        })),
      );
      ids.push(...rows.map(({ id }) => id));
    }
    await registry.close();
  }
  return { ids, intervalS: input.intervalS };
}

/** Worker processes of both pipelines. */
function createCrew(env: Readonly<Record<string, string>>, size: number) {
  const crew: (ChildProcess | undefined)[] = Array.from({ length: size });
  let stopping = false;
  const inherited = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => /^(PATH|HOME|TMPDIR|LANG|TEMPORAL_CLI_PATH)$/.test(name)),
  );
  async function hire(at: number): Promise<void> {
    if (stopping) return;
    const child = spawn(process.execPath, [MAIN, 'worker'], {
      env: { ...inherited, TEMPORAL_CONFIG_FILE: '', ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    crew[at] = child;
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-4_000);
      });
    }
    // It says so once its queues are served.
    const ready = await Promise.race([once(child, 'message').then(() => true), once(child, 'exit').then(() => false)]);
    if (!ready && !stopping && child.signalCode !== 'SIGKILL') throw new Error(`a worker ended by itself:\n${said}`);
  }
  const kill = async (child: ChildProcess): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  };
  return {
    start: async () => void (await Promise.all(crew.map((_, at) => hire(at)))),
    /** One after the other, each soon after the last is back. */
    async killAtRandom(random: () => number, ended: AbortSignal, log: (text: string) => void): Promise<number> {
      let kills = 0;
      while (!ended.aborted) {
        await systemClock.sleep(1_000 + random() * 5_000, ended).catch(() => undefined);
        if (ended.aborted) break;
        const at = Math.floor(random() * size);
        await kill(crew[at] as ChildProcess);
        kills += 1;
        if (kills % 10 === 0) log(`${kills} workers killed`);
        await hire(at);
      }
      return kills;
    },
    async stop(): Promise<void> {
      stopping = true;
      await Promise.all(crew.map((child) => (child === undefined ? undefined : kill(child))));
    },
  };
}

/** Moves a few triggers at a time, now this way and now that, until enough toggles are done. */
async function moveAtRandom(input: {
  readonly migrations: Migrations;
  readonly fleet: Fleet;
  readonly count: number;
  readonly random: () => number;
  readonly workerdb: Sql;
  readonly log: (text: string) => void;
}): Promise<number> {
  const { migrations, fleet, count, random, workerdb, log } = input;
  const size = Math.min(TRIGGERS_A_MOVE.most, Math.max(TRIGGERS_A_MOVE.least, Math.ceil(count / 20)));
  let moved = 0;
  let underWay = 0;
  async function moveSome(): Promise<void> {
    const direction = random() < 0.5 ? ('to_v2' as const) : ('to_legacy' as const);
    const wanted = Math.min(size, count - moved - underWay);
    // Reserved before the first wait, or every mover would take the same rest.
    underWay += wanted;
    const from = direction === 'to_v2' ? 'l' : 'v';
    const rows = await workerdb.unsafe<{ id: string }[]>(
      `select trigger_id as id from polling_trigger_runs where owner = '${from}' order by md5(trigger_id::text || $1) limit $2`,
      [String(random()), wanted],
    );
    underWay -= wanted - rows.length;
    if (rows.length === 0) return;
    const id = await migrations.start({
      ...{
        direction,
        scope: {},
        triggerIds: rows.map((row) => row.id),
        actor: 'drill',
        perSecond: Math.ceil(size / 2),
      },
    });
    let end = 0;
    await until(`migration ${id}`, WAIT_MS, async () => {
      // While no worker lives nobody answers.
      const status = await migrations.get(id).catch(() => undefined);
      if (status?.state === 'paused') await migrations.resume(id);
      end = status?.moved ?? 0;
      return status?.state === 'done';
    });
    underWay -= rows.length;
    moved += end;
    log(`${moved} of ${count} toggles (${direction}, ${fleet.ids.length} triggers)`);
  }
  const mover = async (): Promise<void> => {
    while (moved + underWay < count) await moveSome();
  };
  while (moved < count) await Promise.all(Array.from({ length: MOVES_AT_ONCE }, mover));
  return moved;
}

/** From here on each commit leaves a row: when, by whom, under which ownership epoch. */
async function writeCommitsDown(registrydb: Sql, workerdb: Sql): Promise<void> {
  const install = (sql: Sql, table: string, condition: string) =>
    sql.unsafe(`
      create table drill_commits (at timestamptz not null, trigger_id uuid not null, epoch integer not null);
      create function drill_commit() returns trigger language plpgsql as $$ begin
        insert into drill_commits values (clock_timestamp(), new.trigger_id, new.ownership_epoch); return null; end $$;
      create trigger drill_commit after update on ${table} for each row when (${condition}) execute function drill_commit();`);
  await install(
    registrydb,
    'legacy_triggers',
    'new.poll_epoch > old.poll_epoch and new.ownership_epoch = old.ownership_epoch',
  );
  await install(workerdb, 'polling_trigger_runs', 'new.last_committed_epoch > old.last_committed_epoch');
}

interface Commit {
  readonly at: number;
  readonly triggerId: string;
  readonly epoch: number;
  readonly by: 'legacy' | 'v2';
}

async function commitsOf(registrydb: Sql, workerdb: Sql): Promise<Commit[]> {
  const read = async (sql: Sql, by: Commit['by']): Promise<Commit[]> => {
    const rows = await sql.unsafe<{ at: number; id: string; epoch: number }[]>(
      'select extract(epoch from at)::float8 as at, trigger_id as id, epoch from drill_commits',
    );
    return rows.map(({ at, id, epoch }) => ({ at, triggerId: id, epoch, by }));
  };
  return (await Promise.all([read(registrydb, 'legacy'), read(workerdb, 'v2')])).flat().sort((a, b) => a.at - b.at);
}

/** `late`: under an epoch older than one already committed under. `shared`: epochs with commits of both. */
export function judgeCommits(all: readonly Commit[]) {
  let late = 0;
  const epochs = new Map<string, number>();
  const owners = new Map<string, Set<string>>();
  for (const { triggerId, epoch, by } of all) {
    const newest = epochs.get(triggerId) ?? 0;
    if (epoch < newest) late += 1;
    epochs.set(triggerId, Math.max(newest, epoch));
    const key = `${triggerId} ${epoch}`;
    owners.set(key, (owners.get(key) ?? new Set()).add(by));
  }
  return { commits: all.length, late, shared: [...owners.values()].filter((by) => by.size > 1).length };
}

/**
 * Both records, one after the other, in both orders. Who is read second may be ahead by a hand-off, never level: the same
 * epoch owned by both at once would be two committers.
 */
async function sampleOwners(
  registrydb: Sql,
  workerdb: Sql,
  ended: AbortSignal,
): Promise<{ taken: number; both: number }> {
  type Owned = { id: string; epoch: number };
  const readLegacy = () =>
    registrydb.unsafe<Owned[]>(
      "select trigger_id as id, ownership_epoch as epoch from legacy_triggers where owner = 'legacy' or (owner = 'to_v2' and not sealed)",
    );
  const readV2 = () =>
    workerdb.unsafe<Owned[]>(
      `select t.trigger_id as id, t.ownership_epoch as epoch from polling_trigger_runs t
       where t.owner = 'v' or (t.owner = 'o' and not exists (select from hand_offs h where h.trigger_id = t.trigger_id and h.sealed_at is not null))`,
    );
  let taken = 0;
  let both = 0;
  while (!ended.aborted) {
    const legacyFirst = taken % 2 === 0;
    const first = new Map((await (legacyFirst ? readLegacy() : readV2())).map(({ id, epoch }) => [id, epoch]));
    for (const { id, epoch } of await (legacyFirst ? readV2() : readLegacy())) {
      const other = first.get(id);
      if (other !== undefined && epoch <= other) both += 1;
    }
    taken += 1;
    await systemClock.sleep(250, ended).catch(() => undefined);
  }
  return { taken, both };
}

async function underWay(registrydb: Sql, workerdb: Sql): Promise<number> {
  const [ofLegacy] = await registrydb.unsafe<{ n: number }[]>(
    "select count(*)::int as n from legacy_triggers where owner in ('to_v2', 'to_legacy')",
  );
  const [ofV2] = await workerdb.unsafe<{ n: number }[]>(
    "select count(*)::int as n from polling_trigger_runs where owner in ('i', 'o')",
  );
  return (ofLegacy?.n ?? 0) + (ofV2?.n ?? 0);
}

/** A poll makes the next one due an interval later; it must come within another interval and the grace. */
export function judgeGaps(
  calls: ReadonlyMap<string, readonly number[]>,
  { intervalS }: Fleet,
  now: number,
  graceS: number,
) {
  const allowed = (2 * intervalS + graceS) * 1000;
  let missed = 0;
  let worst = 0;
  for (const times of calls.values()) {
    const ends = [...times, now].sort((a, b) => a - b);
    for (let at = 1; at < ends.length; at += 1) {
      const gap = (ends[at] as number) - (ends[at - 1] as number);
      worst = Math.max(worst, gap);
      if (gap > allowed) missed += 1;
    }
  }
  return { missed, worst: Number((worst / 1000).toFixed(1)) };
}

/** Stored events against what each provider has had between its trigger's prime and the end. */
async function judgeEvents(registrydb: Sql, { ids }: Fleet, bornAt: number, settledAt: number) {
  const rows = await registrydb.unsafe<{ event_id: string; trigger_id: string; record: string }[]>(
    'select event_id, trigger_id, record from events',
  );
  const stored = new Map<string, Map<string, { slot: number; by: string }>>();
  let strange = 0;
  const counts = { legacy: 0, v2: 0 };
  for (const { event_id: eventId, trigger_id: triggerId, record } of rows) {
    const { data, causationid: cause } = JSON.parse(record) as { data: { slot: number }; causationid: string };
    if (eventId !== eventIdOf(triggerId, keyOf(data.slot))) strange += 1;
    const by = cause.startsWith('legacy:') ? 'legacy' : 'v2';
    counts[by] += 1;
    const own = stored.get(triggerId) ?? new Map();
    stored.set(triggerId, own.set(eventId, { slot: data.slot, by }));
  }
  let missing = 0;
  let both = 0;
  for (const id of ids) {
    const own = [...(stored.get(id)?.values() ?? [])];
    // The first poll primes: it tells nothing. From the first told item on, none may be missing.
    const first = own.reduce((least, { slot }) => Math.min(least, slot), Number.POSITIVE_INFINITY);
    const last = slotAt(bornAt, settledAt);
    const told = new Set(own.map(({ slot }) => slot));
    if (own.length === 0) missing += 1;
    for (let slot = first; slot <= last; slot += 1) if (!told.has(slot)) missing += 1;
    if (new Set(own.map(({ by }) => by)).size === 2) both += 1;
  }
  return { stored: rows.length, strange, missing, both, ...counts };
}
