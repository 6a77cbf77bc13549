/**
 * Runs on a real Temporal server and a real registrydb, each scene with task queues and a database of its own. HTTP is a
 * real server on this machine; what it answers and how often it is asked is the test's.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { noLog, noMetrics, systemClock, systemRng, uuidv7 } from '@milkrun/core';
import { openRegistry, type Registry } from '@milkrun/registrydb';
import { createDatabase } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import postgres from 'postgres';
import { inject } from 'vitest';
import {
  ACTIVITY_ID,
  ACTIVITY_WORKFLOWS,
  createRunSteps,
  createTaskSteps,
  type DefinitionInput,
  eventKeyOf,
  OutboundFailed,
  type OutboundHttp,
  parseDefinition,
  type RunDeps,
  type RunTrigger,
  runWorkflowIdOf,
  scheduleIdOf,
  storedDefinitionOf,
} from '../src/index.ts';

const logger = new DefaultLogger('ERROR', () => undefined);
Runtime.install({ logger, telemetryOptions: { logging: { forward: {}, filter: { core: 'ERROR', other: 'ERROR' } } } });

interface Answer {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}
interface Asked {
  readonly path: string;
  readonly method: string;
  readonly key: string | undefined;
  readonly body: unknown;
}

type Steps = Record<string, (...given: never[]) => Promise<unknown>>;

export interface ServerOptions {
  /** Stands between Temporal and the steps. */
  readonly wrap?: (steps: Steps) => Steps;
}

/** One database and one pair of workers for all scenes of a file: those are what takes time. A scene has its own tenant. */
export async function openServer(address: string, { wrap = (steps) => steps }: ServerOptions = {}) {
  const connection = await Connection.connect({ address });
  const native = await NativeConnection.connect({ address });
  const client = new Client({ connection, identity: 'test' });
  await connection.operatorService
    .addSearchAttributes({ namespace: 'default', searchAttributes: { [ACTIVITY_ID]: 2 } })
    .catch((error: { code?: number }) => {
      if (error.code !== 6) throw error;
    });
  const workflowsPath = fileURLToPath(new URL('./fixtures/workflows.ts', import.meta.url));
  const workflowBundle = await bundleWorkflowCode({ workflowsPath, logger });
  const url = await createDatabase(inject('pgUrl'));
  const registry = await openRegistry({ url, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng });
  const sql = postgres(url, { max: 2, onnotice: () => {} });
  const queues = {
    runs: `runs-${uuidv7(systemClock, systemRng)}`,
    tasks: `tasks-${uuidv7(systemClock, systemRng)}`,
  };
  const deps: RunDeps = {
    store: registry.activityRuns,
    client,
    http: plainHttp,
    sql: { has: () => false, query: async () => [] },
    clock: systemClock,
    rng: systemRng,
    log: noLog,
    metrics: noMetrics,
    taskQueue: queues.tasks,
  };
  const shared = { connection: native, workflowBundle, shutdownGraceTime: 100, shutdownForceTime: 2_000 };
  const workers = await Promise.all([
    Worker.create({ ...shared, taskQueue: queues.runs, activities: wrap({ ...createRunSteps(deps) }) }),
    Worker.create({ ...shared, taskQueue: queues.tasks, activities: wrap({ ...createTaskSteps(deps) }) }),
  ]);
  const ended = workers.map((worker) => worker.run().catch(() => undefined));
  return {
    client,
    scene: (options: SceneOptions = {}) => openScene({ client, registry, sql, queues, options }),
    async close() {
      for (const worker of workers) worker.shutdown();
      await Promise.all(ended);
      await sql.end();
      await registry.close();
      await connection.close();
      await native.close();
    },
  };
}

export interface SceneOptions {
  readonly answer?: (asked: Asked) => Answer | Promise<Answer>;
}

interface Parts {
  readonly client: Client;
  readonly registry: Registry;
  readonly sql: postgres.Sql;
  readonly queues: { readonly runs: string; readonly tasks: string };
  readonly options: SceneOptions;
}

async function openScene({ client, registry, sql, queues, options }: Parts) {
  const tenantId = `t-${uuidv7(systemClock, systemRng)}`;
  await registry.keys.ensureTenant(tenantId, 'Scene');
  const actor = { tenantId, name: 'test' };
  const asked: Asked[] = [];
  const defined: string[] = [];
  const server = createServer(async (request, response) => {
    const one = await readAsked(request);
    asked.push(one);
    const { status, body, headers } = await (options.answer?.(one) ?? { status: 200, body: {} });
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(body === undefined ? '' : JSON.stringify(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  return {
    sql,
    registry,
    actor,
    client,
    asked,
    origin,
    defined,
    update: (id: string, definition: DefinitionInput) =>
      registry.activities.update(actor, id, storedDefinitionOf(parseDefinition(definition))),
    queues,
    async define(definition: DefinitionInput) {
      const view = await registry.activities.create(actor, storedDefinitionOf(parseDefinition(definition)));
      defined.push(view.id);
      return view;
    },
    /** Stores an event as the router does, and starts the run of an activity for it. */
    async start(
      activityId: string,
      data: unknown = {},
      over: Partial<RunTrigger> & { id?: string; subject?: string; hops?: number } = {},
    ) {
      const { id = `e-${uuidv7(systemClock, systemRng)}`, subject, hops, ...trigger } = over;
      const event = { source: '/test', id };
      const key = eventKeyOf(event);
      const record = {
        specversion: '1.0',
        ...event,
        type: 'test.event',
        ...(subject ? { subject } : {}),
        ...(hops ? { hops } : {}),
        data,
      };
      await sql`insert into activity_events (tenant_id, key, source, id, type, origin, record)
        values (${tenantId}, ${key}, ${event.source}, ${id}, 'test.event', 'bus', ${JSON.stringify(record)}) on conflict do nothing`;
      return client.workflow.start(ACTIVITY_WORKFLOWS.run, {
        workflowId: runWorkflowIdOf(activityId, event),
        taskQueue: queues.runs,
        workflowIdReusePolicy: 'REJECT_DUPLICATE',
        args: [activityId, { origin: 'event', eventKey: key, version: null, ...trigger }],
      });
    },
    runs: () => sql`select * from activity_runs where tenant_id = ${tenantId} order by fired_at, run_id`,
    tasks: () => sql`
      select t.* from activity_tasks t join activity_runs r using (run_id)
      where t.tenant_id = ${tenantId} order by r.fired_at, r.run_id, t.position`,
    outbox: () => sql`select record from activity_outbox where tenant_id = ${tenantId} order by seq`,
    async close() {
      server.closeAllConnections();
      for (const id of defined) {
        await registry.activities.remove(actor, id).catch(() => undefined);
        await client.schedule
          .getHandle(scheduleIdOf(id))
          .delete()
          .catch(() => undefined);
      }
      server.close();
      for (const { workflow_id } of await sql`
        select workflow_id from activity_runs where tenant_id = ${tenantId} and finished_at is null
        union select workflow_id from activity_tasks
        where tenant_id = ${tenantId} and finished_at is null and workflow_id is not null`) {
        await client.workflow
          .getHandle(workflow_id)
          .terminate()
          .catch(() => undefined);
      }
    },
  };
}

async function readAsked(request: IncomingMessage): Promise<Asked> {
  let text = '';
  for await (const chunk of request.setEncoding('utf8')) text += chunk;
  const { url = '', method = '', headers } = request;
  return {
    path: url,
    method,
    key: headers['idempotency-key'] as string | undefined,
    body: text === '' ? null : JSON.parse(text),
  };
}

/** Without the guard, which would refuse this machine. */
const plainHttp: OutboundHttp = {
  async send({ url, method, headers, body, timeoutMs, signal }) {
    try {
      const answer = await fetch(url, {
        method,
        headers,
        body,
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
      return {
        status: answer.status,
        header: (name) => answer.headers.get(name) ?? undefined,
        body: Buffer.from(await answer.arrayBuffer()),
      };
    } catch (error) {
      throw new OutboundFailed(String(error), true, { cause: error });
    }
  },
};
