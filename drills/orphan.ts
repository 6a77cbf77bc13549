/**
 * Workers that vanish in the middle of polling, by SIGKILL and by SIGTERM, at the default lease.
 *
 * Real worker processes share PostgreSQL, Temporal, the control plane and the object store. Each worker calls a poll
 * function at an address of its own, so that the drill sees who polls what: a batch is taken over when another worker
 * calls for one of its triggers. Commits are counted by a trigger in the database, whoever makes them.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startApi } from '@milkrun/api';
import { noLog, Secret, systemClock } from '@milkrun/core';
import { type InvokeServer, startInvokeServer } from '@milkrun/poll-runner';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase, startTemporal } from '@milkrun/testkit';
import type { WorkerDb } from '@milkrun/workerdb';
import { inherited, until } from './lib/dev-run.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';
import { openDrillDb } from './lib/workerdb.ts';

const TRIGGERS = 90;
const WIDTH = 6;
const POLL_MS = 1_500;
/** Of a round's triggers, polled by the owner before it is ended. */
const POLLED_FIRST = 12;
const TAKEOVER_S_MAX = 60;
const SIGTERM_S_MAX = 5;
const READY_MS = 120_000;
const DONE_MS = 180_000;
const MAIN = fileURLToPath(new URL('../apps/cli/src/main.ts', import.meta.url));
const KEY = 'engine-key-of-the-drill';

interface Worker {
  readonly name: string;
  readonly child: ChildProcess;
  readonly polls: InvokeServer;
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>;
}

interface Call {
  readonly worker: string;
  readonly triggerId: string;
  readonly at: number;
}

export const drill: Drill = {
  name: 'orphan',
  about: 'A lost worker’s batch is taken over within the lease, a draining one hands over, and nothing commits twice.',
  defaults: { count: 1 },
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-orphan-'));
    const opened = await openDrillDb();
    const temporal = await startTemporal({ own: true });
    const api = await startApi({
      config: {
        apiHost: '127.0.0.1',
        apiPort: 0,
        registrydbUrl: new Secret(await createDatabase(opened.url)),
        registryKey: new Secret(Buffer.alloc(32, 9).toString('base64')),
        controlPlaneKey: new Secret(KEY),
      },
      log: noLog,
      metrics: createMetrics({ prometheus: true, onUnknown: 'throw' }),
      clock: systemClock,
    });
    const actor = { tenantId: 'default', name: 'drill' };
    const calls: Call[] = [];
    const workers: Worker[] = [];
    const takeover: number[] = [];
    const sigterm: number[] = [];
    let violations = 0;
    let tried = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    let started = 0;
    const startWorker = async (): Promise<void> => {
      started += 1;
      const name = `worker-${started}`;
      const polls = await startInvokeServer({
        handler: async (event) => {
          const { trigger } = event as { trigger: { id: string } };
          calls.push({ worker: name, triggerId: trigger.id, at: performance.now() });
          await systemClock.sleep(POLL_MS);
          return { events: [{ key: 'item', occurredAt: '2030-01-01T00:00:00Z', data: 1 }], cursor: 1 };
        },
      });
      const file = join(home, `${name}.log`);
      const output = openSync(file, 'a');
      const child = spawn(process.execPath, [MAIN, 'worker'], {
        env: {
          ...inherited(),
          MILKRUN_HOME: join(home, 'home'),
          WORKERDB_URL: opened.url,
          CONTROL_PLANE_URL: api.url,
          CONTROL_PLANE_KEY: KEY,
          TEMPORAL_ADDRESS: temporal.address,
          TEMPORAL_CONFIG_FILE: '',
          OBJECT_STORE: `fs:${join(home, 'objects')}`,
          POLL_FUNCTION_ENDPOINT: polls.endpoint,
          POLL_WIDTH: String(WIDTH),
          ENGINE_PORT: '0',
          METRICS_PORT: '0',
          DISPATCH_TICK: '1s',
        },
        stdio: ['ignore', output, output, 'ipc'],
      });
      closeSync(output);
      const worker: Worker = { name, child, polls, ended: once(child, 'exit') as Worker['ended'] };
      workers.push(worker);
      const ready = once(child, 'message').then(() => true);
      const gone = worker.ended.then(() => false);
      const late = systemClock.sleep(READY_MS).then(() => false);
      if (!(await Promise.race([ready, gone, late])))
        throw new Error(`${name} did not start:\n${readFileSync(file, 'utf8').slice(-2000)}`);
      log(`${name} is ready`);
    };
    const leave = async (worker: Worker): Promise<void> => {
      workers.splice(workers.indexOf(worker), 1);
      await worker.polls.close();
    };
    try {
      await countCommits(opened.db);
      const connection = await api.registry.connections.create(actor, {
        toolkit: 'drill',
        name: 'drill',
        credentials: { type: 'none' },
      });
      await Promise.all([startWorker(), startWorker()]);
      for (let round = 1; round <= count; round += 1) {
        for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
          const made = await api.registry.triggers.upsertMany(
            actor,
            Array.from({ length: TRIGGERS }, () => ({
              ...{ tags: [], toolkit: 'drill', slug: 'drill', version: '1', config: '{}', connectionId: connection.id },
              ...{ intervalSeconds: 86_400, enabled: true, poll: { dedupe: 'unique' as const, repeatable: true } },
            })),
          );
          const ids = new Set(made.map(({ id }) => id));
          const from = calls.length;
          const own = (): Call[] => calls.slice(from).filter(({ triggerId }) => ids.has(triggerId));
          const polledFirst = POLLED_FIRST + Math.floor(random() * POLLED_FIRST);
          await until('the batch to be polled', READY_MS, async () => own().length >= polledFirst);
          const owner = workers.find(({ name }) => name === own().at(-1)?.worker) as Worker;
          const left = TRIGGERS - own().length;
          if (new Set(own().map(({ worker }) => worker)).size > 1)
            report('two workers polled one batch before anything was done');
          const at = performance.now();
          owner.child.kill(signal);
          log(`${signal} to ${owner.name}, which has polled ${own().length} of ${TRIGGERS}`);
          const taken = (): Call | undefined => own().find(({ worker }) => worker !== owner.name);
          await until('another worker to take over', DONE_MS, async () => taken() !== undefined);
          const seconds = ((taken() as Call).at - at) / 1000;
          (signal === 'SIGKILL' ? takeover : sigterm).push(seconds);
          const most = signal === 'SIGKILL' ? TAKEOVER_S_MAX : SIGTERM_S_MAX;
          if (seconds > most) report(`after ${signal} it took ${seconds.toFixed(1)} s, at most ${most} are allowed`);
          await until(
            'all triggers to be committed',
            DONE_MS,
            async () => (await committed(opened.db, ids)) === TRIGGERS,
          );
          const [code, how] = await owner.ended;
          if (signal === 'SIGTERM' && code !== 0) report(`${owner.name} ended with ${code ?? how} on SIGTERM`);
          tried += left;
          log(`taken over after ${seconds.toFixed(1)} s, ${left} triggers were left`);
          await leave(owner);
          await startWorker();
        }
      }
      const [twice] = await opened.db.sql<{ n: number; commits: number }[]>`
        select count(*) filter (where n > 1)::int as n, sum(n)::int as commits from (select count(*) as n from drill.commits group by trigger_id, epoch) x`;
      if (twice?.n !== 0) report(`${twice?.n} epochs of a row were committed twice`);
      const events = await api.registry.figures(actor.tenantId);
      const stored = await api.registry.events.list(actor.tenantId, { limit: 2 * TRIGGERS * 2 * count });
      if (stored.length !== events.triggers) report(`${stored.length} events are stored for ${events.triggers} items`);
      return {
        tried,
        violations,
        faults: takeover.length + sigterm.length,
        takeoverSeconds: rounded(Math.max(...takeover)),
        sigtermSeconds: rounded(Math.max(...sigterm)),
        commits: twice?.commits ?? 0,
        committedTwice: twice?.n ?? 0,
      };
    } finally {
      for (const worker of workers.splice(0)) {
        worker.child.kill('SIGKILL');
        await worker.ended;
        await worker.polls.close();
      }
      await api.close();
      await temporal.stop();
      await opened.close();
      await rm(home, { recursive: true, force: true });
    }
  },
};

const rounded = (seconds: number): number => Number(seconds.toFixed(1));

async function countCommits(db: WorkerDb): Promise<void> {
  await db.sql.unsafe(`
    create schema drill;
    create table drill.commits (trigger_id uuid not null, epoch integer not null);
    create function drill.record() returns trigger language plpgsql as $$
    begin
      insert into drill.commits select n.trigger_id, n.last_committed_epoch from was o join became n on n.trigger_id = o.trigger_id
      where o.lease_owner is not null and n.lease_owner is null and n.last_polled_at is distinct from o.last_polled_at;
      return null;
    end $$;
    create trigger ledger after update on polling_trigger_runs referencing old table as was new table as became
      for each statement execute function drill.record()`);
}

async function committed(db: WorkerDb, ids: ReadonlySet<string>): Promise<number> {
  const [row] = await db.sql<{ n: number }[]>`
    select count(*)::int as n from polling_trigger_runs where last_ok_at is not null and trigger_id = any (${[...ids]})`;
  return row?.n ?? 0;
}
