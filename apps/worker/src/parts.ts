/**
 * What both pipelines are built from: the control plane, the poll function, the slots of the process, Temporal.
 */
import { fileURLToPath } from 'node:url';
import { type BatchLimits, createLocalKeyFile, DEFAULT_LIMITS, PollSlots } from '@milkrun/batch-poller';
import type { Config } from '@milkrun/config';
import { createControlPlane } from '@milkrun/control-plane';
import { type Clock, type ControlPlane, systemClock as clock, type Log, systemRng as rng } from '@milkrun/core';
import type { TemporalClient } from '@milkrun/dispatch';
import { type CodecName, type Codecs, createCodecs } from '@milkrun/migration';
import { createPollRunner, defaultCredentials, type LambdaPollRunner, LOCAL_CREDENTIALS } from '@milkrun/poll-runner';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { createDataConverter, openHostProcess, type WorkerHost } from '@milkrun/worker-host';
import { Client } from '@temporalio/client';
import { createLegacyClient } from './legacy-client.ts';
import type { WrapPort } from './ports.ts';

export interface PartsInput {
  readonly config: Config;
  readonly log: Log;
  readonly metrics: TelemetryMetrics;
  /** For drills: stands between the engine and each of its ports. */
  readonly port?: WrapPort;
}

export interface Parts extends Pick<PartsInput, 'log' | 'metrics'> {
  readonly controlPlane: ControlPlane;
  readonly runner: LambdaPollRunner;
  /** The slots of the whole process, whichever pipeline polls. */
  readonly slots: PollSlots;
  /** The legacy pipeline's, and that of migrations. */
  readonly client: Client;
  /** The engine's, with what a drill has put before it. */
  readonly temporal: TemporalClient;
  readonly host: WorkerHost;
  readonly clock: Clock;
  readonly limits: BatchLimits;
  /** The Temporal SDK's own exposition. */
  readonly metricsSources: readonly (() => Promise<string>)[];
  /** Rejects when a queue's restart budget is spent. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
}

/** What a poll function may take beyond the deadline: Lambda does not stop when we do. */
const FUNCTION_SLACK_S = 5;

export async function createParts({
  config,
  log,
  metrics,
  port = (_, adapter) => adapter,
}: PartsInput): Promise<Parts> {
  const controlPlane = port(
    'controlPlane',
    createControlPlane({
      url: required(config.controlPlaneUrl, 'CONTROL_PLANE_URL'),
      key: config.controlPlaneKey?.reveal() ?? '',
      clock,
      rng,
      metrics,
      log,
    }),
  );
  const runner = port(
    'runner',
    createPollRunner({
      functionName: config.pollFunction,
      region: process.env.AWS_REGION ?? process.env.AWS_DEFAULT_REGION ?? 'us-east-1',
      ...(config.pollFunctionEndpoint === undefined ? {} : { endpoint: config.pollFunctionEndpoint }),
      credentials: config.pollFunctionEndpoint === undefined ? defaultCredentials() : async () => LOCAL_CREDENTIALS,
      width: config.pollWidth,
      answerBytesMax: config.pollAnswerBytes,
      byteBudget: config.pollByteBudget,
      clock,
      metrics,
      log,
    }),
  );
  await refuseSlowFunction(config, runner.readFunctionTimeout.bind(runner), log);
  const dataConverter = createDataConverter(config.payloadKeys);
  const { host, connection, metricsSources, failed } = await openHostProcess({
    temporal: config.temporal,
    dataConverter,
    clock,
    log,
    metrics,
  });
  const { namespace } = config.temporal;
  return {
    controlPlane,
    runner,
    slots: new PollSlots({ width: config.pollWidth, clock }),
    client: createLegacyClient({ connection, namespace, dataConverter }),
    temporal: port('temporal', new Client({ connection, namespace, dataConverter })),
    host,
    clock,
    log,
    metrics,
    limits: { ...DEFAULT_LIMITS, pollDeadlineMs: config.pollDeadlineMs },
    metricsSources,
    failed,
    async close() {
      await runner.close();
      await controlPlane.close();
      await connection.close();
    },
  };
}

export function required<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new Error(`${name} is not set: the worker needs it`);
  return value;
}

export function workflowPath(specifier: string): string {
  return fileURLToPath(import.meta.resolve(specifier));
}

async function refuseSlowFunction(
  config: Config,
  read: (toolkit?: string) => Promise<number | null>,
  log: Log,
): Promise<void> {
  if (config.pollFunction.includes('{toolkit}')) return;
  const seconds = await read().catch(() => null);
  if (seconds === null) {
    log.info({ function: config.pollFunction }, 'poll_function.timeout_unread');
    return;
  }
  const most = config.pollDeadlineMs / 1000 + FUNCTION_SLACK_S;
  if (seconds > most) {
    throw new Error(
      `POLL_FUNCTION ${config.pollFunction} has a time-out of ${seconds} s; accepted: at most POLL_DEADLINE + ${FUNCTION_SLACK_S} s = ${most} s`,
    );
  }
}

/** With WORKER_BUILD_ID set: batches are pinned to their deployment, timer shards follow the newest. */
export function deployment(config: Config) {
  const { workerBuildId } = config;
  if (workerBuildId === undefined) return { activities: {}, batch: {}, timer: {} };
  const options = (defaultVersioningBehavior: 'PINNED' | 'AUTO_UPGRADE') => ({
    workerDeploymentOptions: {
      version: { deploymentName: 'milkrun', buildId: workerBuildId },
      useWorkerVersioning: true as const,
      defaultVersioningBehavior,
    },
  });
  return { activities: options('PINNED'), batch: options('PINNED'), timer: options('AUTO_UPGRADE') };
}

/** A key of this machine, for a store of this machine: settings refuse a bucket without BLOB_KEY. */
export async function ownKey(config: Config): Promise<string> {
  const path = `${config.home}/blob.key`;
  await createLocalKeyFile(path);
  return `file:${path}`;
}

/** `toolkit=codec` pairs of MIGRATION_CODECS. */
export function codecsOf({ migrationCodecs }: Config): Codecs {
  const pairs = migrationCodecs.split(',').map((pair) => pair.split('=') as [string, CodecName]);
  return createCodecs(Object.fromEntries(pairs));
}

/** A call that has begun is over after this. */
export function longestCallSecondsOf({ pollDeadlineMs }: Config): number {
  return pollDeadlineMs / 1000 + FUNCTION_SLACK_S;
}
