/** Reads the configuration of one process, once: environment first, then the file, then defaults; refused as a whole. */
import { type ClientConnectConfig, loadClientConnectConfig } from '@temporalio/envconfig';
import { ConfigError, type ConfigProblem } from './config-error.ts';
import { OPTIONS, type Option, type OptionKey, type OptionValues, type Process } from './options.ts';
import { formatDuration, ValueError } from './parsers.ts';
import { type Env, misspeltVariables, readSettingsFile } from './sources.ts';

/** Temporal's own settings (`TEMPORAL_*`, its TOML profiles), read by Temporal's library. */
export interface TemporalConfig {
  readonly address: string;
  readonly namespace: string;
  /** For `NativeConnection.connect` and `Connection.connect`; holds keys, so it is never printed. */
  readonly connectionOptions: ClientConnectConfig['connectionOptions'];
}

export interface Config extends OptionValues {
  readonly process: Process;
  readonly temporal: TemporalConfig;
}

export interface LoadConfigOptions {
  readonly env: Env;
  /** A YAML file; `MILKRUN_CONFIG` names one too. The environment wins over it. */
  readonly file?: string;
  readonly process: Process;
}

export type Source = 'environment' | 'file' | 'default' | 'unset';

interface Given {
  readonly text: string | undefined;
  readonly source: Source;
}

/** How each value of a configuration was given; kept beside it so that configurations stay plain. */
const givenBy = new WeakMap<Config, ReadonlyMap<OptionKey, Given>>();

const POLL_BUDGET_MS = 120_000;
const LEASE_TTL_MIN_MS = 15_000;
const DISPATCH_TICK_MAX_MS = 60_000;

/** A frozen configuration. Throws `ConfigError` with every problem found. */
export function loadConfig({ env, file, process }: LoadConfigOptions): Config {
  const problems = misspeltVariables(env);
  const path = file ?? env.MILKRUN_CONFIG;
  const settings = path === undefined || path === '' ? new Map<string, string>() : readSettingsFile(path, problems);

  const given = new Map<OptionKey, Given>();
  const values: Partial<Record<OptionKey, unknown>> = {};
  for (const [key, option] of Object.entries(OPTIONS) as [OptionKey, Option<unknown>][]) {
    const own = give(option, env, settings);
    given.set(key, own);
    if (own.text === undefined) {
      const needing = needs(key, option, process, give(OPTIONS.pipelines, env, settings).text);
      if (needing !== undefined) {
        problems.push({ name: option.env, message: `${needing} needs it; accepted: ${option.parser.accepts}` });
      }
      continue;
    }
    try {
      values[key] = option.parser.parse(own.text);
    } catch (error) {
      if (!(error instanceof ValueError)) throw error;
      problems.push({ name: option.env, value: shown(option, own.text), message: `accepted: ${error.message}` });
    }
  }
  problems.push(...contradictions(values as Partial<OptionValues>, process));
  const temporal = temporalConfig(env, settings, problems);
  if (problems.length > 0 || temporal === undefined) throw new ConfigError(problems);
  const config = Object.freeze({ ...values, process, temporal }) as unknown as Config;
  givenBy.set(config, given);
  return config;
}

/** Who needs a setting that is missing, for the refusal; undefined when nobody does. */
function needs(key: OptionKey, option: Option<unknown>, process: Process, pipelines = 'v2'): string | undefined {
  if (process === 'worker' && pipelines !== 'v2' && key === 'registrydbUrl')
    return `milkrun worker --pipelines=${pipelines}`;
  if (process === 'worker' && pipelines === 'legacy' && key === 'workerdbUrl') return undefined;
  return option.requiredBy.includes(process) ? `milkrun ${process}` : undefined;
}

/** An empty variable counts as not set, as docker compose writes unset ones. */
function give(option: Option<unknown>, env: Env, settings: ReadonlyMap<string, string>): Given {
  const fromEnv = env[option.env];
  if (fromEnv !== undefined && fromEnv !== '') return { text: fromEnv, source: 'environment' };
  const fromFile = settings.get(option.env);
  if (fromFile !== undefined && fromFile !== '') return { text: fromFile, source: 'file' };
  return option.default === undefined
    ? { text: undefined, source: 'unset' }
    : { text: option.default, source: 'default' };
}

const isLoopback = (host: string): boolean => /^(127(\.\d{1,3}){3}|::1|\[::1\]|localhost)$/.test(host);

/** Settings that are fine alone and wrong together, or fine for a parser and wrong for the engine. */
function contradictions(values: Partial<OptionValues>, process: Process): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const { leaseTtlMs, pollDeadlineMs, dispatchTickMs, pollWidth, pollAnswerBytes, pollByteBudget } = values;
  if (leaseTtlMs !== undefined && leaseTtlMs < LEASE_TTL_MIN_MS) {
    problems.push({
      name: 'LEASE_TTL',
      value: formatDuration(leaseTtlMs),
      message:
        'accepted: at least 15s; it is extended every quarter, and a shorter one would expire in ordinary pauses',
    });
  }
  if (pollDeadlineMs !== undefined && pollDeadlineMs > POLL_BUDGET_MS / 2) {
    problems.push({
      name: 'POLL_DEADLINE',
      value: formatDuration(pollDeadlineMs),
      message: 'accepted: at most 60s, half of the poll step’s budget of 120s',
    });
  }
  if (dispatchTickMs !== undefined && dispatchTickMs > DISPATCH_TICK_MAX_MS) {
    problems.push({ name: 'DISPATCH_TICK', value: formatDuration(dispatchTickMs), message: 'accepted: at most 60s' });
  }
  if (pollWidth !== undefined && pollAnswerBytes !== undefined && pollByteBudget !== undefined) {
    if (pollByteBudget < pollWidth * pollAnswerBytes) {
      const needed = Math.ceil((pollWidth * pollAnswerBytes) / 1024 ** 2);
      problems.push({
        name: 'POLL_BYTE_BUDGET',
        value: `${pollByteBudget} bytes`,
        message: `accepted: at least POLL_WIDTH × POLL_ANSWER_LIMIT = ${needed}MiB; raise it, or lower one of the two`,
      });
    }
  }
  if (process !== 'worker' && process !== 'dev') return problems;
  if (values.engineHost !== undefined && !isLoopback(values.engineHost) && values.engineKey === undefined) {
    problems.push({
      name: 'ENGINE_KEY',
      message: `must be set when ENGINE_HOST (${values.engineHost}) is not loopback`,
    });
  }
  if (values.objectStore?.startsWith('s3://') && values.blobKey === undefined) {
    problems.push({
      name: 'BLOB_KEY',
      message: 'must be set when OBJECT_STORE is an s3 bucket: snapshots are sealed with it',
    });
  }
  return problems;
}

function temporalConfig(
  env: Env,
  settings: ReadonlyMap<string, string>,
  problems: ConfigProblem[],
): TemporalConfig | undefined {
  const merged: Record<string, string> = {};
  for (const [name, value] of [...settings, ...Object.entries(env)]) {
    if (value !== undefined && value !== '') merged[name] = value;
  }
  try {
    const { connectionOptions, namespace } = loadClientConnectConfig({ overrideEnvVars: merged });
    const config = { address: connectionOptions.address ?? '127.0.0.1:7233', namespace: namespace ?? 'default' };
    // Not enumerable: keys inside never reach JSON, a spread or an inspection.
    Object.defineProperty(config, 'connectionOptions', { value: { ...connectionOptions, address: config.address } });
    return Object.freeze(config) as TemporalConfig;
  } catch (error) {
    problems.push({ name: 'TEMPORAL_*', message: (error as Error).message.split('\n')[0] as string });
    return undefined;
  }
}

/** A secret's value for people: an address without its password, anything else not at all. */
function shown(option: Option<unknown>, text: string): string {
  if (option.hidden) return '[set]';
  if (!option.secret) return text.length > 200 ? `${text.slice(0, 200)}…` : text;
  const url = URL.parse(text);
  if (url === null || !text.includes('://')) return '[set]';
  return `${url.protocol}//${url.username === '' && url.password === '' ? '' : '[masked]@'}${url.host}${url.pathname}`;
}

export interface ShownSetting {
  readonly name: string;
  readonly value: string | null;
  readonly source: Source;
  readonly about: string;
}

/** The settings the process reads, masked: for the start-up log and `milkrun config list`. */
export function shownConfig(config: Config): ShownSetting[] {
  const given = givenBy.get(config);
  if (given === undefined) throw new Error('shownConfig takes what loadConfig returned, not a copy of it');
  const own = (Object.entries(OPTIONS) as [OptionKey, Option<unknown>][])
    .filter(([, option]) => option.readBy.includes(config.process))
    .map(([key, option]): ShownSetting => {
      const { text, source } = given.get(key) as Given;
      return { name: option.env, value: text === undefined ? null : shown(option, text), source, about: option.about };
    });
  const { address, namespace } = config.temporal;
  const temporal = (name: string, value: string, about: string): ShownSetting => ({
    name,
    value,
    source: value === '127.0.0.1:7233' || value === 'default' ? 'default' : 'environment',
    about,
  });
  return [
    ...own,
    temporal(
      'TEMPORAL_ADDRESS',
      address,
      'Temporal’s frontend; every TEMPORAL_* setting of Temporal’s own tools works.',
    ),
    temporal('TEMPORAL_NAMESPACE', namespace, 'Temporal’s namespace.'),
  ];
}

/** The same as aligned lines. */
export function printConfig(config: Config): string {
  const rows = shownConfig(config);
  const width = Math.max(...rows.map(({ name }) => name.length));
  return rows.map(({ name, value, source }) => `${name.padEnd(width)}  ${value ?? '-'}  (${source})\n`).join('');
}
