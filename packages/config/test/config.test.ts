import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { CONFIGURATION_DOC, renderConfigurationDoc } from '../src/docs.ts';
import {
  type Config,
  ConfigError,
  type ConfigProblem,
  loadConfig,
  OPTIONS,
  type Process,
  printConfig,
} from '../src/index.ts';

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function fileOf(content: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'milkrun-config-'));
  folders.push(folder);
  const path = join(folder, 'milkrun.yaml');
  writeFileSync(path, content);
  return path;
}

const WORKER = { WORKERDB_URL: 'postgres://u:canary-1@db/workerdb', CONTROL_PLANE_URL: 'http://127.0.0.1:8010' };

const load = (env: Record<string, string> = {}, process: Process = 'dev', file?: string): Config =>
  loadConfig({ env: { TEMPORAL_CONFIG_FILE: '', ...env }, process, ...(file === undefined ? {} : { file }) });

function problemsOf(env: Record<string, string>, process: Process = 'dev', file?: string): readonly ConfigProblem[] {
  try {
    load(env, process, file);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

test('the defaults are those of the reference, and the object is frozen', () => {
  const config = load();
  expect(config).toMatchObject({
    apiPort: 8010,
    enginePort: 8011,
    metricsPort: 9090,
    timerShards: 1,
    dispatchTickMs: 10_000,
    batchSize: 5000,
    pollWidth: 500,
    pollDeadlineMs: 30_000,
    pollAnswerBytes: 1_048_576,
    pollByteBudget: 536_870_912,
    leaseTtlMs: 45_000,
    maxRetryCounter: 3,
    pipelines: 'v2',
    defaultPipeline: 'v2',
    home: '.milkrun',
    objectStore: 'fs:.milkrun/objects',
    temporal: { address: '127.0.0.1:7233', namespace: 'default' },
  });
  expect(config.pollCap).toBeUndefined();
  expect(Object.isFrozen(config)).toBe(true);
});

test('docs/configuration.md is what the options say; `node packages/config/src/docs.ts` writes it', () => {
  expect(readFileSync(CONFIGURATION_DOC, 'utf8')).toBe(renderConfigurationDoc());
});

test.each([
  ['DISPATCH_TICK', '500ms', 'dispatchTickMs', 500],
  ['POLL_DEADLINE', '1m', 'pollDeadlineMs', 60_000],
  ['LEASE_TTL', '1h', 'leaseTtlMs', 3_600_000],
  ['OBJECT_STORE', 'memory:', 'objectStore', 'memory:'],
  ['POLL_BYTE_BUDGET', '1GiB', 'pollByteBudget', 1024 ** 3],
  ['CONTROL_PLANE_URL', 'https://apollo.example/v1/', 'controlPlaneUrl', 'https://apollo.example/v1'],
  ['STATSD_ADDRESS', '[::1]:8125', 'statsdAddress', '[::1]:8125'],
] as const)('%s=%s is read', (name, value, key, wanted) => {
  expect(load({ [name]: value })[key]).toEqual(wanted);
});

test('an s3 store comes with a key', () => {
  const BLOB_KEY = randomBytes(32).toString('base64');
  const OBJECT_STORE = 's3://bkt/a/b/?endpoint=http://127.0.0.1:9000';
  const config = load({ OBJECT_STORE, BLOB_KEY });
  expect(config.objectStore).toBe(OBJECT_STORE);
  expect(config.blobKey?.reveal()).toBe(BLOB_KEY);
});

test.each(['10.1.0.0/16', '127.0.0.1,::1,[::1],fd00::/8', 'api.corp.example,*.lan,build-1_a.internal.'])(
  'OUTBOUND_ALLOW=%s names hosts, addresses and ranges',
  (value) => {
    expect(load({ OUTBOUND_ALLOW: value }).outboundAllow).toBe(value);
  },
);

test('the registry address is not shown', () => {
  expect(printConfig(load({ NPM_REGISTRY: 'https://packages.inside.example/npm/' }))).not.toContain('inside');
});

test.each([
  ['both', {}, ['REGISTRYDB_URL']],
  ['legacy', {}, ['REGISTRYDB_URL']],
  ['legacy', { WORKERDB_URL: '', REGISTRYDB_URL: 'postgres://h/r' }, []],
  ['both', { WORKERDB_URL: '', REGISTRYDB_URL: 'postgres://h/r' }, ['WORKERDB_URL']],
])('a worker of PIPELINES=%s is refused without the databases it needs', (PIPELINES, env, missing) => {
  const problems = problemsOf({ ...WORKER, PIPELINES, ...env }, 'worker');
  expect(problems.map(({ name }) => name)).toEqual(missing);
  if (missing[0] === 'REGISTRYDB_URL') expect(problems[0]?.message).toContain(`--pipelines=${PIPELINES} needs it`);
});

test('BLOB_KEY may lie in a file', () => {
  const key = randomBytes(32).toString('base64');
  expect(load({ BLOB_KEY: `file:${fileOf(`${key}\n`)}` }).blobKey?.reveal()).toBe(key);
  expect(problemsOf({ BLOB_KEY: 'file:/does/not/exist' })[0]?.message).toContain('ENOENT');
});

test.each(['BLOB_KEY', 'PAYLOAD_KEYS'] as const)('%s holds one key or several, in the setting or in files', (name) => {
  const [one, two, three] = Array.from({ length: 3 }, () => randomBytes(32).toString('base64'));
  const config = load({ [name]: `${one}, file:${fileOf(`# the one before\n${two}\n\n${three}\n`)}` });
  expect(config[name === 'BLOB_KEY' ? 'blobKey' : 'payloadKeys']?.reveal()).toBe([one, two, three].join(','));
  expect(problemsOf({ [name]: `${one},short` })[0]?.message).toContain('several separated by commas');
  expect(problemsOf({ [name]: `file:${fileOf('# none\n')}` })).toHaveLength(1);
  expect(problemsOf({ [name]: 'file:/does/not/exist' })[0]?.message).toContain('ENOENT');
});

test.each([
  ['LEASE_TTL', '45'],
  ['LEASE_TTL', '45 s'],
  ['LEASE_TTL', '1.5m'],
  ['LEASE_TTL', '-45s'],
  ['LEASE_TTL', '14999ms'],
  ['POLL_DEADLINE', '61s'],
  ['DISPATCH_TICK', '61s'],
  ['DISPATCH_TICK', '0s'],
  ['BATCH_SIZE', '5001'],
  ['BATCH_SIZE', '0'],
  ['BATCH_SIZE', '1e3'],
  ['BATCH_SIZE', '0x10'],
  ['API_PORT', '65536'],
  ['TIMER_SHARDS', '65'],
  ['DEFAULT_PIPELINE', 'V2'],
  ['PIPELINES', 'v1'],
  ['OBJECT_STORE', 's3:bucket'],
  ['OBJECT_STORE', 's3://u:p@bkt'],
  ['OBJECT_STORE', 'fs:'],
  ['CONTROL_PLANE_URL', 'ftp://x'],
  ['CONTROL_PLANE_URL', 'apollo.example'],
  ['STATSD_ADDRESS', 'localhost'],
  ['STATSD_ADDRESS', 'localhost:99999'],
  ['POLL_ANSWER_LIMIT', '7MiB'],
  ['POLL_BYTE_BUDGET', '499MiB'],
  ['LOG_LEVEL', 'verbose'],
  ['OUTBOUND_ALLOW', '10.0.0.0/33'],
  ['OUTBOUND_ALLOW', '10.0.0/8'],
  ['OUTBOUND_ALLOW', '::1/129'],
  ['OUTBOUND_ALLOW', 'api.corp.example/24'],
  ['OUTBOUND_ALLOW', 'http://api.corp.example'],
  ['OUTBOUND_ALLOW', '10.0.0.1,,10.0.0.2'],
])('%s=%s is refused with its name, value and what is accepted', (name, value) => {
  const problems = problemsOf({ [name]: value });
  expect(problems).toHaveLength(1);
  expect(problems[0]?.name).toBe(name);
  expect(problems[0]?.value).toBeDefined();
  expect(problems[0]?.message).toContain('accepted:');
});

test('every problem is listed at once', () => {
  const problems = problemsOf(
    { LEASE_TTL: '1s', POLL_WIDTH: 'many', MILKRUN_HMOE: 'x', ENGINE_HOST: '0.0.0.0' },
    'worker',
  );
  expect(problems.map(({ name }) => name).toSorted()).toEqual([
    'CONTROL_PLANE_URL',
    'ENGINE_KEY',
    'LEASE_TTL',
    'MILKRUN_HMOE',
    'POLL_WIDTH',
    'WORKERDB_URL',
  ]);
});

const REGISTRY_KEY = Buffer.alloc(32, 7).toString('base64');

test('ENGINE_KEY is needed off loopback, BLOB_KEY with s3, by the engine only', () => {
  for (const host of ['127.0.0.1', '127.0.0.9', 'localhost', '::1'])
    expect(problemsOf({ ENGINE_HOST: host })).toEqual([]);
  expect(problemsOf({ ENGINE_HOST: '0.0.0.0' })[0]).toMatchObject({ name: 'ENGINE_KEY' });
  expect(problemsOf({ ENGINE_HOST: '0.0.0.0', ENGINE_KEY: 'k'.repeat(16) })).toEqual([]);
  expect(problemsOf({ OBJECT_STORE: 's3://bkt' })[0]).toMatchObject({ name: 'BLOB_KEY' });
  expect(problemsOf({ REGISTRYDB_URL: 'postgres://h/r', REGISTRY_KEY, OBJECT_STORE: 's3://bkt' }, 'api')).toEqual([]);
});

test.each([
  ['LEASE_TLL', 'LEASE_TTL'],
  ['LAESE_TTL', 'LEASE_TTL'],
  ['WORKERDB_ULR', 'WORKERDB_URL'],
  ['CONTROL_PLANE_URLS', 'CONTROL_PLANE_URL'],
  ['POLL_DEADLNE', 'POLL_DEADLINE'],
  ['MILKRUN_HOEM', 'MILKRUN_HOME'],
  ['MILKRUN_CONFG', 'MILKRUN_CONFIG'],
])('the misspelt %s is answered with %s', (name, meant) => {
  expect(problemsOf({ [name]: '1' })).toEqual([{ name, message: `there is no such setting; did you mean ${meant}?` }]);
});

test('variables of other programs pass', () => {
  const others = [
    'APP_PORT',
    'API_PORTS',
    'PATH',
    'HOME',
    'LANG',
    'LOG_LEVELS',
    'TEMPORAL_CLI_PATH',
    'MAX_RETRIES',
    'POLL',
    'PGHOST',
  ];
  const known = [
    'DATABASE_URL',
    'NODE_ENV',
    'AWS_REGION',
    'ENGINE',
    'WORKER_ID',
    'STATSD_PORT',
    'REGISTRY_URL',
    'BATCH_SIZES_X',
  ];
  expect(problemsOf(Object.fromEntries([...others, ...known].map((name) => [name, '1'])))).toEqual([]);
});

test('secrets show nowhere: not when printed, inspected or refused', () => {
  const canary = 'canary-secret-0123';
  const env = {
    WORKERDB_URL: `postgres://user:${canary}@db:5432/w`,
    CONTROL_PLANE_URL: 'http://127.0.0.1:8010',
    CONTROL_PLANE_KEY: canary,
    ENGINE_KEY: canary,
    TEMPORAL_API_KEY: canary,
    NATS_URL: `nats://u:${canary}@nats:4222`,
    BLOB_KEY: Buffer.from(canary.padEnd(32)).toString('base64'),
  };
  const config = load(env, 'worker');
  const printed = printConfig(config);
  for (const text of [printed, inspect(config, { depth: 9 }), JSON.stringify(config)])
    expect(text).not.toContain(canary);
  expect(printed).toMatch(/WORKERDB_URL\s+postgres:\/\/\[masked\]@db:5432\/w\s+\(environment\)/);
  expect(printed).toMatch(/ENGINE_KEY\s+\[set\]/);
  expect(config.workerdbUrl?.reveal()).toContain(canary);
  const refused = problemsOf({ WORKERDB_URL: `mysql://u:${canary}@db/x`, BLOB_KEY: canary, ENGINE_KEY: 'short' });
  expect(refused).toHaveLength(3);
  expect(JSON.stringify(refused)).not.toContain(canary);
  expect(JSON.stringify(refused)).not.toContain('short"');
});

test('a YAML file gives settings, and the environment wins', () => {
  const file = fileOf('# ours\nLEASE_TTL: 30s\nbatch_size: 100\nPOLL_WIDTH: 50\nTEMPORAL_NAMESPACE: blue\n');
  const config = load({ POLL_WIDTH: '60', MILKRUN_CONFIG: file });
  expect(config).toMatchObject({ leaseTtlMs: 30_000, batchSize: 100, pollWidth: 60, temporal: { namespace: 'blue' } });
  expect(printConfig(config)).toMatch(/BATCH_SIZE\s+100\s+\(file\)/);
});

test.each([
  ['LEASE_TLL: 30s', 'did you mean LEASE_TTL?'],
  ['LEASE_TTL: [30s]', 'not a list'],
  ['LEASE_TTL: 30s\nlease_ttl: 40s', 'set twice'],
  ['LEASE_TTL: 30s\nLEASE_TTL: 40s', 'unique'],
  ['- LEASE_TTL', 'one mapping'],
  ['LEASE_TTL: "30s', 'quote'],
  ['__proto__: x', 'no such setting'],
  ['LEASE_TTL: 0o55', 'accepted:'],
])('the file %j is refused', (content, message) => {
  const problems = problemsOf({}, 'dev', fileOf(content));
  expect(problems.map((problem) => problem.message).join()).toContain(message);
});

test('a missing file is refused; an empty one is fine', () => {
  expect(problemsOf({}, 'dev', join(tmpdir(), 'milkrun-does-not-exist.yaml'))[0]?.message).toContain('ENOENT');
  expect(problemsOf({}, 'dev', fileOf(''))).toEqual([]);
  expect(problemsOf({}, 'dev', fileOf('# nothing\n'))).toEqual([]);
});

test('A88: a cluster or Temporal Cloud is reached by its own settings and nothing else', () => {
  const temporal = load({
    TEMPORAL_ADDRESS: 'temporal.example:7233',
    TEMPORAL_NAMESPACE: 'prod',
    TEMPORAL_API_KEY: 'k',
  }).temporal;
  expect(temporal).toMatchObject({ address: 'temporal.example:7233', namespace: 'prod' });
  expect(temporal.connectionOptions).toMatchObject({ apiKey: 'k', tls: true });
});

test('each process needs only its own settings', () => {
  expect(problemsOf({}, 'worker').map(({ name }) => name)).toEqual(['WORKERDB_URL', 'CONTROL_PLANE_URL']);
  expect(problemsOf({}, 'api').map(({ name }) => name)).toEqual(['REGISTRYDB_URL', 'REGISTRY_KEY']);
  expect(problemsOf({}, 'poll-function')).toEqual([]);
  expect(problemsOf(WORKER, 'worker')).toEqual([]);
});

test('every setting of the reference has a distinct name and a sentence', () => {
  const options = Object.values(OPTIONS);
  expect(new Set(options.map(({ env }) => env)).size).toBe(options.length);
  for (const { env, about } of options) {
    expect(env).toMatch(/^[A-Z][A-Z_]+$/);
    expect(about, env).toMatch(/\.$/);
  }
});
