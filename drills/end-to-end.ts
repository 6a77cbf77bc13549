/**
 * `milkrun dev` as a stranger starts it: what real npm packages published becomes tasks, through trigger, outbox, JetStream,
 * router and definition, one task for each event.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BUS } from '@milkrun/orchestrator';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { type DevRun, freePorts, processesIn, startDev, until } from './lib/dev-run.ts';
import { verdicts } from './lib/fleet-rig.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';

const TYPE = 'dev.milkrun.npm.npm-package';
const SLUG = 'new-release';
const EVENTS_MS_MAX = 240_000;

type Row = Readonly<Record<string, unknown>>;
interface StoredEvent {
  readonly id: string;
  readonly event: { readonly type: string; readonly data: { readonly package: string; readonly version: string } };
}

export const drill: Drill = {
  name: 'end-to-end',
  about: 'What a watched npm package publishes becomes tasks, through trigger, bus and definition, under `npm start`.',
  defaults: { count: 1 },
  async run({ count, log }: DrillInput): Promise<DrillResult> {
    const found = verdicts(log);
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-end-to-end-'));
    // PostgreSQL refuses to run as root, so its own user has to reach the folder.
    await chmod(home, 0o755);
    let dev: DevRun | undefined;
    try {
      const run = await startDev({ home, settings: await freePorts(), log });
      dev = run;
      let events: StoredEvent[] = [];
      let tasks: Row[] = [];
      const startedAt = performance.now();
      await until(`${count} events and a task for each`, EVENTS_MS_MAX, async () => {
        events = (await listOf<StoredEvent>(run, '/events')).filter(({ event }) => event.type === TYPE);
        tasks = await listOf<Row>(run, '/activity-tasks');
        return events.length >= count && tasks.length >= events.length;
      });
      const seconds = (performance.now() - startedAt) / 1000;
      compareTasks(events, tasks, found.missed);
      const runs = await listOf<Row>(run, '/activity-runs');
      const own = runs.filter(({ slug }) => slug === SLUG);
      for (const { run_id, origin, status } of own) {
        if (origin !== 'event' || !['running', 'succeeded'].includes(String(status))) {
          found.missed(`run ${run_id} of origin ${origin} is ${status}`);
        }
      }
      if (own.length < events.length) found.missed(`${own.length} runs for ${events.length} events`);
      const bus = await busOf(home);
      if (bus.messages < events.length)
        found.missed(`${bus.messages} messages were on the stream, ${events.length} events are stored`);
      const code = await run.stop();
      dev = undefined;
      if (code !== 0) found.missed(`milkrun dev ended with ${code} on Ctrl-C`);
      const packages = new Set(events.map(({ event }) => event.data.package)).size;
      return {
        tried: events.length,
        violations: found.count,
        packages,
        runs: own.length,
        tasks: tasks.length,
        busMessages: bus.messages,
        secondsToTasks: Number(seconds.toFixed(1)),
        example: String(tasks[0]?.title),
      };
    } finally {
      await dev?.kill();
      await rm(home, { recursive: true, force: true });
    }
  },
};

/** A task for a person for every version that was stored, and no other. */
function compareTasks(events: readonly StoredEvent[], tasks: readonly Row[], missed: (what: string) => void): void {
  const left = new Map<string, number>();
  for (const { title, mode } of tasks) {
    if (mode !== 'human') missed(`the task "${title}" is for nobody`);
    left.set(String(title), (left.get(String(title)) ?? 0) + 1);
  }
  for (const { event } of events) {
    const title = `Look at ${event.data.package} ${event.data.version}`;
    if (left.get(title) !== 1) missed(`${left.get(title) ?? 0} tasks are called "${title}"`);
    left.delete(title);
  }
  // What was stored between the two lists has its task in the second one alone.
  if (left.size > tasks.length - events.length) missed(`${left.size} tasks are of no event`);
}

async function listOf<T>(run: DevRun, path: string): Promise<T[]> {
  const all: T[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const at: string = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`;
    const page: { items: T[]; next: string | null } = await run.api(`${path}?limit=500${at}`);
    all.push(...page.items);
    cursor = page.next;
  }
  return all;
}

/** What the stream of the run's own NATS server has seen. */
async function busOf(home: string): Promise<{ messages: number }> {
  const [port] = processesIn(join(home, 'nats')).flatMap((line) => / -p (\d+) /.exec(line)?.[1] ?? []);
  if (port === undefined) throw new Error('milkrun dev has no NATS server: run npm test once, which fetches one');
  const connection = await connect({ servers: `nats://127.0.0.1:${port}` });
  try {
    const manager = await jetstreamManager(connection);
    return { messages: (await manager.streams.info(BUS.stream)).state.last_seq };
  } finally {
    await connection.close();
  }
}
