/**
 * Faults that leave triggers without anybody to poll them, one after the other on a fleet that is polled all the time: the
 * workflow of a timer shard terminated, deleted, replaced by one that nobody's code can run (a bad deploy) or that waits on
 * a queue nobody serves, due times written without their signal, next polls lost or far ahead, a worker killed, workerdb put
 * back to an old dump, a connection left out of every auth answer.
 *
 * Scaled: the loop's period (LIVENESS_EVERY) is `--period` seconds instead of 60, and the tick 1 s instead of 10. What may
 * be in breach, and for how long, is counted in periods: no trigger longer than two.
 */
import { QUEUES, systemClock, WORKFLOWS } from '@milkrun/core';
import postgres, { type Sql } from 'postgres';
import { insertFleet, type Rig, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const TICK_S = 1;
const INTERVAL_S = 30;
const SHARDS = 4;
const CONNECTIONS = 100;
const LOOK_MS = 500;

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

interface Violation {
  readonly kind: string;
  readonly triggerId?: string;
  readonly timerShard?: number;
}

interface Report {
  readonly violations: readonly Violation[];
  readonly staleTriggers: readonly Violation[];
}

/** While a worker is busy or gone nothing is named. */
const NOTHING: Report = { violations: [], staleTriggers: [] };

export const drill: Drill = {
  name: 'liveness',
  about: 'Whatever leaves a trigger without anybody to poll it is repaired, or named, within two checks.',
  defaults: { count: 30 },
  fullCount: 1000,
  flags: {
    triggers: 'default 2000; the promise is stated for 10000',
    period: 'seconds between two checks; default 5',
    workers: 'worker processes; default 2',
  },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const triggers = integerFrom('triggers', flags.triggers, 2000, 100);
    const period = integerFrom('period', flags.period, 5, 2);
    const workers = integerFrom('workers', flags.workers, 2, 1);
    const random = randomFrom(seed);
    const judge = verdicts(log);
    const rig = await startRig({
      workers: 0,
      timerShards: SHARDS,
      settings: { DISPATCH_TICK: `${TICK_S}s`, LIVENESS_EVERY: `${period}s`, LEASE_TTL: '15s', LOG_LEVEL: 'warn' },
      log,
      fill: (sql) =>
        insertFleet(sql, [
          { count: triggers, toolkit: 'source', tenants: 1, connections: CONNECTIONS, intervalSeconds: INTERVAL_S },
        ]),
    });
    const dump = `${new URL(rig.databaseUrl).pathname.slice(1)}_dump`;
    const looker = new Looker(rig, period);
    try {
      for (let n = 0; n < workers; n += 1) await rig.startWorker();
      let settled = performance.now();
      await watch(
        'the fleet to be polled',
        { everyMs: 500, withinMs: 180_000 },
        async () =>
          (
            await rig.sql<
              { n: number }[]
            >`select count(*)::int as n from polling_trigger_runs where last_polled_at is null`
          )[0]?.n ?? 0,
        (n) => n === 0,
      );
      log(
        `${triggers} triggers are polled every ${INTERVAL_S} s after ${((performance.now() - settled) / 1000).toFixed(0)} s`,
      );
      await copyDatabase(rig, dump);
      const looking = looker.run();
      const fired: Record<string, number> = {};
      let reported = 0;
      for (let n = 1; n <= count; n += 1) {
        const kind = n <= Object.keys(KINDS).length ? (Object.keys(KINDS)[n - 1] as Kind) : drawn(random);
        fired[kind] = (fired[kind] ?? 0) + 1;
        settled = performance.now();
        const named = await fire(rig, { kind, random, looker, dump, period });
        reported += named ? 1 : 0;
        if (!named) judge.missed(`fault ${n}, ${kind}, was not reported`);
        log(`fault ${n} of ${count}: ${kind}, ${((performance.now() - settled) / 1000).toFixed(1)} s`);
      }
      await systemClock.sleep(3 * period * 1000);
      looker.stop();
      await looking;
      for (const [id, seconds] of looker.worst)
        judge.missed(`${id} was in breach for ${seconds.toFixed(1)} s, two periods are ${2 * period} s`);
      const report = await rig.engine<Report & { polled: number }>('/doctor');
      if (report.polled !== triggers) judge.missed(`${report.polled} of ${triggers} triggers are polled at the end`);
      return {
        tried: looker.looks,
        violations: judge.count,
        faults: count,
        triggers,
        reported,
        byKind: fired,
        breachSecondsMax: Number(looker.longest.toFixed(1)),
        periodSeconds: period,
      };
    } finally {
      looker.stop();
      await rig.stop();
    }
  },
};

function drawn(random: () => number): Kind {
  let draw = random() * Object.values(KINDS).reduce((sum, n) => sum + n, 0);
  for (const [kind, weight] of Object.entries(KINDS)) {
    draw -= weight;
    if (draw < 0) return kind as Kind;
  }
  return 'terminated';
}

/** Looks at the invariant all the time, by a statement of its own, and adds up how long each trigger is in breach. */
class Looker {
  looks = 0;
  longest = 0;
  /** Triggers in breach for longer than allowed, the longest time of each. */
  readonly worst = new Map<string, number>();
  private readonly since = new Map<string, number>();
  private stopped = false;
  private readonly rig: Rig;
  private readonly period: number;

  constructor(rig: Rig, period: number) {
    this.rig = rig;
    this.period = period;
  }

  stop(): void {
    this.stopped = true;
  }

  /** A clock that went back with the database: what was in breach is counted anew. */
  reset(): void {
    this.since.clear();
  }

  async run(): Promise<void> {
    while (!this.stopped) {
      // While the database is being put back there is nothing to look at.
      const rows = await this.rig.sql<{ id: string }[]>`
        with live as (select batch_no from batches where ended_at is null and expires_at > statement_timestamp())
        select trigger_id as id from polling_trigger_runs t
        where enabled and owner = 'v' and halted_code is null and (next_poll_at is null
          or next_poll_at > statement_timestamp() + greatest(interval_s, 86400) * interval '1 s' + interval '1 min'
          or (next_poll_at < statement_timestamp() - ${TICK_S + this.period} * interval '1 s'
            and not exists (select from live where batch_no = t.lease_owner)))`.catch(() => undefined);
      const now = performance.now();
      if (rows !== undefined) {
        this.looks += 1;
        const present = new Set(rows.map(({ id }) => id));
        for (const id of this.since.keys()) if (!present.has(id)) this.since.delete(id);
        for (const id of present) {
          const seconds = (now - (this.since.get(id) ?? now)) / 1000;
          if (!this.since.has(id)) this.since.set(id, now);
          this.longest = Math.max(this.longest, seconds);
          // A look is late by itself: its own distance is no breach.
          if (seconds > 2 * this.period + (2 * LOOK_MS) / 1000)
            this.worst.set(id, Math.max(seconds, this.worst.get(id) ?? 0));
        }
      }
      await systemClock.sleep(LOOK_MS);
    }
  }
}

interface Fault {
  readonly kind: Kind;
  readonly random: () => number;
  readonly looker: Looker;
  readonly dump: string;
  readonly period: number;
}

/** Fires one, and answers whether it was repaired with a report, or never needed one because nothing came into breach. */
async function fire(rig: Rig, { kind, random, looker, dump, period }: Fault): Promise<boolean> {
  const { sql, client } = rig;
  const shard = Math.floor(random() * SHARDS);
  const workflowId = `timer-shard:${shard}`;
  const handle = client.workflow.getHandle(workflowId);
  // Gone already, when the fault before hit the same shard and nobody has started it anew yet.
  const end = async (): Promise<unknown> => await handle.terminate('a drill').catch(() => undefined);
  const ticks = async (): Promise<boolean> => {
    await watch(
      `timer shard ${shard} to be a sound one again`,
      { everyMs: 200, withinMs: (4 * period + 120) * 1000 },
      async () => await handle.describe().catch(() => undefined),
      (seen) =>
        seen?.status.name === 'RUNNING' && seen.type === WORKFLOWS.timerShard && seen.taskQueue === QUEUES.timerShard,
    );
    return await ticksAgain(sql, shard, period);
  };
  switch (kind) {
    case 'terminated':
      await end();
      return await ticks();
    case 'deleted':
      await end();
      await client.workflowService.deleteWorkflowExecution({ namespace: 'default', workflowExecution: { workflowId } });
      return await ticks();
    case 'bad_deploy':
    case 'unserved_queue': {
      await end();
      const [type, taskQueue] =
        kind === 'bad_deploy'
          ? ['TimerShardOfABadDeploy', QUEUES.timerShard]
          : [WORKFLOWS.timerShard, 'nobody-serves-it'];
      // The loop may have started it anew already.
      await client.workflow
        .start(type, { workflowId, taskQueue, args: [{ timerShard: shard }], workflowIdReusePolicy: 'ALLOW_DUPLICATE' })
        .catch(() => undefined);
      return await ticks();
    }
    case 'lost_arm': {
      const ids = await someIds(sql, random);
      await sql`update polling_trigger_runs set next_poll_at = statement_timestamp() where trigger_id = any (${ids}::uuid[])`;
      return await polledAgain(sql, ids, period);
    }
    case 'no_next_poll':
    case 'too_far_ahead': {
      const ids = await someIds(sql, random);
      const at = kind === 'no_next_poll' ? sql`null::timestamptz` : sql`statement_timestamp() + interval '3 days'`;
      await sql`update polling_trigger_runs set next_poll_at = ${at} where trigger_id = any (${ids}::uuid[])
        and not exists (select from batches b where b.batch_no = lease_owner and b.ended_at is null)`;
      return await polledAgain(sql, ids, period);
    }
    case 'auth_dropped': {
      const connection = `source-${Math.floor(random() * CONNECTIONS)}`;
      rig.upstream.knows = ({ connectionId }) => connectionId !== connection;
      const [row] = await sql<
        { n: number }[]
      >`select count(*)::int as n from polling_triggers where connection_id = ${connection}`;
      const ids = new Set(
        (
          await sql<{ id: string }[]>`select trigger_id as id from polling_triggers where connection_id = ${connection}`
        ).map(({ id }) => id),
      );
      // Nothing can repair what the control plane leaves out: it has to be named, once it is stale by its own interval.
      const named = await watch(
        'the dropped triggers to be named',
        { everyMs: 1000, withinMs: (5 * INTERVAL_S + 120) * 1000 },
        async () => {
          const { staleTriggers } = await rig.engine<Report>('/doctor').catch(() => NOTHING);
          return staleTriggers.filter(({ triggerId }) => ids.has(triggerId ?? '')).length;
        },
        (n) => n === row?.n,
      );
      rig.upstream.knows = () => true;
      await sql`update polling_trigger_runs set next_poll_at = statement_timestamp() where trigger_id = any (${[...ids]}::uuid[])`;
      return named > 0 && (await polledAgain(sql, [...ids], period));
    }
    case 'worker_killed': {
      const live = rig.workers.filter(({ pid }) => alive(pid));
      await live[Math.floor(random() * live.length)]?.kill();
      await rig.startWorker();
      return await ticks();
    }
    case 'old_dump': {
      await putBack(rig, dump);
      looker.reset();
      return (await Promise.all([0, 1, 2, 3].map((each) => ticksAgain(sql, each, period)))).every(Boolean);
    }
  }
}

/** Whether the shard ticks again within two checks, a start and the wait for a stuck one; the loop's own log line is the report. */
async function ticksAgain(sql: Sql, shard: number, period: number): Promise<boolean> {
  const [before] = await sql<{ at: Date }[]>`select statement_timestamp() as at`;
  return await watch(
    `timer shard ${shard} to tick`,
    { everyMs: 200, withinMs: (4 * period + 60) * 1000 },
    async () =>
      (
        await sql<
          { n: number }[]
        >`select count(*)::int as n from timer_shards where timer_shard = ${shard} and ticked_at > ${before?.at ?? ''}`.catch(
          () => [],
        )
      )[0]?.n ?? 0,
    (n) => n === 1,
  ).then(() => true);
}

async function polledAgain(sql: Sql, ids: readonly string[], period: number): Promise<boolean> {
  const [before] = await sql<{ at: Date }[]>`select statement_timestamp() as at`;
  return await watch(
    'the triggers to be polled',
    { everyMs: 200, withinMs: (4 * period + INTERVAL_S + 60) * 1000 },
    async () =>
      (
        await sql<
          { n: number }[]
        >`select count(*)::int as n from polling_trigger_runs where trigger_id = any (${ids as string[]}::uuid[]) and last_polled_at > ${before?.at ?? ''}`
      )[0]?.n ?? 0,
    (n) => n === ids.length,
  ).then(() => true);
}

async function someIds(sql: Sql, random: () => number): Promise<string[]> {
  const shard = Math.floor(random() * 64);
  const rows = await sql<
    { id: string }[]
  >`select trigger_id as id from polling_trigger_runs where shard = ${shard} order by 1 limit 20`;
  return rows.map(({ id }) => id);
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
