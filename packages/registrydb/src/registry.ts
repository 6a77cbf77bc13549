/** registrydb as one thing: opened once by the API, closed at its end. */
import { join } from 'node:path';
import {
  type ActivityStore,
  type Clock,
  type Log,
  noLog,
  type Rng,
  type RouterStore,
  type ScheduleStore,
} from '@milkrun/core';
import { createMigrator } from '@milkrun/migrator';
import { sql } from 'drizzle-orm';
import { type Activities, createActivities } from './activities/definitions.ts';
import { createEventLog, type EventLog } from './activities/event-log.ts';
import { createEventTypes, type EventTypes } from './activities/event-types.ts';
import { createInboxStore } from './activities/inbox.ts';
import { createEventDesk, createRouterStore, type EventDesk } from './activities/routing.ts';
import { createRunStore } from './activities/runs.ts';
import { createScheduleStore } from './activities/scheduling.ts';
import { createTaskStore } from './activities/tasks.ts';
import { type ActivityOperations, createActivityOperations } from './activities/views.ts';
import { createWebhooks, type Webhooks } from './activities/webhooks.ts';
import { type AuditEntry, listAudit } from './audit.ts';
import { type Connections, createConnections } from './connections.ts';
import { openStore, type Store } from './database.ts';
import { createEvents, type Events } from './events.ts';
import { createFeed, type Feed } from './feed.ts';
import { createIdempotency, type Idempotency } from './idempotency.ts';
import { type ApiKeys, createApiKeys } from './keys.ts';
import { type Purged, purge, RETENTION, type Retention } from './purge.ts';
import { createSealer } from './sealing.ts';
import { createStateWriter, type IncomingState, type StoredState } from './state.ts';
import { createTriggers, type Triggers } from './triggers.ts';

export interface RegistryOptions {
  /** PostgreSQL URL. */
  readonly url: string;
  /** 32 bytes or more; the keys for credentials and API keys are derived from it. Losing it loses the credentials. */
  readonly masterKey: Uint8Array;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log?: Log;
  /** False: refuse a schema that is not up to date instead of migrating it. Default true. */
  readonly migrate?: boolean;
  /** True: every stored event goes to the outbox, for a bus; else those alone that activities wait for. */
  readonly publishEvents?: boolean;
  /** Pipeline of new triggers; default v2. */
  readonly pipeline?: 'v2' | 'legacy';
  /** Connections of the pool; default 16. */
  readonly connections?: number;
}

export interface Registry {
  readonly keys: ApiKeys;
  readonly connections: Connections;
  readonly triggers: Triggers;
  readonly feed: Feed;
  readonly activities: Activities;
  /** What the steps of runs ask for. */
  readonly activityRuns: ActivityStore;
  readonly activitySchedules: ScheduleStore;
  readonly activityOperations: ActivityOperations;
  readonly activityRouter: RouterStore;
  readonly eventDesk: EventDesk;
  readonly eventLog: EventLog;
  readonly eventTypes: EventTypes;
  readonly webhooks: Webhooks;
  readonly events: Events;
  readonly idempotency: Idempotency;
  storeState(input: IncomingState): Promise<StoredState>;
  audit(tenantId: string, filter: Parameters<typeof listAudit>[2]): Promise<readonly AuditEntry[]>;
  /** Removes what is past its time; `days` says what is kept for how long instead of the defaults. */
  purge(days?: Partial<Retention>): Promise<Purged>;
  /** How many triggers the tenant has, by what the user is shown. */
  figures(tenantId: string): Promise<{ readonly triggers: number; readonly enabled: number }>;
  /** Throws when the database cannot be reached. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export const registryMigrator = createMigrator({
  database: 'registrydb',
  directory: join(import.meta.dirname, '..', 'migrations'),
  table: 'registry_migrations',
  lock: 7103,
});

/** Opens the registry, migrating it first. Throws SchemaMismatch or the driver's error. */
export async function openRegistry(options: RegistryOptions): Promise<Registry> {
  const { url, masterKey, clock, rng, log = noLog, publishEvents = false } = options;
  const sealer = createSealer(masterKey, rng);
  const store = openStore({ url, connections: options.connections });
  try {
    if (options.migrate === false) await registryMigrator.assertMigrated(store.sql);
    else await registryMigrator.migrate(store.sql);
  } catch (error) {
    await store.sql.end({ timeout: 0 });
    throw error;
  }
  const feed = await createFeed(store);
  return {
    keys: createApiKeys(store, masterKey, clock, rng),
    connections: createConnections({ store, sealer, clock, rng, log }),
    triggers: createTriggers(store, clock, rng, options.pipeline),
    feed,
    activities: createActivities(store, clock, rng),
    activitySchedules: createScheduleStore(store, publishEvents),
    activityOperations: createActivityOperations(store, publishEvents),
    activityRouter: createRouterStore(store, clock, rng),
    eventDesk: createEventDesk(store),
    eventLog: createEventLog(store),
    eventTypes: createEventTypes(store),
    webhooks: createWebhooks(store, sealer, clock, rng),
    activityRuns: createActivityStore(store, publishEvents),
    events: createEvents(store),
    idempotency: createIdempotency(store),
    storeState: createStateWriter(store, publishEvents),
    audit: (tenantId, filter) => listAudit(store.db, tenantId, filter),
    purge: (days = {}) => purge(store, { ...RETENTION, ...days }),
    async figures(tenantId) {
      const [row] = await store.db.execute<{ triggers: string; enabled: string }>(sql`
        select count(*) as triggers, count(*) filter (where enabled) as enabled
        from triggers where tenant_id = ${tenantId} and deleted_at is null`);
      return { triggers: Number(row?.triggers ?? 0), enabled: Number(row?.enabled ?? 0) };
    },
    async ping() {
      await store.db.execute(sql`select 1`);
    },
    async close() {
      await feed.close().catch(() => undefined);
      await store.sql.end({ timeout: 5 });
    },
  };
}

/** What the steps of runs ask for. */
function createActivityStore(store: Store, publishEvents: boolean): ActivityStore {
  return {
    ...createRunStore(store, publishEvents),
    ...createTaskStore(store, publishEvents),
    ...createInboxStore(store),
  };
}

/** What the orchestrator needs of registrydb: no credentials, no keys. */
export interface ActivityRegistry {
  readonly activityRuns: ActivityStore;
  readonly activitySchedules: ScheduleStore;
  readonly activityRouter: RouterStore;
  close(): Promise<void>;
}

/** Opens registrydb for the orchestrator. Throws SchemaMismatch or the driver's error. */
export async function openActivities({
  url,
  clock,
  rng,
  migrate,
  publishEvents = false,
}: Pick<RegistryOptions, 'url' | 'clock' | 'rng' | 'migrate' | 'publishEvents'>): Promise<ActivityRegistry> {
  const store = openStore({ url, connections: undefined });
  try {
    if (migrate === false) await registryMigrator.assertMigrated(store.sql);
    else await registryMigrator.migrate(store.sql);
  } catch (error) {
    await store.sql.end({ timeout: 0 });
    throw error;
  }
  return {
    activitySchedules: createScheduleStore(store, publishEvents),
    activityRouter: createRouterStore(store, clock, rng),
    activityRuns: createActivityStore(store, publishEvents),
    async close() {
      await store.sql.end({ timeout: 5 });
    },
  };
}
