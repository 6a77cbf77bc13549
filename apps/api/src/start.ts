/** Starts the API: opens registrydb (migrating it), makes the first key, listens, purges what is past its time. */
import type { EventTypePolicy } from '@milkrun/activity-core/definitions';
import { type Clock, type Log, type Rng, type Secret, systemRng } from '@milkrun/core';
import { openRegistry, type Registry, type Retention, SCOPES } from '@milkrun/registrydb';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { createEngineClient } from './engine-client.ts';
import { buildServer } from './server.ts';

/** What the API reads of the configuration (a subset of `Config` of @milkrun/config). */
export interface ApiConfig {
  readonly apiHost: string;
  /** 0 takes a free port. */
  readonly apiPort: number;
  readonly registrydbUrl: Secret | undefined;
  /** 32 bytes base64: seals credentials, peppers API keys. */
  readonly registryKey: Secret | undefined;
  /** The engine's key for the three endpoints. */
  readonly controlPlaneKey: Secret | undefined;
  readonly engineUrl?: string | undefined;
  readonly enginePort?: number;
  readonly engineKey?: Secret | undefined;
  /** Set: every event is published. */
  readonly natsUrl?: Secret | undefined;
  /** approved: events of types that were not approved are refused; open when absent. */
  readonly eventTypes?: EventTypePolicy;
  /** Days; defaults of the registry when absent. */
  readonly activityEventDays?: number;
  readonly activityRunDays?: number;
  readonly deadLetterDays?: number;
  /** Pipeline of new triggers; v2 when absent. */
  readonly defaultPipeline?: 'v2' | 'legacy';
  /** The first API key (MILKRUN_KEY): made at start with every scope, for the tenant `default`. */
  readonly apiKey?: Secret | undefined;
}

export interface ApiOptions {
  readonly config: ApiConfig;
  readonly log: Log;
  readonly metrics: TelemetryMetrics;
  readonly clock: Clock;
  readonly rng?: Rng;
  /** False: refuse a schema that is not up to date. Default true. */
  readonly migrate?: boolean;
  /** Folder of the built console; that of this repository when absent. */
  readonly consoleFiles?: string;
}

export interface RunningApi {
  readonly url: string;
  readonly registry: Registry;
  /** Answers waiting readers, finishes what runs, closes the database. */
  close(): Promise<void>;
}

export const FIRST_TENANT = 'default';
const PURGE_EVERY_MS = 3_600_000;

/** Throws an Error that names the setting when one is missing, SchemaMismatch, or the driver's error. */
export async function startApi({
  config,
  log,
  metrics,
  clock,
  rng = systemRng,
  migrate = true,
  consoleFiles,
}: ApiOptions): Promise<RunningApi> {
  const registry = await openRegistry({
    url: required(config.registrydbUrl, 'REGISTRYDB_URL'),
    masterKey: Buffer.from(required(config.registryKey, 'REGISTRY_KEY'), 'base64'),
    clock,
    rng,
    log,
    migrate,
    publishEvents: config.natsUrl !== undefined,
    ...(config.defaultPipeline === undefined ? {} : { pipeline: config.defaultPipeline }),
  });
  const closing = new AbortController();
  const engineUrl = config.engineUrl ?? (config.enginePort ? `http://127.0.0.1:${config.enginePort}` : undefined);
  const engine = createEngineClient(engineUrl, config.engineKey?.reveal());
  try {
    await registry.keys.ensureTenant(FIRST_TENANT, 'Default');
    if (config.apiKey !== undefined) {
      const secret = config.apiKey.reveal();
      await registry.keys.ensure({ secret, tenantId: FIRST_TENANT, name: 'first key', scopes: SCOPES });
    }
    const engineKey = required(config.controlPlaneKey, 'CONTROL_PLANE_KEY');
    const { eventTypes = 'open' } = config;
    const { signal } = closing;
    const app = await buildServer({
      registry,
      engine,
      engineKey,
      clock,
      log,
      metrics,
      eventTypes,
      closing: signal,
      consoleFiles,
    });
    const url = await app.listen({ host: config.apiHost, port: config.apiPort });
    const purging = purgeRegularly(registry, retentionOf(config), clock, log, signal);
    return {
      url,
      registry,
      async close() {
        closing.abort();
        await app.close();
        await purging;
        await engine.close();
        await registry.close();
      },
    };
  } catch (error) {
    await engine.close();
    await registry.close();
    throw error;
  }
}

function required(secret: Secret | undefined, name: string): string {
  if (secret === undefined) throw new Error(`the API needs ${name}`);
  return secret.reveal();
}

function retentionOf({ activityEventDays, activityRunDays, deadLetterDays }: ApiConfig): Partial<Retention> {
  return {
    ...(activityEventDays === undefined ? {} : { activityEvents: activityEventDays }),
    ...(activityRunDays === undefined ? {} : { activityRuns: activityRunDays }),
    ...(deadLetterDays === undefined ? {} : { deadLetters: deadLetterDays }),
  };
}

async function purgeRegularly(
  registry: Registry,
  retention: Partial<Retention>,
  clock: Clock,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const purged = await registry.purge(retention);
      if (Object.values(purged).some((count) => count > 0)) log.info({ ...purged }, 'registry.purged');
    } catch (error) {
      log.warn({ message: (error as Error).message }, 'registry.purge_failed');
    }
    await clock.sleep(PURGE_EVERY_MS, signal).catch(() => undefined);
  }
}
