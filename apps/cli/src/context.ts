/** What every command shares: settings, clients, output. */
import { type Config, loadConfig, type Process } from '@milkrun/config';
import { Secret } from '@milkrun/core';
import { readDevFile } from './dev/home.ts';
import { createHttpClient, type HttpClient } from './http-client.ts';
import type { Io } from './io.ts';
import { createProgress } from './progress.ts';

export interface Context {
  readonly io: Io;
  readonly json: boolean;
  /** Throws ConfigError. */
  config(process: Process): Config;
  /** The control plane's API, with the key of MILKRUN_KEY or of a running `milkrun dev`. */
  api(): HttpClient;
  /** The engine's operations API. */
  engine(): HttpClient;
}

export function createContext(io: Io, options: { json?: boolean; config?: string }): Context {
  const config = (process: Process): Config =>
    loadConfig({ env: io.env, process, ...(options.config === undefined ? {} : { file: options.config }) });
  const keyOf = (given: Secret | undefined, fromDev: string | undefined): Secret | undefined =>
    given ?? (fromDev === undefined ? undefined : new Secret(fromDev));
  const json = options.json ?? false;
  const progress = createProgress({ io, json });
  const onItems = (read: number | undefined, limit: number): void => {
    if (read === undefined) progress.clear();
    else progress.show(read, Number.isFinite(limit) ? limit : undefined, `${read} read`);
  };
  return {
    io,
    json,
    config,
    api() {
      const { apiUrl, apiPort, apiKey, home } = config('dev');
      const dev = readDevFile(home);
      const origin = apiUrl ?? dev?.apiUrl ?? `http://127.0.0.1:${apiPort}`;
      // The laptop's key goes to the laptop's server only.
      const ours = apiUrl === undefined || apiUrl === dev?.apiUrl;
      return createHttpClient({ origin, name: 'the API', key: keyOf(apiKey, ours ? dev?.apiKey : undefined), onItems });
    },
    engine() {
      const { engineUrl, enginePort, engineKey, home } = config('dev');
      const dev = readDevFile(home);
      const origin = engineUrl ?? dev?.engineUrl ?? `http://127.0.0.1:${enginePort}`;
      const ours = engineUrl === undefined || engineUrl === dev?.engineUrl;
      return createHttpClient({ origin, name: 'the engine', key: keyOf(engineKey, ours ? dev?.engineKey : undefined) });
    },
  };
}
