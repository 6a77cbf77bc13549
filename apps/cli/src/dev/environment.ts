/** The settings `milkrun dev` gives to the processes it starts; whatever the user has set wins. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Config, shownConfig } from '@milkrun/config';
import type { DevFile } from './home.ts';

export type Env = Readonly<Record<string, string | undefined>>;

export interface Servers {
  readonly workerdbUrl: string;
  readonly registrydbUrl: string;
  readonly temporalAddress: string;
  /** Empty: there is none. */
  readonly natsUrl: string;
}

const own = (host: string, port: number): string => `http://${host.includes(':') ? `[${host}]` : host}:${port}`;

/** Addresses a laptop's processes find each other at. */
export function addressesOf(config: Config): { api: string; engine: string; pollFunction: string } {
  return {
    api: own(config.apiHost, config.apiPort),
    engine: config.engineUrl ?? own(config.engineHost, config.enginePort),
    pollFunction: config.pollFunctionEndpoint ?? own(config.pollFunctionHost, config.pollFunctionPort),
  };
}

/** The environment of a child. `base` is ours; empty variables count as not set. */
export function childEnvironment(base: Env, config: Config, keys: DevFile, home: string, servers: Servers): Env {
  const at = addressesOf(config);
  const given: Record<string, string> = {
    WORKERDB_URL: servers.workerdbUrl,
    REGISTRYDB_URL: servers.registrydbUrl,
    TEMPORAL_ADDRESS: servers.temporalAddress,
    ...(servers.natsUrl === '' ? {} : { NATS_URL: servers.natsUrl }),
    CONTROL_PLANE_URL: at.api,
    CONTROL_PLANE_KEY: keys.controlPlaneKey,
    ENGINE_URL: at.engine,
    ENGINE_KEY: keys.engineKey,
    MILKRUN_KEY: keys.apiKey,
    POLL_FUNCTION_ENDPOINT: at.pollFunction,
    OBJECT_STORE: `fs:${join(home, 'objects')}`,
    BLOB_KEY: keys.blobKey,
    REGISTRY_KEY: keys.registryKey,
    DISPATCH_TICK: '2s',
    MILKRUN_HOME: home,
  };
  // What the user's file says is read by the child itself, and must not be hidden by a variable.
  const fromFile = new Set(shownConfig(config).flatMap(({ name, source }) => (source === 'file' ? [name] : [])));
  const env: Record<string, string | undefined> = { ...base };
  for (const [name, value] of Object.entries(given)) {
    if (!fromFile.has(name) && (env[name] === undefined || env[name] === '')) env[name] = value;
  }
  // A poll function named by the user alone is AWS Lambda's, found by region.
  if (base.POLL_FUNCTION && !base.POLL_FUNCTION_ENDPOINT) delete env.POLL_FUNCTION_ENDPOINT;
  return env;
}

/** The package registry of npm's own configuration, for the npm-package connector; undefined when npm does not say. */
export async function npmRegistry(env: Env): Promise<string | undefined> {
  const run = promisify(execFile);
  try {
    const { stdout } = await run('npm', ['config', 'get', 'registry'], {
      env: { ...env },
      timeout: 30_000,
      shell: process.platform === 'win32',
    });
    return /^https?:\/\/\S+$/.exec(stdout.trim())?.[0];
  } catch {
    return undefined;
  }
}
