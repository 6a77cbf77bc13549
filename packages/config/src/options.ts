/**
 * Every setting, as data: environment variable, what is accepted, default, unit, description, secret or not, and which
 * processes need it. The reference in docs, `milkrun config list`, the start-up print and the refusals come from here.
 */
import { readFileSync } from 'node:fs';
import {
  bytes,
  choice,
  databaseUrl,
  duration,
  hostPort,
  hostsAndRanges,
  httpUrl,
  integer,
  natsUrl,
  objectStore,
  type Parser,
  paths,
  sealingKey,
  sealingKeys,
  secret,
  sqlConnections,
  text,
} from './parsers.ts';

export const PROCESSES = ['worker', 'api', 'orchestrator', 'poll-function', 'dev'] as const;
export type Process = (typeof PROCESSES)[number];

export interface Option<T> {
  readonly env: string;
  readonly parser: Parser<T extends undefined ? never : T>;
  readonly default?: string;
  readonly about: string;
  /** Shown as `[set]`, or without its password when it is an address. */
  readonly secret: boolean;
  /** Shown as `[set]` although it is no secret: it tells about the network it is used in. */
  readonly hidden: boolean;
  /** Processes that refuse to start without it. */
  readonly requiredBy: readonly Process[];
  /** Processes that read it. */
  readonly readBy: readonly Process[];
  /** A name so common that a similar variable of another program must not be taken for a misspelling. */
  readonly common: boolean;
}

interface Extra {
  readonly secret?: true;
  readonly hidden?: true;
  readonly common?: true;
  readonly requiredBy?: readonly Process[];
  readonly readBy?: readonly Process[];
}

const make = (env: string, parser: Parser<unknown>, about: string, fallback: string | undefined, extra: Extra) => ({
  env,
  parser,
  about,
  ...(fallback === undefined ? {} : { default: fallback }),
  secret: extra.secret ?? false,
  hidden: extra.hidden ?? false,
  common: extra.common ?? false,
  requiredBy: extra.requiredBy ?? [],
  readBy: extra.readBy ?? PROCESSES,
});

/** A setting with a default always has a value. */
const withDefault = <T>(env: string, parser: Parser<T>, value: string, about: string, extra: Extra = {}): Option<T> =>
  make(env, parser, about, value, extra) as unknown as Option<T>;

const optional = <T>(env: string, parser: Parser<T>, about: string, extra: Extra = {}): Option<T | undefined> =>
  make(env, parser, about, undefined, extra) as unknown as Option<T | undefined>;

const ENGINE = { readBy: ['worker', 'dev'] } as const satisfies Extra;
const HOST = /^[\w.:-]+$/;
const MIB = 1024 ** 2;

/** In the order of the reference. */
export const OPTIONS = {
  // What Milkrun is connected to.
  workerdbUrl: optional('WORKERDB_URL', databaseUrl(), 'The engine’s PostgreSQL database (15 to 18).', {
    secret: true,
    requiredBy: ['worker'],
    readBy: ['worker', 'dev'],
  }),
  registrydbUrl: optional(
    'REGISTRYDB_URL',
    databaseUrl(),
    'The control plane’s PostgreSQL database; the worker needs it for the legacy pipeline only.',
    { secret: true, requiredBy: ['api', 'orchestrator'] },
  ),
  controlPlaneUrl: optional(
    'CONTROL_PLANE_URL',
    httpUrl(),
    'Where the engine finds /triggers/changes, /conn/batch and /state.',
    { requiredBy: ['worker'], readBy: ['worker', 'dev'] },
  ),
  controlPlaneKey: optional(
    'CONTROL_PLANE_KEY',
    secret('a key of at least 16 characters', 16),
    'Bearer key of those three endpoints: the engine sends it, the API accepts it.',
    { secret: true },
  ),
  pollFunction: withDefault(
    'POLL_FUNCTION',
    text('a function name or ARN; {toolkit} stands for the toolkit', /^[\w:{}$./-]{1,256}$/),
    'milkrun-poll',
    'Name or ARN of the poll function; may hold {toolkit} and an alias.',
    ENGINE,
  ),
  pollFunctionEndpoint: optional(
    'POLL_FUNCTION_ENDPOINT',
    httpUrl(),
    'Where the Invoke API answers; AWS Lambda of the region when absent.',
    ENGINE,
  ),
  objectStore: withDefault(
    'OBJECT_STORE',
    objectStore(),
    'fs:.milkrun/objects',
    'Where snapshots of batches lie. A relative path starts from the working directory.',
    ENGINE,
  ),
  blobKey: optional(
    'BLOB_KEY',
    sealingKeys((path) => readFileSync(path, 'utf8')),
    'Keys that wrap the data keys of snapshots; required with s3. AWS credentials come from AWS’s standard chain.',
    { ...ENGINE, secret: true },
  ),
  payloadKeys: optional(
    'PAYLOAD_KEYS',
    sealingKeys((path) => readFileSync(path, 'utf8')),
    'Keys that seal what Temporal keeps of inputs and results. The same in every process; without one it is kept plain.',
    { secret: true, readBy: ['worker', 'orchestrator', 'dev'] },
  ),
  registryKey: optional(
    'REGISTRY_KEY',
    sealingKey((path) => readFileSync(path, 'utf8')),
    'Key of the control plane: seals the credentials of connections and peppers API keys.',
    { secret: true, requiredBy: ['api'], readBy: ['api', 'orchestrator', 'dev'] },
  ),
  npmRegistry: optional(
    'NPM_REGISTRY',
    httpUrl(),
    'Package registry the npm-package connector reads where a trigger names none; `milkrun dev` takes it from npm’s own configuration.',
    { hidden: true, readBy: ['poll-function', 'dev'] },
  ),
  outboundAllow: optional(
    'OUTBOUND_ALLOW',
    hostsAndRanges(),
    'Hosts connectors and activities may call although their addresses are private.',
    { readBy: ['poll-function', 'orchestrator', 'dev'] },
  ),
  sqlConnections: optional(
    'SQL_CONNECTIONS',
    sqlConnections(),
    'PostgreSQL databases that activities may read, by name; every query runs in a read-only transaction.',
    { secret: true, readBy: ['orchestrator', 'dev'] },
  ),
  connectors: optional(
    'CONNECTORS',
    paths(),
    'Modules with connectors of your own, which the local poll function serves beside the built-in ones. A relative path starts from the working directory.',
    { common: true, readBy: ['poll-function', 'dev'] },
  ),
  pollFunctionHost: withDefault(
    'POLL_FUNCTION_HOST',
    text('a host name or address', HOST),
    '127.0.0.1',
    'Interface of the local poll function.',
    { readBy: ['poll-function', 'dev'] },
  ),
  pollFunctionPort: withDefault(
    'POLL_FUNCTION_PORT',
    integer(0, 65_535),
    '8012',
    'Port of the local poll function; 0 takes a free one.',
    { readBy: ['poll-function', 'dev'] },
  ),
  natsUrl: optional(
    'NATS_URL',
    natsUrl(),
    'NATS JetStream that carries events to activities; without it the PostgreSQL outbox feeds them.',
    { secret: true, common: true, readBy: ['api', 'orchestrator', 'dev'] },
  ),
  eventTypes: withDefault(
    'EVENT_TYPES',
    choice('open', 'approved'),
    'open',
    'Whether events are taken whose type was not approved; an approved type’s schema is enforced either way.',
    { readBy: ['api', 'orchestrator', 'dev'] },
  ),
  activityEventDays: withDefault(
    'ACTIVITY_EVENT_DAYS',
    integer(1, 3_650),
    '30',
    'Days for which the events of activities are kept; replay reaches so far.',
    { readBy: ['api', 'dev'] },
  ),
  activityRunDays: withDefault(
    'ACTIVITY_RUN_DAYS',
    integer(1, 3_650),
    '180',
    'Days for which runs that have ended, and their tasks, are kept; so long an event starts no second run.',
    { readBy: ['api', 'dev'] },
  ),
  deadLetterDays: withDefault(
    'DEAD_LETTER_DAYS',
    integer(1, 3_650),
    '90',
    'Days for which dead letters of activities are kept.',
    { readBy: ['api', 'dev'] },
  ),

  // Addresses and ports.
  apiHost: withDefault('API_HOST', text('a host name or address', HOST), '127.0.0.1', 'Interface of the API.', {
    common: true,
    readBy: ['api', 'dev'],
  }),
  apiPort: withDefault('API_PORT', integer(0, 65_535), '8010', 'Port of the API and the console; 0 takes a free one.', {
    common: true,
  }),
  apiUrl: optional('MILKRUN_URL', httpUrl(), 'The API, for client commands; 127.0.0.1:API_PORT when absent.'),
  apiKey: optional('MILKRUN_KEY', secret('a key'), 'API key of client commands; else the one of `milkrun dev`.', {
    secret: true,
  }),
  engineHost: withDefault(
    'ENGINE_HOST',
    text('a host name or address', HOST),
    '127.0.0.1',
    'Interface of the engine’s operations API.',
    { ...ENGINE, common: true },
  ),
  enginePort: withDefault(
    'ENGINE_PORT',
    integer(0, 65_535),
    '8011',
    'Port of the engine’s operations API; 0 takes a free one.',
    { common: true },
  ),
  engineUrl: optional(
    'ENGINE_URL',
    httpUrl(),
    'The engine’s operations API, for the API and client commands; 127.0.0.1:ENGINE_PORT when absent.',
    { common: true },
  ),
  engineKey: optional(
    'ENGINE_KEY',
    secret('a key of at least 16 characters', 16),
    'Bearer key of the engine’s operations API; required when ENGINE_HOST is not loopback.',
    { secret: true },
  ),
  metricsHost: withDefault('METRICS_HOST', text('a host name or address', HOST), '127.0.0.1', 'Interface of /metrics.'),
  metricsPort: withDefault(
    'METRICS_PORT',
    integer(0, 65_535),
    '9090',
    'Port of /metrics; further processes on one machine take the next free one.',
    { common: true },
  ),
  statsdAddress: optional('STATSD_ADDRESS', hostPort(), 'A DogStatsD server; nothing is sent when absent.'),

  // How the engine works.
  timerShards: withDefault(
    'TIMER_SHARDS',
    integer(1, 64),
    '1',
    'Timer shards at the first start; afterwards `milkrun shards set` changes them. More than one when a tick plans over 5,000 rows.',
    ENGINE,
  ),
  dispatchTickMs: withDefault(
    'DISPATCH_TICK',
    duration(100, 3_600_000),
    '10s',
    'Time between two ticks of a timer shard; at most 60s. `milkrun dev` uses 2s.',
    ENGINE,
  ),
  livenessEveryMs: withDefault(
    'LIVENESS_EVERY',
    duration(1_000, 3_600_000),
    '60s',
    'Time between two checks of the liveness invariant; a trigger that is later than a tick and this is a violation. A shard whose workflow task fails for half of it is replaced.',
    ENGINE,
  ),
  silenceFactor: withDefault(
    'SILENCE_FACTOR',
    integer(0, 10_000),
    '20',
    'A trigger that finds nothing for this many of its usual gaps (and an hour) is reported as silent; 0: none is.',
    ENGINE,
  ),
  batchSize: withDefault('BATCH_SIZE', integer(1, 5000), '5000', 'Triggers a batch holds at most.', ENGINE),
  pollWidth: withDefault('POLL_WIDTH', integer(1, 5000), '500', 'Polls at once in one process.', ENGINE),
  pollCap: optional(
    'POLL_CAP',
    integer(1, 1_000_000),
    'Polls at once in all processes together, shared by the live workers.',
    ENGINE,
  ),
  pollDeadlineMs: withDefault(
    'POLL_DEADLINE',
    duration(100, 900_000),
    '30s',
    'Time one poll may take; at most half of the poll step’s budget of 120s.',
    ENGINE,
  ),
  pollAnswerBytes: withDefault(
    'POLL_ANSWER_LIMIT',
    bytes(1024, 6 * MIB, 'bytes, or an integer with KiB or MiB, from 1KiB to 6MiB'),
    '1MiB',
    'Largest answer of the poll function.',
    ENGINE,
  ),
  pollByteBudget: withDefault(
    'POLL_BYTE_BUDGET',
    bytes(MIB, 64 * 1024 * MIB, 'bytes, or an integer with KiB, MiB or GiB, from 1MiB to 64GiB'),
    '512MiB',
    'Memory for answers of one process; at least POLL_WIDTH × POLL_ANSWER_LIMIT.',
    ENGINE,
  ),
  leaseTtlMs: withDefault(
    'LEASE_TTL',
    duration(1, 3_600_000),
    '45s',
    'How long a lease lives without being extended; at least 15s, extended every quarter of it.',
    ENGINE,
  ),
  maxRetryCounter: withDefault(
    'MAX_RETRY_COUNTER',
    integer(0, 10),
    '3',
    'Hops after which a batch commits by force.',
    ENGINE,
  ),
  pipelines: withDefault(
    'PIPELINES',
    choice('v2', 'legacy', 'both'),
    'v2',
    'Pipelines a worker runs; --pipelines wins. legacy and both need REGISTRYDB_URL; legacy alone needs no WORKERDB_URL.',
    { readBy: ['worker', 'dev'] },
  ),
  migrationCodecs: withDefault(
    'MIGRATION_CODECS',
    text('toolkit=exact or toolkit=time, separated by commas', /^[\w.*-]+=(exact|time)(,[\w.*-]+=(exact|time))*$/),
    'npm=exact,http=exact,synthetic=exact',
    'How cursors of a toolkit (* for every other) are carried between pipelines; one without is not moved.',
    { readBy: ['worker', 'dev'] },
  ),
  defaultPipeline: withDefault('DEFAULT_PIPELINE', choice('v2', 'legacy'), 'v2', 'Pipeline of new triggers.', {
    readBy: ['api', 'dev'],
  }),
  workerBuildId: optional(
    'WORKER_BUILD_ID',
    text('letters, digits, dot, dash, underscore', /^[\w.-]{1,255}$/),
    'Pins batches to worker deployments; set in production.',
    { readBy: ['worker', 'orchestrator', 'dev'] },
  ),

  // The process itself.
  home: withDefault('MILKRUN_HOME', text('a path'), '.milkrun', 'Where `milkrun dev` keeps its state.'),
  logLevel: withDefault(
    'LOG_LEVEL',
    choice('debug', 'info', 'warn', 'error', 'silent'),
    'info',
    'Least level logged.',
    {
      common: true,
    },
  ),
  logFormat: withDefault('LOG_FORMAT', choice('json', 'pretty'), 'json', 'JSON lines, or readable ones.', {
    common: true,
  }),
} as const;

export type OptionKey = keyof typeof OPTIONS;
export type OptionValues = {
  readonly [K in OptionKey]: (typeof OPTIONS)[K] extends Option<infer T> ? T : never;
};
