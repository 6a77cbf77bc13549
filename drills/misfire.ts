/**
 * Missed ticks on a real Temporal server: each policy through each outage, with runs that are over at once and runs that stay
 * open, with and without a worker killed meanwhile. What an outage leaves is made by the server's own backfill and by leaving
 * workers away, because the clock of a real server can not be set; the runs that come of it are counted to the last.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  createSchedules,
  drainCommands,
  parseDefinition,
  scheduleIdOf,
  storedDefinitionOf,
} from '@milkrun/activity-core';
import { noLog, noMetrics, systemClock, systemRng } from '@milkrun/core';
import { openRegistry, type Registry } from '@milkrun/registrydb';
import { createDatabase, startTemporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import postgres from 'postgres';
import { startChildProcess } from './lib/child.ts';
import { until } from './lib/dev-run.ts';
import { verdicts } from './lib/fleet-rig.ts';
import type { Drill, DrillInput, DrillResult, Say } from './lib/index.ts';
import { type MisfireCase, misfireCases, wantedRuns } from './lib/misfire-cases.ts';
import { withPostgres } from './lib/parts.ts';
import { randomFrom, shuffled } from './lib/random.ts';

const WORKER = fileURLToPath(new URL('lib/run-worker-process.ts', import.meta.url));
const ALL = misfireCases().length;
/** Cases at the same time: a killed worker's steps are taken for lost after 30 s, whatever their number. */
const AT_ONCE = 40;
const SETTLED_MS = 400_000;
const MINUTE = 60_000;
const ACTOR = { tenantId: 'default', name: 'drill' };
const QUEUES = { RUNS_QUEUE: 'misfire-runs', TASKS_QUEUE: 'misfire-tasks' };
const OVERLAPS = { skip: 'SKIP', catchup: 'BUFFER_ALL', compress: 'BUFFER_ONE' } as const;

export const drill: Drill = {
  name: 'misfire',
  about: 'Of missed ticks exactly those runs come that the policy says, through every outage, overlap and restart.',
  defaults: { count: AT_ONCE },
  fullCount: ALL,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    return await withPostgres(async (pgUrl) => {
      const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-misfire-'));
      await chmod(home, 0o755);
      const temporal = await startTemporal({ own: true });
      const url = await createDatabase(pgUrl);
      const registry = await openRegistry({ url, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng });
      const connection = await Connection.connect({ address: temporal.address });
      const sql = postgres(url, { max: 2, onnotice: () => {} });
      try {
        await registry.keys.ensureTenant(ACTOR.tenantId, 'Default');
        const searchAttributes = { activity_id: 2 };
        await connection.operatorService.addSearchAttributes({ namespace: 'default', searchAttributes });
        const env = { REGISTRYDB_URL: url, TEMPORAL_ADDRESS: temporal.address, MILKRUN_HOME: home, ...QUEUES };
        const rig = { registry, client: new Client({ connection }), sql, env, log };
        return await drillMisfire(rig, count, randomFrom(seed));
      } finally {
        await sql.end();
        await connection.close();
        await registry.close();
        await temporal.stop();
        await rm(home, { recursive: true, force: true });
      }
    });
  },
};

interface Rig {
  readonly registry: Registry;
  readonly client: Client;
  readonly sql: postgres.Sql;
  readonly env: Readonly<Record<string, string>>;
  readonly log: Say;
}

interface Made extends MisfireCase {
  readonly id: string;
  /** Instants of the ticks, oldest first. */
  readonly at: readonly number[];
}

async function drillMisfire(rig: Rig, count: number, random: () => number): Promise<DrillResult> {
  const found = verdicts(rig.log);
  const chosen = shuffled(misfireCases(), random).slice(0, count);
  let faults = 0;
  let runs = 0;
  for (const restart of [true, false]) {
    const group = chosen.filter((one) => one.restart === restart);
    for (let at = 0; at < group.length; at += AT_ONCE) {
      const part = group.slice(at, at + AT_ONCE);
      faults += await runPart(rig, part, restart, found.missed).then(({ kills, effective }) => {
        runs += effective;
        return kills + part.length;
      });
      rig.log(
        `${Math.min(at + AT_ONCE, group.length)} of ${group.length} cases ${restart ? 'with' : 'without'} a kill`,
      );
    }
  }
  return { tried: chosen.length, violations: found.count, faults, runs, cases: ALL };
}

async function runPart(rig: Rig, part: readonly MisfireCase[], restart: boolean, missed: (what: string) => void) {
  const { client, registry, sql, env } = rig;
  const store = registry.activitySchedules;
  const shared = { store, client, log: noLog, taskQueue: QUEUES.RUNS_QUEUE };
  const schedules = createSchedules({ ...shared, clock: systemClock, metrics: noMetrics });
  const made: Made[] = [];
  for (const [n, one] of part.entries()) made.push(await define(rig, one, `${restart}-${n}-${systemClock.now()}`));
  for (const { id } of made) await schedules.syncOne(id);
  const fire = async ({ id, at, policy }: Made, overlap: 'ALLOW_ALL' | undefined): Promise<void> => {
    const [first, last] = [at[0] as number, at.at(-1) as number];
    const handle = client.schedule.getHandle(scheduleIdOf(id));
    const how = overlap ?? OVERLAPS[policy.misfire.policy];
    await handle.backfill({ start: new Date(first - 1_000), end: new Date(last), overlap: how });
  };
  const of = (...outages: MisfireCase['outage'][]): Made[] => made.filter(({ outage }) => outages.includes(outage));

  // With nobody there the server fires; then workers come and find what is late.
  for (const one of of('workers', 'twice')) await fire(one, 'ALLOW_ALL');
  let worker = await startChildProcess([WORKER], { env, until: /^ready$/m });
  let kills = 0;
  const ids = made.map(({ id }) => id);
  try {
    for (const one of of('server')) await fire(one, undefined);
    if (restart) {
      await until('a run to be opened', SETTLED_MS, async () => {
        const [row] = await sql`select count(*)::int as n from activity_runs where activity_id = any(${ids}::uuid[])`;
        return (row?.n as number) > 0;
      });
      await worker.kill('SIGKILL');
      kills += 1;
      worker = await startChildProcess([WORKER], { env, until: /^ready$/m });
    }
    await settle(rig, made, of('workers', 'twice', 'server'));
    await schedules.recover();
    await drainCommands(shared);
    await settle(rig, made, made);
    // All that was fired is fired once more, and the reconciler looks once more.
    const before = await effectiveOf(rig, ids);
    for (const one of of('twice')) await fire(one, 'ALLOW_ALL');
    await settle(rig, made, of('twice'), 2);
    const again = await schedules.recover();
    if (again.started > 0) missed(`the reconciler made up for ${again.started} ticks a second time`);
    await settle(rig, made, made);
    const after = await effectiveOf(rig, ids);
    for (const one of made) {
      const about = `${one.policy.name}, ${one.outage}, ${one.busy ? 'busy' : 'idle'}, ${one.ticks} ticks${restart ? ', restart' : ''}`;
      const [got, wanted] = [after.get(one.id) ?? 0, wantedRuns(one)];
      if (got !== wanted) missed(`${about}: ${got} runs, not ${wanted}`);
      if (got !== (before.get(one.id) ?? 0)) missed(`${about}: ${got} runs after the same ticks again`);
    }
    await checkWindows(rig, made, missed);
    return { kills, effective: [...after.values()].reduce((sum, n) => sum + n, 0) };
  } finally {
    await worker.kill('SIGKILL');
    for (const { id } of made) await registry.activities.remove(ACTOR, id);
    for (const { id } of made) await schedules.syncOne(id);
  }
}

/** Ticks of one hour of today, the next ones a day away, so that none comes while the drill looks. */
async function define({ registry, sql }: Rig, one: MisfireCase, slug: string): Promise<Made> {
  const now = systemClock.now();
  // In the hour of ten minutes ago, whose minutes up to then are past; else in the one before.
  const late = new Date(now - 10 * MINUTE);
  const hour = new Date(late.getUTCMinutes() >= 10 ? late : late.getTime() - 60 * MINUTE);
  const last = late.getUTCMinutes() >= 10 ? late.getUTCMinutes() : 59;
  const minutes = Array.from({ length: one.ticks }, (_, n) => last - one.ticks + 1 + n);
  const task = one.busy ? { type: 'human', title: 'Say so' } : { type: 'noop' };
  const definition = parseDefinition({
    slug,
    on: [{ cron: `${minutes.join(',')} ${hour.getUTCHours()} * * *`, misfire: one.policy.misfire }],
    rules: [{ id: 'r', task }],
  } as never);
  const { id } = await registry.activities.create(ACTOR, storedDefinitionOf(definition));
  const start = Date.UTC(hour.getUTCFullYear(), hour.getUTCMonth(), hour.getUTCDate(), hour.getUTCHours());
  const at = minutes.map((minute) => start + minute * MINUTE);
  await sql`update activity_definitions set covered_at = ${new Date((at[0] as number) - MINUTE)} where id = ${id}`;
  return { ...one, id, at };
}

/** Completes what waits for a person until all that was fired is opened, ended, and nothing waits in a schedule's buffer. */
async function settle(
  { sql, client, registry }: Rig,
  all: readonly Made[],
  fired: readonly Made[],
  times = 1,
): Promise<void> {
  const ids = all.map(({ id }) => id);
  let left = [...fired];
  await until('every run to be over', SETTLED_MS, async () => {
    const waiting = await sql`select t.task_id from activity_tasks t join activity_runs r using (run_id)
      where r.activity_id = any(${ids}::uuid[]) and t.status = 'waiting'`;
    for (const { task_id } of waiting) {
      await registry.activityOperations.completeTask(ACTOR, task_id as string, {
        status: 'done',
        result: null,
        reason: undefined,
      });
    }
    await drainCommands({ store: registry.activitySchedules, client, log: noLog, taskQueue: QUEUES.RUNS_QUEUE });
    const [open] = await sql`select count(*)::int as n from activity_runs
      where activity_id = any(${ids}::uuid[]) and finished_at is null`;
    const still: Made[] = [];
    for (const one of left) if (!(await isFired(client, one, times))) still.push(one);
    left = still;
    return left.length === 0 && open?.n === 0 && waiting.length === 0 && (await running(client, ids)) === 0;
  });
}

/** Whether the schedule has dealt with every tick it was told to fire: started it, skipped it, or dropped it from its buffer. */
async function isFired(client: Client, { id, ticks, outage }: Made, times: number): Promise<boolean> {
  if (outage === 'reconciler') return true;
  const { raw, info } = await client.schedule.getHandle(scheduleIdOf(id)).describe();
  const { actionCount, overlapSkipped, bufferDropped, bufferSize } = raw.info ?? {};
  const dealtWith = Number(actionCount ?? 0) + Number(overlapSkipped ?? 0) + Number(bufferDropped ?? 0);
  return dealtWith >= ticks * times && Number(bufferSize ?? 0) === 0 && info.runningActions.length === 0;
}

/** Runs the server has open, rows or not. */
async function running(client: Client, ids: readonly string[]): Promise<number> {
  let open = 0;
  for await (const { workflowId } of client.workflow.list({ query: 'ExecutionStatus = "Running"', pageSize: 1_000 })) {
    if (ids.some((id) => workflowId.startsWith(`activity-${id}:`))) open += 1;
  }
  return open;
}

async function effectiveOf({ sql }: Rig, ids: readonly string[]): Promise<ReadonlyMap<string, number>> {
  const rows = await sql`select activity_id::text as id, count(*)::int as n from activity_runs
    where activity_id = any(${ids}::uuid[]) and status in ('succeeded', 'partial', 'failed') group by 1`;
  return new Map(rows.map(({ id, n }) => [id as string, n as number]));
}

/** The run of a compressed gap says which ticks it stands for; each run has made its task once. */
async function checkWindows({ sql }: Rig, made: readonly Made[], missed: (what: string) => void): Promise<void> {
  for (const { id, policy, at, outage, ticks } of made) {
    const rows = await sql`select r.event, r.status, count(t.*)::int as tasks from activity_runs r
      left join activity_tasks t using (run_id) where r.activity_id = ${id} group by r.run_id`;
    for (const { status, tasks, event } of rows) {
      if (status === 'failed') missed(`${policy.name}, ${outage}: a run has failed`);
      if (tasks !== (status === 'succeeded' ? 1 : 0))
        missed(`${policy.name}, ${outage}: a run that is ${status} has ${tasks} tasks`);
      if (policy.name !== 'compress' || status !== 'succeeded') continue;
      const { data } = event as { data: { windowEnd: string; missedCount: number } };
      if (Date.parse(data.windowEnd) !== at.at(-1) || data.missedCount !== ticks - 1) {
        missed(`compress, ${outage}, ${ticks} ticks: a window to ${data.windowEnd} with ${data.missedCount} others`);
      }
    }
  }
}
