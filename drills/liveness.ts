/**
 * Faults that leave triggers without anybody to poll them, many at a time on a fleet that is polled all the time: the
 * workflow of a timer shard terminated, deleted, replaced by one that nobody's code can run (a bad deploy) or that waits on
 * a queue nobody serves, due times written without their signal, next polls lost or far ahead, a worker killed, workerdb put
 * back to an old dump, a connection left out of every auth answer.
 *
 * Each timer shard takes the next fault for shards as soon as it has got over its last one; the others come in lanes of
 * their own. A dump is put back when all that has been done to the database before is over, or it would undo that.
 *
 * What is in breach, and for how long, is looked at by a statement of the drill's own; who is told, by what anybody can
 * see: the answers of `GET /doctor`, asked all the time, and the log line of each check. A fault counts as reported when one
 * of the two names what it hit; one that was over before anything came into breach is counted by itself.
 *
 * Scaled: the loop's period (LIVENESS_EVERY) is `--period` seconds instead of 60, the tick 2 s instead of 10. Next polls fall
 * due in lumps of 10 s, so that a shard that is well ticks at least that often and an idle one is not called quiet.
 */
import { QUEUES, systemClock, WORKFLOWS } from '@milkrun/core';
import postgres, { type Sql } from 'postgres';
import { insertFleet, type Rig, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const TICK_S = 2;
const LUMP_S = 10;
const CONNECTIONS = 100;
const LOOK_MS = 500;
const TRIGGERS_A_FAULT = 5;
const TRIGGER_LANES = { least: 6, most: 24 };

/** How often each kind comes, in a thousand. */
const KINDS = {
  terminated: 300,
  deleted: 200,
  lost_arm: 200,
  no_next_poll: 100,
  too_far_ahead: 80,
  bad_deploy: 50,
  unserved_queue: 40,
  auth_dropped: 15,
  worker_killed: 10,
  old_dump: 5,
} as const;
type Kind = keyof typeof KINDS;
const OF_SHARDS: readonly Kind[] = ['terminated', 'deleted', 'bad_deploy', 'unserved_queue'];
const OF_TRIGGERS: readonly Kind[] = ['lost_arm', 'no_next_poll', 'too_far_ahead'];

interface Violation {
  readonly kind: string;
  readonly triggerId?: string;
  readonly timerShard?: number;
}

interface Report {
  readonly polled: number;
  readonly violations: readonly Violation[];
  readonly staleTriggers: readonly Violation[];
}

export const drill: Drill = {
  name: 'liveness',
  about: 'Whatever leaves a trigger without anybody to poll it is repaired, or named, within two checks.',
  defaults: { count: 30 },
  fullCount: 1000,
  flags: {
    triggers: '10 for each fault and at least 2000 when absent',
    period: 'seconds between two checks; default 10',
    shards: 'timer shards; by the number of faults when absent, 32 at the most',
    workers: 'worker processes; default 2',
  },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const triggers = integerFrom('triggers', flags.triggers, Math.max(2000, count * 10), 100);
    const period = integerFrom('period', flags.period, 10, 2);
    const shards = integerFrom('shards', flags.shards, Math.min(32, Math.max(4, Math.ceil(count / 20))), 1);
    const workers = integerFrom('workers', flags.workers, 2, 1);
    const intervalS = Math.max(2, Math.ceil(triggers / 250 / LUMP_S)) * LUMP_S;
    const random = randomFrom(seed);
    const judge = verdicts(log);
    const rig = await startRig({
      workers: 0,
      timerShards: shards,
      settings: { DISPATCH_TICK: `${TICK_S}s`, LIVENESS_EVERY: `${period}s`, LEASE_TTL: '15s', LOG_LEVEL: 'warn' },
      log,
      fill: async (sql) => {
        await insertFleet(sql, [
          { count: triggers, toolkit: 'source', tenants: 1, connections: CONNECTIONS, intervalSeconds: intervalS },
        ]);
        await sql.unsafe(`update polling_trigger_runs set phase_s = phase_s - phase_s % ${LUMP_S}`);
        await sql.unsafe(
          'update polling_trigger_runs set next_poll_at = next_slot(statement_timestamp(), interval_s, phase_s)',
        );
      },
    });
    const dump = `${new URL(rig.databaseUrl).pathname.slice(1)}_dump`;
    const looker = new Looker(rig, period);
    const reports = new Reports(rig);
    try {
      for (let n = 0; n < workers; n += 1) await rig.startWorker();
      await watch(
        'the fleet to be polled',
        { everyMs: 500, withinMs: 180_000 },
        async () => await countOf(rig.sql, 'last_polled_at is null'),
        (n) => n === 0,
      );
      log(`${triggers} triggers of ${shards} timer shards are polled every ${intervalS} s`);
      await copyDatabase(rig, dump);
      const looking = [looker.run(), reports.run()];
      const faults = drawAll(count, random);
      const town = new Town({ rig, looker, reports, random, dump, period, intervalS, shards, log });
      await town.fireAll(faults);
      looker.stop();
      reports.stop();
      await Promise.all(looking);
      for (const what of town.unreported) judge.missed(what);
      for (const [id, seconds] of looker.worst)
        judge.missed(`${id} was in breach for ${seconds.toFixed(1)} s, two periods are ${2 * period} s`);
      const unnamed = [...looker.lasting].filter((id) => !reports.names.has(id));
      if (unnamed.length > 0)
        judge.missed(
          `${unnamed.length} triggers in breach for over a period were never named, ${unnamed[0]} among them`,
        );
      const { polled } = await rig.engine<Report>('/doctor');
      if (polled !== triggers) judge.missed(`${polled} of ${triggers} triggers are polled at the end`);
      return {
        tried: looker.looks,
        violations: judge.count,
        faults: faults.length,
        triggers,
        timerShards: shards,
        periodSeconds: period,
        ...{ reported: town.reported, overBeforeBreach: town.overBeforeBreach, byKind: tally(faults) },
        ...{ secondsToMendMax: town.slowest(), breachSecondsMax: Number(looker.longest.toFixed(1)) },
        ...{ triggersInBreach: looker.breached.size, triggersInBreachTooLong: looker.worst.size },
        ...{ atOnceMax: town.atOnceMax, doctorAsked: reports.asked, checksThatFound: reports.checks },
      };
    } finally {
      looker.stop();
      reports.stop();
      await rig.stop();
    }
  },
};

/** Each kind at its share, each at least once where there are enough; in an order drawn by the seed. */
function drawAll(count: number, random: () => number): Kind[] {
  const kinds = Object.keys(KINDS) as Kind[];
  const drawn = kinds.slice(0, count);
  const shares = kinds.flatMap((kind) =>
    Array.from({ length: Math.round((KINDS[kind] * count) / 1000) - 1 }, () => kind),
  );
  for (const kind of shuffled(shares, random)) if (drawn.length < count) drawn.push(kind);
  while (drawn.length < count) drawn.push('terminated');
  return shuffled(drawn, random);
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

function tally(kinds: readonly Kind[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const kind of kinds) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}

async function countOf(sql: Sql, condition: string): Promise<number> {
  const [row] = await sql.unsafe<{ n: number }[]>(
    `select count(*)::int as n from polling_trigger_runs where ${condition}`,
  );
  return row?.n ?? 0;
}

/** Something that is done again and again until it is stopped. */
abstract class Watcher {
  private stopped = false;
  protected readonly rig: Rig;

  constructor(rig: Rig) {
    this.rig = rig;
  }

  protected abstract look(): Promise<void>;

  stop(): void {
    this.stopped = true;
  }

  async run(): Promise<void> {
    while (!this.stopped) {
      await this.look();
      await systemClock.sleep(LOOK_MS);
    }
  }
}

/** Looks at the invariant by a statement of its own, and adds up how long each trigger is in breach. */
class Looker extends Watcher {
  looks = 0;
  longest = 0;
  /** Trigger → when it was last seen in breach, milliseconds of `performance.now()`. */
  readonly breached = new Map<string, number>();
  /** Triggers in breach for over a period. */
  readonly lasting = new Set<string>();
  /** Triggers in breach for longer than allowed, the longest time of each. */
  readonly worst = new Map<string, number>();
  private readonly since = new Map<string, number>();
  private readonly period: number;

  constructor(rig: Rig, period: number) {
    super(rig);
    this.period = period;
  }

  /** A clock that went back with the database: what was in breach is counted anew. */
  reset(): void {
    this.since.clear();
  }

  /** Those of them, or of all, that have been in breach since then. */
  breachedSince(at: number, ids: Iterable<string> = this.breached.keys()): string[] {
    return [...ids].filter((id) => (this.breached.get(id) ?? Number.NEGATIVE_INFINITY) >= at);
  }

  protected async look(): Promise<void> {
    // While the database is being put back there is nothing to look at. A hold that is recorded is listed, not counted.
    const rows = await this.rig.sql<{ id: string }[]>`
      with live as (select batch_no from batches where ended_at is null and expires_at > statement_timestamp()),
      waits as (select unnest(serves) as shard from timer_shards where backoff_until > statement_timestamp())
      select trigger_id as id from polling_trigger_runs t
      where enabled and owner = 'v' and halted_code is null and (next_poll_at is null
        or next_poll_at > statement_timestamp() + greatest(interval_s, 86400) * interval '1 s' + interval '1 min'
        or (next_poll_at < statement_timestamp() - ${TICK_S + this.period} * interval '1 s'
          and not exists (select from live where batch_no = t.lease_owner)
          and not exists (select from waits where waits.shard = t.shard)))`.catch(() => undefined);
    if (rows === undefined) return;
    const now = performance.now();
    this.looks += 1;
    const present = new Set(rows.map(({ id }) => id));
    for (const id of this.since.keys()) if (!present.has(id)) this.since.delete(id);
    for (const id of present) {
      this.breached.set(id, now);
      const seconds = (now - (this.since.get(id) ?? now)) / 1000;
      if (!this.since.has(id)) this.since.set(id, now);
      this.longest = Math.max(this.longest, seconds);
      // A look is late by itself: its own distance is no breach.
      const slack = (2 * LOOK_MS) / 1000;
      if (seconds > this.period + slack) this.lasting.add(id);
      if (seconds > 2 * this.period + slack) this.worst.set(id, Math.max(seconds, this.worst.get(id) ?? 0));
    }
  }
}

/** What an operator is told: each name, with when it was last said. */
class Reports extends Watcher {
  asked = 0;
  checks = 0;
  /** Trigger id, `stale` and trigger id, `shard` and its number, or the kind of a check's count → milliseconds of `performance.now()`. */
  readonly names = new Map<string, number>();

  constructor(rig: Rig) {
    super(rig);
    rig.onLine((line) => this.read(line));
  }

  said(name: string, since: number): boolean {
    return (this.names.get(name) ?? Number.NEGATIVE_INFINITY) >= since;
  }

  protected async look(): Promise<void> {
    const report = await this.rig.engine<Report>('/doctor').catch(() => undefined);
    if (report === undefined) return;
    this.asked += 1;
    this.note(report.violations);
    for (const { triggerId } of report.staleTriggers) this.say(`stale ${triggerId}`);
  }

  private note(violations: readonly Violation[]): void {
    for (const { kind, triggerId, timerShard } of violations) {
      if (triggerId !== undefined) this.say(triggerId);
      else if (kind.startsWith('shard_')) this.say(`shard ${timerShard}`);
    }
  }

  private say(name: string): void {
    this.names.set(name, performance.now());
  }

  private read(line: string): void {
    if (!line.includes('liveness.repaired')) return;
    const said = JSON.parse(line) as {
      first: Violation[];
      open: Record<string, number>;
      signalled: number[];
      replaced: number[];
    };
    this.checks += 1;
    this.note(said.first);
    for (const [kind, n] of Object.entries(said.open)) if (n > 0) this.say(`kind ${kind}`);
    for (const shard of said.replaced) this.say(`shard ${shard}`);
  }
}

interface TownDeps {
  readonly rig: Rig;
  readonly looker: Looker;
  readonly reports: Reports;
  readonly random: () => number;
  readonly dump: string;
  readonly period: number;
  readonly intervalS: number;
  readonly shards: number;
  readonly log: DrillInput['log'];
}

/** Fires faults, waits until each is over, and notes whether it was reported. */
class Town {
  reported = 0;
  overBeforeBreach = 0;
  atOnceMax = 0;
  readonly unreported: string[] = [];
  private readonly seconds = new Map<Kind, number>();
  private readonly busy = new Set<string>();
  private atOnce = 0;
  private done = 0;
  private total = 0;
  private readonly deps: TownDeps;

  constructor(deps: TownDeps) {
    this.deps = deps;
  }

  /** Longest time from a fault to its end, by kind, seconds. */
  slowest(): Record<string, number> {
    return Object.fromEntries([...this.seconds].map(([kind, seconds]) => [kind, Number(seconds.toFixed(1))]));
  }

  async fireAll(faults: readonly Kind[]): Promise<void> {
    this.total = faults.length;
    const dumps = faults.filter((kind) => kind === 'old_dump').length;
    const rest = faults.filter((kind) => kind !== 'old_dump');
    // What takes three intervals to be named comes in the first part, all of it at once.
    const slow = rest.filter((kind) => kind === 'auth_dropped');
    const quick = rest.filter((kind) => kind !== 'auth_dropped');
    for (let part = 0; part <= dumps; part += 1) {
      const share = quick.slice(
        Math.round((part * quick.length) / (dumps + 1)),
        Math.round(((part + 1) * quick.length) / (dumps + 1)),
      );
      await this.firePart([...share, ...(part === 0 ? slow : [])]);
      if (part < dumps) await this.fire('old_dump', () => this.putBack());
    }
  }

  private async firePart(faults: readonly Kind[]): Promise<void> {
    const of = (kinds: readonly Kind[]): Kind[] => faults.filter((kind) => kinds.includes(kind));
    const lane = async (queue: Kind[], fire: (kind: Kind) => Promise<unknown>): Promise<void> => {
      for (let kind = queue.shift(); kind !== undefined; kind = queue.shift()) await fire(kind);
    };
    const [ofShards, ofTriggers] = [of(OF_SHARDS), of(OF_TRIGGERS)];
    const kills = of(['worker_killed']);
    const connections = shuffled(
      Array.from({ length: CONNECTIONS }, (_, n) => `source-${n}`),
      this.deps.random,
    );
    const dropped = new Set<string>();
    this.deps.rig.upstream.knows = ({ connectionId }) => !dropped.has(connectionId);
    await Promise.all([
      ...Array.from({ length: this.deps.shards }, (_, shard) =>
        lane(ofShards, (kind) => this.fire(kind, () => this.hitShard(kind, shard))),
      ),
      ...Array.from({ length: this.triggerLanes() }, () =>
        lane(ofTriggers, (kind) => this.fire(kind, () => this.hitTriggers(kind))),
      ),
      ...of(['auth_dropped']).map((kind, n) => this.fire(kind, () => this.drop(connections[n] as string, dropped))),
      lane(kills, (kind) => this.fire(kind, () => this.killWorker())),
    ]);
  }

  /** `hit` resolves when the fault is over, to the names it may have been reported under beside those of its triggers. */
  private async fire(
    kind: Kind,
    hit: () => Promise<{
      readonly names: readonly string[];
      readonly ids?: readonly string[];
      readonly isBreach?: boolean;
    }>,
  ): Promise<void> {
    const { reports, looker, log } = this.deps;
    const at = performance.now();
    this.atOnce += 1;
    this.atOnceMax = Math.max(this.atOnceMax, this.atOnce);
    const { names, ids, isBreach = false } = await hit();
    this.atOnce -= 1;
    this.done += 1;
    const seconds = (performance.now() - at) / 1000;
    this.seconds.set(kind, Math.max(seconds, this.seconds.get(kind) ?? 0));
    const breached = looker.breachedSince(at, ids);
    const all = [...names, ...breached];
    if (all.some((name) => reports.said(name, at))) this.reported += 1;
    else if (!isBreach && breached.length === 0) this.overBeforeBreach += 1;
    else this.unreported.push(`${kind} was not reported, under none of ${all.slice(0, 3).join(', ')}`);
    if (this.done % 20 === 0 || this.total <= 40)
      log(`${this.done} of ${this.total}: ${kind} is over after ${seconds.toFixed(1)} s`);
  }

  private async hitShard(kind: Kind, shard: number) {
    const { client, sql } = this.deps.rig;
    const workflowId = `timer-shard:${shard}`;
    const handle = client.workflow.getHandle(workflowId);
    // Gone already, when nobody has started it anew since its last fault.
    await handle.terminate('a drill').catch(() => undefined);
    if (kind === 'deleted')
      await client.workflowService.deleteWorkflowExecution({ namespace: 'default', workflowExecution: { workflowId } });
    if (kind === 'bad_deploy' || kind === 'unserved_queue') {
      const [type, taskQueue] =
        kind === 'bad_deploy'
          ? ['TimerShardOfABadDeploy', QUEUES.timerShard]
          : [WORKFLOWS.timerShard, 'nobody-serves-it'];
      // The loop may have started it anew already.
      await client.workflow
        .start(type, { workflowId, taskQueue, args: [{ timerShard: shard }], workflowIdReusePolicy: 'ALLOW_DUPLICATE' })
        .catch(() => undefined);
    }
    const since = await timeOf(sql);
    await watch(
      `timer shard ${shard} to be a sound one again after ${kind}`,
      { everyMs: 500, withinMs: this.patienceMs() },
      async () => await handle.describe().catch(() => undefined),
      (seen) =>
        seen?.status.name === 'RUNNING' && seen.type === WORKFLOWS.timerShard && seen.taskQueue === QUEUES.timerShard,
    );
    await this.ticked([shard], since);
    const ids = (
      await sql<
        { id: string }[]
      >`select trigger_id as id from polling_trigger_runs where shard % ${this.deps.shards} = ${shard}`
    ).map(({ id }) => id);
    return { names: [`shard ${shard}`], ids };
  }

  private async hitTriggers(kind: Kind) {
    const { sql } = this.deps.rig;
    const ids = await this.someIds();
    if (kind === 'lost_arm') {
      await sql`update polling_trigger_runs set next_poll_at = statement_timestamp() where trigger_id = any (${ids}::uuid[])`;
    } else {
      const at = kind === 'no_next_poll' ? sql`null::timestamptz` : sql`statement_timestamp() + interval '3 days'`;
      await watch(
        'triggers without a lease',
        { everyMs: 100, withinMs: this.patienceMs() },
        async () =>
          (
            await sql`update polling_trigger_runs set next_poll_at = ${at} where trigger_id = any (${ids}::uuid[])
              and not exists (select from batches b where b.batch_no = lease_owner and b.ended_at is null) returning 1`
          ).length,
        (n) => n > 0,
      );
    }
    await this.polled(ids);
    for (const id of ids) this.busy.delete(id);
    return { names: kind === 'lost_arm' ? ids : [...ids, `kind ${kind}`], ids, isBreach: kind !== 'lost_arm' };
  }

  /** Nothing can repair what the control plane leaves out: it has to be named, once it is stale by its own interval. */
  private async drop(connection: string, dropped: Set<string>) {
    const { rig, reports, intervalS } = this.deps;
    const at = performance.now();
    dropped.add(connection);
    const ids = (
      await rig.sql<{ id: string }[]>`select trigger_id as id from polling_triggers where connection_id = ${connection}`
    ).map(({ id }) => id);
    await watch(
      `the triggers of ${connection} to be named`,
      { everyMs: 1000, withinMs: 5 * intervalS * 1000 + this.patienceMs() },
      async () => ids.filter((id) => !reports.said(`stale ${id}`, at)).length,
      (n) => n === 0,
    );
    dropped.delete(connection);
    await rig.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() where trigger_id = any (${ids}::uuid[])`;
    await this.polled(ids);
    return { names: ids.map((id) => `stale ${id}`), ids, isBreach: true };
  }

  private async killWorker() {
    const { rig, random, shards } = this.deps;
    const live = rig.workers.filter(({ pid }) => alive(pid));
    const since = await timeOf(rig.sql);
    await live[Math.floor(random() * live.length)]?.kill();
    await rig.startWorker();
    const all = Array.from({ length: shards }, (_, shard) => shard);
    await this.ticked(all, since);
    return { names: all.map((shard) => `shard ${shard}`) };
  }

  private async putBack() {
    const { rig, looker, shards } = this.deps;
    await putBack(rig, this.deps.dump);
    looker.reset();
    const since = await timeOf(rig.sql);
    await this.ticked(
      Array.from({ length: shards }, (_, shard) => shard),
      since,
    );
    const ids = (await rig.sql<{ id: string }[]>`select trigger_id as id from polling_trigger_runs`).map(
      ({ id }) => id,
    );
    await this.polled(ids, since);
    return { names: [] };
  }

  private triggerLanes(): number {
    return Math.min(TRIGGER_LANES.most, Math.max(TRIGGER_LANES.least, Math.ceil(this.total / 40)));
  }

  private patienceMs(): number {
    return (4 * this.deps.period + 120) * 1000;
  }

  private async ticked(shards: readonly number[], since: Date): Promise<void> {
    await watch(
      `timer shards ${shards.join(', ')} to tick`,
      { everyMs: 500, withinMs: this.patienceMs() },
      async () =>
        (
          await this.deps.rig.sql<
            { n: number }[]
          >`select count(*)::int as n from timer_shards where timer_shard = any (${shards as number[]}) and ticked_at > ${since}`.catch(
            () => [],
          )
        )[0]?.n ?? 0,
      (n) => n === shards.length,
    );
  }

  private async polled(ids: readonly string[], from?: Date): Promise<void> {
    const since = from ?? (await timeOf(this.deps.rig.sql));
    await watch(
      'the triggers to be polled',
      { everyMs: 500, withinMs: this.deps.intervalS * 1000 + this.patienceMs() },
      async () =>
        (
          await this.deps.rig.sql<
            { n: number }[]
          >`select count(*)::int as n from polling_trigger_runs where trigger_id = any (${ids as string[]}::uuid[]) and last_polled_at > ${since}`
        )[0]?.n ?? 0,
      (n) => n === ids.length,
    );
  }

  /** Some that no other fault is about. */
  private async someIds(): Promise<string[]> {
    const rows = await this.deps.rig.sql<
      { id: string }[]
    >`select trigger_id as id from polling_trigger_runs order by md5(trigger_id::text || ${String(this.deps.random())}) limit ${TRIGGERS_A_FAULT * (TRIGGER_LANES.most + 1)}`;
    const ids = rows
      .map(({ id }) => id)
      .filter((id) => !this.busy.has(id))
      .slice(0, TRIGGERS_A_FAULT);
    for (const id of ids) this.busy.add(id);
    return ids;
  }
}

async function timeOf(sql: Sql): Promise<Date> {
  const [row] = await sql<{ at: Date }[]>`select statement_timestamp() as at`;
  return row?.at ?? new Date(Number.NaN);
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** A copy of the database as it is, by the server itself; everybody is thrown out for the moment it takes. */
async function copyDatabase(rig: Rig, name: string): Promise<void> {
  await asAdmin(rig, async (admin, database) => {
    await throwOut(admin, database, () => admin.unsafe(`create database "${name}" template "${database}"`));
  });
}

/** Puts the copy back in the place of the database; the copy stays. */
async function putBack(rig: Rig, name: string): Promise<void> {
  await asAdmin(rig, async (admin, database) => {
    await throwOut(admin, database, () => admin.unsafe(`drop database "${database}" with (force)`));
    await admin.unsafe(`create database "${database}" template "${name}"`);
  });
}

async function throwOut(admin: Sql, database: string, then: () => Promise<unknown>): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    await admin`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${database} and pid <> pg_backend_pid()`;
    try {
      await then();
      return;
    } catch (error) {
      // 55006: somebody has connected again in between.
      if ((error as { code?: string }).code !== '55006' || tries > 100) throw error;
    }
  }
}

async function asAdmin(rig: Rig, work: (admin: Sql, database: string) => Promise<void>): Promise<void> {
  const url = new URL(rig.databaseUrl);
  const database = url.pathname.slice(1);
  url.pathname = '/postgres';
  const admin = postgres(url.href, { max: 1, onnotice: () => {} });
  try {
    await work(admin, database);
  } finally {
    await admin.end({ timeout: 5 });
  }
}
