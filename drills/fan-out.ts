/**
 * Fan-out with the worker killed around every call it makes: 48 repositories, 46 of them stale, are 46 tasks, each one row
 * and one workflow, delivered under one key. A long list goes through a bounded window, and one that is too long fails before
 * its first task.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRouter, parseDefinition, runWorkflowIdOf, storedDefinitionOf } from '@milkrun/activity-core';
import { noLog, noMetrics, systemClock, systemRng } from '@milkrun/core';
import { openRegistry, type Registry } from '@milkrun/registrydb';
import { createDatabase, startTemporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import postgres from 'postgres';
import { type ChildProcess, startChildProcess } from './lib/child.ts';
import { until } from './lib/dev-run.ts';
import { verdicts } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { withPostgres } from './lib/parts.ts';
import { randomFrom, shuffled } from './lib/random.ts';
import { startTaskReceiver, type TaskReceiver } from './lib/task-receiver.ts';

const WORKER = fileURLToPath(new URL('lib/run-worker-process.ts', import.meta.url));
const [REPOSITORIES, STALE] = [48, 46];
const ITEMS_MAX = 5_000;
const WINDOW = 10;
/** Runs with a kill, each on a worker of its own, at the same time: what takes long is the wait for a step's time-out. */
const LANES = 4;
/** Places where a worker is killed when the count is not the whole one. */
const KILLS = LANES;
const RUN_MS_MAX = 300_000;
const ACTOR = { tenantId: 'default', name: 'drill' };

export const drill: Drill = {
  name: 'fan-out',
  about: 'Every item becomes one task whenever the worker dies, in a bounded window, and too many become none.',
  defaults: { count: 300 },
  fullCount: ITEMS_MAX,
  flags: { kills: `places where a worker is killed; default ${KILLS}, and every place with --count ${ITEMS_MAX}` },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const kills = integerFrom('kills', flags.kills, count >= ITEMS_MAX ? 1_000 : KILLS, 1);
    return await withPostgres(async (pgUrl) => {
      const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-fan-out-'));
      await chmod(home, 0o755);
      const temporal = await startTemporal({ own: true });
      const receiver = await startTaskReceiver();
      const url = await createDatabase(pgUrl);
      const registry = await openRegistry({ url, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng });
      const connection = await Connection.connect({ address: temporal.address });
      const sql = postgres(url, { max: 4, onnotice: () => {} });
      try {
        await registry.keys.ensureTenant(ACTOR.tenantId, 'Default');
        const env = { REGISTRYDB_URL: url, TEMPORAL_ADDRESS: temporal.address, MILKRUN_HOME: home };
        const client = new Client({ connection });
        await connection.operatorService.addSearchAttributes({
          namespace: 'default',
          searchAttributes: { activity_id: 2 },
        });
        return await drillFanOut({ count, kills, random: randomFrom(seed), log, env, registry, client, sql, receiver });
      } finally {
        await sql.end();
        await connection.close();
        await registry.close();
        await receiver.close();
        await temporal.stop();
        await rm(home, { recursive: true, force: true });
      }
    });
  },
};

interface Rig {
  readonly count: number;
  readonly kills: number;
  readonly random: () => number;
  readonly log: (line: string) => void;
  readonly env: Readonly<Record<string, string>>;
  readonly registry: Registry;
  readonly client: Client;
  readonly sql: postgres.Sql;
  readonly receiver: TaskReceiver;
}

async function drillFanOut(rig: Rig): Promise<DrillResult> {
  const { log, random, receiver } = rig;
  const found = verdicts(log);

  // One run undisturbed, which also says what places there are.
  const first = await startWorker(rig, 'first');
  let places: string[] = [];
  try {
    const workflowId = await startRun(rig, { name: 'first', items: REPOSITORIES, stale: STALE });
    await resultOf(rig, workflowId);
    await compare(rig, 'first', workflowId, STALE, found.missed);
    places = [...first.said().matchAll(/^hit (\S+)$/gm)].map(([, place]) => place as string);

    const tooMany = await startRun(rig, { name: 'too-many', items: ITEMS_MAX + 1, stale: ITEMS_MAX + 1 });
    const refused = await resultOf(rig, tooMany);
    if (refused.status !== 'failed' || !/FanoutLimit|limit/i.test(refused.reason ?? '')) {
      found.missed(`${ITEMS_MAX + 1} items: the run is ${JSON.stringify(refused)}`);
    }
    await compare(rig, 'too-many', tooMany, 0, found.missed);

    const inWindow = await startRun(rig, { name: 'window', items: rig.count, stale: rig.count });
    await resultOf(rig, inWindow);
    await compare(rig, 'window', inWindow, rig.count, found.missed);
  } finally {
    await first.kill('SIGKILL');
  }
  const most = receiver.atOnce('window');
  if (most > WINDOW) found.missed(`${most} tasks were at work at once, the window is ${WINDOW}`);
  if (most < 2) found.missed('never were two tasks at work at once');

  const killAt = shuffled(places, random).slice(0, rig.kills);
  let faults = 0;
  let repeated = 0;
  const lane = async (n: number): Promise<void> => {
    for (let at = n; at < killAt.length; at += LANES) {
      const place = killAt[at] as string;
      const name = `kill-${at}`;
      const often = /beginTask|finishTask|http\.send|store\.run:/.test(place);
      const nth = often ? 1 + Math.floor(random() * (STALE - 6)) : 1;
      const killed = await startWorker(rig, name, `${place} ${nth}`);
      const workflowId = await startRun(rig, { name, items: REPOSITORIES, stale: STALE });
      await until(`a worker to be killed at ${place}`, RUN_MS_MAX, async () => killed.hasEnded()).catch(
        (error: Error) => found.missed(error.message),
      );
      if (killed.hasEnded()) faults += 1;
      await killed.kill('SIGKILL');
      const next = await startWorker(rig, name);
      try {
        await resultOf(rig, workflowId);
      } finally {
        await next.kill('SIGKILL');
      }
      repeated += await compare(rig, name, workflowId, STALE, found.missed);
      log(`killed at ${place}, the ${nth}. time: ${STALE} tasks`);
    }
  };
  await Promise.all(Array.from({ length: LANES }, (_, n) => lane(n)));
  return {
    tried: killAt.length + 3,
    violations: found.count,
    faults,
    places: places.length,
    killed: killAt.toSorted(),
    repeatedDeliveries: repeated,
    items: rig.count,
    atOnceMax: most,
    window: WINDOW,
  };
}

const queuesOf = (name: string) => {
  const lane = name.startsWith('kill') ? name : 'first';
  return { RUNS_QUEUE: `runs-${lane}`, TASKS_QUEUE: `tasks-${lane}` };
};

function startWorker({ env }: Rig, name: string, killAt = ''): Promise<ChildProcess> {
  return startChildProcess([WORKER], { env: { ...env, ...queuesOf(name), KILL_AT: killAt }, until: /^ready$/m });
}

interface Wanted {
  readonly name: string;
  readonly items: number;
  readonly stale: number;
}

/** Defines an activity and routes an event to it; answers the id of its run's workflow. */
async function startRun({ registry, client, receiver }: Rig, { name, items, stale }: Wanted): Promise<string> {
  const definition = parseDefinition({
    slug: name,
    on: [{ event: { type: `drill.${name}` } }],
    context: { repos: { http: { url: `${receiver.origin}/list/${items}/${stale}` }, timeout: '10s' } },
    rules: [
      {
        id: 'stale',
        for_each: 'context.repos',
        key: 'item.slug',
        when: 'item.sbomAgeDays > 30',
        limit: ITEMS_MAX,
        task: {
          type: 'http',
          title: 'Rescan SBOM of ${item.slug}',
          params: { url: `${receiver.origin}/jobs/${name}`, json: { repo: '${item.slug}' } },
          labels: ['sbom', '${item.slug}'],
        },
      },
    ],
    spawn: { concurrency: WINDOW },
  } as never);
  const { id } = await registry.activities.create(ACTOR, storedDefinitionOf(definition));
  const event = { specversion: '1.0', id: name, source: '/drill', type: `drill.${name}`, data: {} };
  const router = createRouter({
    store: registry.activityRouter,
    client,
    log: noLog,
    metrics: noMetrics,
    taskQueue: queuesOf(name).RUNS_QUEUE,
  });
  const raw = Buffer.from(JSON.stringify(event));
  await router.route({ tenantId: ACTOR.tenantId, origin: 'api', raw, headers: {}, streamSeq: null, tries: 1 });
  return runWorkflowIdOf(id, event);
}

async function resultOf({ client, count }: Rig, workflowId: string): Promise<{ status: string; reason?: string }> {
  const handle = client.workflow.getHandle(workflowId);
  await until(`${workflowId} to end`, RUN_MS_MAX + count * 200, async () => {
    return (await handle.describe()).status.name !== 'RUNNING';
  });
  return (await handle.result()) as { status: string; reason?: string };
}

/** Rows, workflows and deliveries of a run against what there has to be; answers how many deliveries were repeats. */
async function compare(
  { sql, client, receiver }: Rig,
  name: string,
  workflowId: string,
  wanted: number,
  missed: (what: string) => void,
): Promise<number> {
  const [run] =
    await sql`select run_id, status, tasks_spawned, tasks_done from activity_runs where workflow_id = ${workflowId}`;
  const status = wanted === 0 ? 'failed' : 'succeeded';
  if (run?.status !== status) missed(`${name}: the run is ${run?.status}, not ${status}`);
  const tasks =
    await sql`select task_id, item_key, title, status from activity_tasks where run_id = ${run?.run_id ?? null}`;
  const items = new Set(tasks.map(({ item_key }) => item_key as string));
  if (tasks.length !== wanted || items.size !== wanted) {
    missed(`${name}: ${tasks.length} tasks of ${items.size} items, not ${wanted}`);
  }
  for (const { task_id, item_key, title, status: state } of tasks) {
    if (state !== 'done') missed(`${name}: ${task_id} is ${state}`);
    if (title !== `Rescan SBOM of ${item_key}`) missed(`${name}: ${task_id} is called ${title}`);
  }
  const received = receiver.jobs(name);
  const ids = new Set(tasks.map(({ task_id }) => task_id as string));
  for (const key of received.keys()) if (!ids.has(key)) missed(`${name}: a delivery under ${key}, which is no task`);
  for (const id of ids) {
    if (!received.has(id)) missed(`${name}: ${id} was not delivered`);
    const { type } = await client.workflow.getHandle(id).describe();
    if (type !== 'RunTaskWorkflow') missed(`${name}: ${id} is a ${type}`);
  }
  return [...received.values()].reduce((sum, n) => sum + n - 1, 0);
}
