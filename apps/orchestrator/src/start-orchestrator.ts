/**
 * The orchestrator process: runs and tasks of activities, their schedules, and what the API asks of Temporal.
 *
 * Any number of copies: runs and tasks are shared by Temporal, commands by row locks, and schedules are looked after by
 * whichever copy holds the lock. PostgreSQL or Temporal gone for a while: the process stays, not ready, and goes on.
 */
import { fileURLToPath } from 'node:url';
import {
  ACTIVITY_ID,
  ACTIVITY_QUEUES,
  createRouter,
  createRunSteps,
  createSchedules,
  createTaskSteps,
  drainCommands,
  type ScheduleDeps,
  type SyncResult,
} from '@milkrun/activity-core';
import type { Config } from '@milkrun/config';
import {
  systemClock as clock,
  type Log,
  type NewEvent,
  noLog,
  noMetrics,
  type OutboxEvent,
  systemRng as rng,
  type Secret,
} from '@milkrun/core';
import { createLoop } from '@milkrun/dispatch';
import { openActivities } from '@milkrun/registrydb';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { bundleWorkflows, createDataConverter, openHostProcess } from '@milkrun/worker-host';
import { Client, Connection } from '@temporalio/client';
import { type Bus, openBus } from './jetstream.ts';
import { createOutbound } from './outbound.ts';
import { createSqlReader } from './sql-reader.ts';

interface OrchestratorInput {
  readonly config: Config;
  readonly log: Log;
  readonly metrics: TelemetryMetrics;
  /** False: refuse to start instead of migrating registrydb. */
  readonly migrate: boolean;
}

export interface RunningOrchestrator {
  readonly addresses: Readonly<Record<string, string>>;
  readonly metricsSources: readonly (() => Promise<string>)[];
  /** Rejects when a queue's restart budget is spent. */
  readonly failed: Promise<never>;
  stop(): Promise<void>;
}

const RECONCILE_MS = 60_000;
const OUTBOX_AT_ONCE = 500;
/** Whose events are those that name no tenant. */
const DEFAULT_TENANT = 'default';
const COMMANDS_MS = 1_000;
const KEYWORD = 2;
const ALREADY_EXISTS = 6;

export async function startOrchestrator({
  config,
  log,
  metrics,
  migrate,
}: OrchestratorInput): Promise<RunningOrchestrator> {
  const url = required(config.registrydbUrl, 'REGISTRYDB_URL').reveal();
  const registry = await openActivities({ url, clock, rng, migrate, publishEvents: config.natsUrl !== undefined });
  const dataConverter = createDataConverter(config.payloadKeys);
  const { host, connection, metricsSources, failed } = await openHostProcess({
    temporal: config.temporal,
    dataConverter,
    clock,
    log,
    metrics,
  });
  const client = new Client({ connection, namespace: config.temporal.namespace, dataConverter });
  const http = createOutbound(listIn(config.outboundAllow));
  const sql = createSqlReader(config.sqlConnections);
  const store = registry.activitySchedules;
  const deps = { store: registry.activityRuns, client, http, sql, clock, rng, log, metrics };
  const schedules = createSchedules({ store, client, clock, log, metrics });
  const events = registry.activityRouter;
  const router = createRouter({ store: events, client, log, metrics, eventTypes: config.eventTypes });

  let bus: Bus | undefined;

  /** Wakes the loop of commands before its time. */
  let wake = Promise.withResolvers<void>();
  const changed = new Set<string>();
  const commands = createLoop({
    name: 'activity-commands',
    clock,
    log,
    everyMs: 0,
    async round(signal) {
      const woken = wake;
      for (const activityId of changed) {
        changed.delete(activityId);
        await schedules.syncOne(activityId);
      }
      const done = await drainCommands({ store, client, log });
      if (done > 0) metrics.count('activity.commands', done);
      await Promise.race([woken.promise, clock.sleep(COMMANDS_MS, signal)]);
      return undefined;
    },
  });
  /** Without a bus the outbox feeds the router directly; with one it feeds the bus. */
  const outbox = createLoop({
    name: 'activity-outbox',
    clock,
    log,
    everyMs: 0,
    async round(signal) {
      const woken = wake;
      const sent = await events.drainOutbox(
        (event) => (bus === undefined ? routeDirectly(event) : bus.publish(event)),
        OUTBOX_AT_ONCE,
      );
      if (sent < OUTBOX_AT_ONCE) await Promise.race([woken.promise, clock.sleep(COMMANDS_MS, signal)]);
      return undefined;
    },
  });
  const routeDirectly = async ({ tenantId, record }: OutboxEvent): Promise<void> => {
    const raw = Buffer.from(record);
    await router.route({ tenantId, origin: originOf(record), raw, headers: {}, streamSeq: null, tries: 1 });
  };
  const reconcile = createLoop({
    name: 'activity-schedules',
    clock,
    log,
    everyMs: RECONCILE_MS,
    async round() {
      await store.asLeader(async () => {
        await schedules.sync();
        await schedules.recover();
      });
      return undefined;
    },
  });

  const starting = (async () => {
    // Before the first run is taken, so that what fires is what the definitions say.
    await untilAnswered(async () => {
      await ensureSearchAttribute(connection, config.temporal.namespace);
      await store.asLeader(() => schedules.sync());
    }, log);
    const workflowsPath = fileURLToPath(import.meta.resolve('@milkrun/activity-core/workflow'));
    const { codePath } = await bundleWorkflows({ workflowsPath, home: config.home });
    const shared = { workflowBundle: { codePath } };
    await host.start(ACTIVITY_QUEUES.runs, { ...shared, activities: { ...createRunSteps(deps) } });
    await host.start(ACTIVITY_QUEUES.tasks, { ...shared, activities: { ...createTaskSteps(deps) } });
    if (config.natsUrl !== undefined) {
      const url = config.natsUrl;
      bus = await openBus({ url, router, store: events, clock, rng, log, metrics, defaultTenant: DEFAULT_TENANT });
    }
  })();
  const unlisten = await store.listen((activityId) => {
    if (activityId !== null) changed.add(activityId);
    wake.resolve();
    wake = Promise.withResolvers<void>();
  });
  try {
    await starting;
  } catch (error) {
    await closeAll();
    throw error;
  }
  if (config.natsUrl === undefined) log.info({}, 'bus.none_the_outbox_feeds_the_router');
  outbox.start();
  commands.start();
  reconcile.start();

  async function closeAll(): Promise<void> {
    await Promise.all([commands.stop(), reconcile.stop(), outbox.stop()]);
    await bus?.close();
    await host.stopAll();
    await unlisten();
    await Promise.all([http.close(), sql.close(), connection.close()]);
    await registry.close();
  }

  let stopping: Promise<void> | undefined;
  return {
    addresses: {},
    metricsSources,
    failed,
    stop: () => {
      stopping ??= closeAll();
      return stopping;
    },
  };
}

/** `milkrun activities sync`: one pass, orphans included at once. */
export async function syncSchedulesOnce(config: Config, dryRun: boolean): Promise<SyncResult> {
  const url = required(config.registrydbUrl, 'REGISTRYDB_URL').reveal();
  const registry = await openActivities({ url, clock, rng, migrate: false });
  const connection = Connection.lazy(config.temporal.connectionOptions as object);
  try {
    const dataConverter = createDataConverter(config.payloadKeys);
    const client = new Client({ connection, namespace: config.temporal.namespace, dataConverter });
    const deps: ScheduleDeps = { store: registry.activitySchedules, client, clock, log: noLog, metrics: noMetrics };
    return await createSchedules(deps).sync({ dryRun });
  } finally {
    await connection.close();
    await registry.close();
  }
}

/** Temporal away at the start is waited for: the process stays, not ready, and goes on by itself. */
async function untilAnswered(work: () => Promise<void>, log: Log): Promise<void> {
  for (let waitMs = 500; ; waitMs = Math.min(10_000, waitMs * 2)) {
    try {
      return await work();
    } catch (error) {
      log.warn({ error: String(error), waitMs }, 'orchestrator.waiting');
      await clock.sleep(waitMs);
    }
  }
}

/** Registers the attribute by which runs are found; a server that has it already says so. */
async function ensureSearchAttribute(connection: Connection, namespace: string): Promise<void> {
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
  if (customAttributes?.[ACTIVITY_ID] !== undefined) return;
  try {
    await connection.operatorService.addSearchAttributes({ namespace, searchAttributes: { [ACTIVITY_ID]: KEYWORD } });
  } catch (error) {
    if ((error as { code?: number }).code !== ALREADY_EXISTS) throw error;
  }
}

/** Where an event of the outbox came from, by who says to have made it. */
function originOf(record: string): NewEvent['origin'] {
  const { source, type, triggerid } = JSON.parse(record) as { source?: unknown; type?: unknown; triggerid?: unknown };
  if (triggerid !== undefined) return 'poll';
  if (typeof source !== 'string' || typeof type !== 'string') return 'api';
  if (source.startsWith('/webhooks/')) return 'webhook';
  if (type.startsWith('dev.milkrun.')) return 'own';
  return source.startsWith('/activities/') ? 'task' : 'api';
}

const listIn = (text: string | undefined): string[] =>
  (text ?? '').split(',').flatMap((entry) => (entry.trim() === '' ? [] : [entry.trim()]));

function required(value: Secret | undefined, name: string): Secret {
  if (value === undefined) throw new Error(`${name} is not set: the orchestrator needs it`);
  return value;
}
