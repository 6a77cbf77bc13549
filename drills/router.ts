/**
 * Events on the real bus, a fifth delivered twice, one in a hundred poison, and routers killed with -9 while they work: each
 * event starts one run of each activity it matches, poison ends in dead letters with its bytes, and nothing stays behind.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { eventKeyOf, parseDefinition, runWorkflowIdOf, storedDefinitionOf } from '@milkrun/activity-core';
import { systemClock, systemRng } from '@milkrun/core';
import { BUS } from '@milkrun/orchestrator';
import { openRegistry } from '@milkrun/registrydb';
import { createDatabase, startNats, startTemporal } from '@milkrun/testkit';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, headers as newHeaders } from '@nats-io/transport-node';
import { Client, Connection } from '@temporalio/client';
import postgres from 'postgres';
import {
  type BusMessage,
  EVENT_TYPE,
  eventIdentity,
  eventMessage,
  type Poison,
  poisonMessage,
} from './lib/activity-events.ts';
import { startChildProcess } from './lib/child.ts';
import { until } from './lib/dev-run.ts';
import { verdicts } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { withPostgres } from './lib/parts.ts';
import { randomFrom, shuffled } from './lib/random.ts';

const ROUTER = fileURLToPath(new URL('lib/router-process.ts', import.meta.url));
const MAIN = fileURLToPath(new URL('../apps/cli/src/main.ts', import.meta.url));
const ROUTERS = 2;
/** Events for one kill when none are named. */
const EVENTS_A_KILL = 1_000;
const KILLS_MIN = 3;
const TWICE = 0.2;
const POISON = 0.01;
/** The consumer's wait for what a killed router held, and the load of a busy machine. */
const STALLED_MS = 180_000;
/** So many of the started runs are also executed to their end. */
const EXECUTED = 200;

export const drill: Drill = {
  name: 'router',
  about:
    'However often routers are killed, each event starts one run of each activity, and poison ends in dead letters.',
  defaults: { count: 2_000 },
  fullCount: 100_000,
  flags: { kills: `routers killed with -9; default: one in ${EVENTS_A_KILL} events, ${KILLS_MIN} at least` },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const kills = integerFrom('kills', flags.kills, Math.max(KILLS_MIN, Math.round(count / EVENTS_A_KILL)), 1);
    return await withPostgres(async (pgUrl) => {
      const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-router-'));
      await chmod(home, 0o755);
      const temporal = await startTemporal({ own: true });
      const nats = await startNats({ directory: join(home, 'nats'), own: true });
      try {
        if (nats === undefined) throw new Error('there is no nats-server: run npm test once, or set NATS_SERVER_PATH');
        const registrydbUrl = await createDatabase(pgUrl);
        const env = { REGISTRYDB_URL: registrydbUrl, NATS_URL: nats.url, TEMPORAL_ADDRESS: temporal.address };
        return await drillRouter({ count, kills, random: randomFrom(seed), log, env, home });
      } finally {
        await nats?.stop();
        await temporal.stop();
        await rm(home, { recursive: true, force: true });
      }
    });
  },
};

interface Work {
  readonly count: number;
  readonly kills: number;
  readonly random: () => number;
  readonly log: (line: string) => void;
  readonly env: Readonly<Record<'REGISTRYDB_URL' | 'NATS_URL' | 'TEMPORAL_ADDRESS', string>>;
  readonly home: string;
}

async function drillRouter({ count, kills, random, log, env, home }: Work): Promise<DrillResult> {
  const found = verdicts(log);
  const activities = await defineActivities(env.REGISTRYDB_URL);
  const { messages, poisons, twice } = messagesOf(count, random);
  const start = () => startChildProcess([ROUTER], { env, until: /^ready$/m });
  const routers = await Promise.all(Array.from({ length: ROUTERS }, start));
  const bus = await connect({ servers: env.NATS_URL });
  const sql = postgres(env.REGISTRYDB_URL, { max: 2, onnotice: () => {} });
  const connection = await Connection.connect({ address: env.TEMPORAL_ADDRESS });
  const client = new Client({ connection });
  let faults = 0;
  try {
    const manager = await jetstreamManager(bus);
    const done = async (): Promise<number> => {
      const { num_pending, num_ack_pending } = await manager.consumers.info(BUS.stream, BUS.consumer);
      return published - num_pending - num_ack_pending;
    };
    let published = 0;
    const chunk = Math.ceil(messages.length / (kills + 1));
    for (let at = 0; at < messages.length; at += chunk) {
      const part = messages.slice(at, at + chunk);
      await publish(jetstream(bus), part);
      const before = published;
      published += part.length;
      if (faults === kills) continue;
      // In the middle of the part: some of it is done, some in hand, some not begun.
      const target = before + Math.floor(part.length * random() * 0.8) - 64 * ROUTERS;
      await until('the routers to get on', STALLED_MS, async () => (await done()) >= target);
      // Every third time nobody is left.
      const killed = faults % 3 === 2 ? routers.map((_, n) => n) : [faults % ROUTERS];
      await Promise.all(killed.map((n) => routers[n]?.kill('SIGKILL')));
      for (const n of killed) routers[n] = await start();
      faults += 1;
      if (faults % 10 === 0) log(`${faults} of ${kills} killed, ${await done()} of ${messages.length} messages done`);
    }
    await until('every message to be done', STALLED_MS + count * 20, async () => (await done()) === published).catch(
      async (error: Error) => found.missed(`${error.message}: ${published - (await done())} messages are left`),
    );
    await Promise.all(routers.map((router) => router.kill('SIGKILL')));

    const runs = await compareRuns(client, activities, count, found.missed);
    const deadLetters = await compareDeadLetters(sql, poisons, found.missed);
    const [stored] = await sql`select count(*)::int as n, count(matches)::int as noted from activity_events`;
    if (stored?.n !== count) found.missed(`${stored?.n} events are stored, ${count} were published`);
    if (stored?.noted !== count)
      found.missed(`of ${stored?.noted} events it is kept what became of them, not of ${count}`);
    const executed = await execute({ sql, env, home, wanted: Math.min(EXECUTED, runs), missed: found.missed });
    return {
      tried: count,
      violations: found.count,
      faults,
      deliveredTwice: twice,
      poison: poisons.length,
      deadLetters,
      runs,
      executed,
      routers: ROUTERS,
    };
  } finally {
    await Promise.all(routers.map((router) => router.kill('SIGKILL')));
    await connection.close();
    await sql.end();
    await bus.close();
  }
}

/** Two that match, one only a tenth, and two that must not start. Answers the id of each with its test. */
async function defineActivities(url: string): Promise<ReadonlyMap<string, (n: number) => boolean>> {
  const registry = await openRegistry({ url, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng });
  try {
    await registry.keys.ensureTenant('default', 'Default');
    const define = async (slug: string, event: object, more: object = {}): Promise<string> => {
      const rules = [{ id: 'r', when: 'event.data.n < 0', task: { type: 'noop' } }];
      const definition = parseDefinition({ slug, on: [{ event }], rules, ...more } as never);
      const { id } = await registry.activities.create(
        { tenantId: 'default', name: 'drill' },
        storedDefinitionOf(definition),
      );
      return id;
    };
    const all = await define('all', { type: EVENT_TYPE });
    const some = await define('some', { type: EVENT_TYPE, filters: { tenth: 3 }, where: 'event.data.n % 2 == 1' });
    const never = await define('never', { type: EVENT_TYPE, where: 'event.data.missing' });
    const disabled = await define('disabled', { type: EVENT_TYPE }, { enabled: false });
    return new Map([
      [all, () => true],
      [some, (n: number) => n % 10 === 3],
      [never, () => false],
      [disabled, () => false],
    ]);
  } finally {
    await registry.close();
  }
}

function messagesOf(count: number, random: () => number) {
  const events = Array.from({ length: count }, (_, n) => n);
  const twice = Math.round(count * TWICE);
  // What comes twice has no rival, so that each conflict is one dead letter.
  const order = shuffled(events, random);
  const rivals = order.slice(twice);
  const poisons: Poison[] = Array.from({ length: Math.max(1, Math.round(count * POISON)) }, (_, n) =>
    poisonMessage(n, rivals[n % rivals.length] as number),
  );
  const messages: BusMessage[] = [...events, ...order.slice(0, twice)].map(eventMessage);
  return { messages: shuffled([...messages, ...poisons], random), poisons, twice };
}

/** Without ids, so that the stream keeps what comes twice and the router has to tell. */
async function publish(js: ReturnType<typeof jetstream>, messages: readonly BusMessage[]): Promise<void> {
  for (let at = 0; at < messages.length; at += 200) {
    await Promise.all(
      messages.slice(at, at + 200).map(({ raw, headers }) => {
        const sent = newHeaders();
        for (const [name, value] of Object.entries(headers)) sent.set(name, value);
        return js.publish(`activity.${EVENT_TYPE}`, raw, { headers: sent });
      }),
    );
  }
}

/** Every execution the server has, against those that have to be; answers how many there are. */
async function compareRuns(
  client: Client,
  activities: ReadonlyMap<string, (n: number) => boolean>,
  count: number,
  missed: (what: string) => void,
): Promise<number> {
  const wanted = new Set<string>();
  for (const [id, matches] of activities) {
    for (let n = 0; n < count; n += 1) if (matches(n)) wanted.add(runWorkflowIdOf(id, eventIdentity(n)));
  }
  // The list is behind the truth for a moment.
  let counted = 0;
  await until('the server to list every run', 60_000, async () => {
    counted = (await client.workflow.count()).count;
    return counted >= wanted.size;
  }).catch((error: Error) => missed(`${error.message}: ${counted} of ${wanted.size}`));
  const seen = new Set<string>();
  for await (const { workflowId, type } of client.workflow.list({ pageSize: 1_000 })) {
    if (seen.has(workflowId)) missed(`${workflowId} was started twice`);
    if (!wanted.has(workflowId)) missed(`${workflowId} (${type}) should not have been started`);
    seen.add(workflowId);
  }
  for (const workflowId of wanted) if (!seen.has(workflowId)) missed(`${workflowId} was not started`);
  return seen.size;
}

/** Dead letters against poison, by their bytes and stage; answers how many there are. */
async function compareDeadLetters(
  sql: postgres.Sql,
  poisons: readonly Poison[],
  missed: (what: string) => void,
): Promise<number> {
  const rows = await sql<{ stage: string; raw: Buffer; event_key: string | null }[]>`
    select stage, raw, event_key from dead_letters where resolved_at is null`;
  const left = new Map<string, number>();
  const keyOf = (stage: string, what: string): string => `${stage} ${what}`;
  for (const { stage, raw, event_key } of rows) {
    const key = keyOf(stage, stage === 'conflict' ? String(event_key) : raw.toString('hex'));
    left.set(key, (left.get(key) ?? 0) + 1);
  }
  for (const { stage, raw, rival } of poisons) {
    const what = rival === undefined ? Buffer.from(raw).toString('hex') : eventKeyOf(eventIdentity(rival));
    const key = keyOf(stage, what);
    const n = left.get(key) ?? 0;
    if (n === 0) missed(`poison is not among the dead letters: ${stage} ${Buffer.from(raw).toString().slice(0, 80)}`);
    else if (n === 1) left.delete(key);
    else left.set(key, n - 1);
  }
  for (const [key, n] of left) missed(`${n} dead letters too many: ${key.slice(0, 120)}`);
  return rows.length;
}

interface Execution {
  readonly sql: postgres.Sql;
  readonly env: Readonly<Record<string, string>>;
  readonly home: string;
  readonly wanted: number;
  readonly missed: (what: string) => void;
}

/** Lets a real orchestrator, without the bus, execute some of the runs; answers how many rows it closed. */
async function execute({ sql, env, home, wanted, missed }: Execution): Promise<number> {
  const { NATS_URL: _, ...others } = env;
  const settings = { ...others, MILKRUN_HOME: home, METRICS_PORT: '0', TEMPORAL_CONFIG_FILE: '' };
  const orchestrator = await startChildProcess([MAIN, 'orchestrator'], { env: settings });
  try {
    const closed = async (): Promise<number> => {
      if (orchestrator.hasEnded()) throw new Error(`the orchestrator has ended: ${orchestrator.said()}`);
      const [row] = await sql`select count(*)::int as n from activity_runs where finished_at is not null`;
      return row?.n as number;
    };
    await until('runs to be executed', STALLED_MS, async () => (await closed()) >= wanted);
    const wrong = await sql`select status, count(*)::int as n from activity_runs
      where finished_at is not null and status <> 'succeeded' group by 1`;
    for (const { status, n } of wrong) missed(`${n} runs are ${status}`);
    return await closed();
  } finally {
    await orchestrator.kill('SIGKILL');
  }
}
