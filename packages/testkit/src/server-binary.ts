/** Where the programs of servers are: named by the environment, fetched by bootstrap, or on PATH. */
import { accessSync, constants, readdirSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const TOOLS = fileURLToPath(new URL('../../../.tools/', import.meta.url));
const EXE = process.platform === 'win32' ? '.exe' : '';

type Env = Readonly<Record<string, string | undefined>>;

/** Throws a sentence that names every place looked at. */
export function findTemporalBinary(env: Env = process.env): string {
  const found = findBinary('temporal', 'TEMPORAL_CLI_PATH', env);
  if (found !== undefined) return found;
  throw new Error(
    'no Temporal found: set TEMPORAL_ADDRESS (a running server) or TEMPORAL_CLI_PATH (the `temporal` program), ' +
      'or run `npm test` or `npm start` once, which fetches it',
  );
}

/** Undefined when there is none: events then reach activities without a bus. */
export function findNatsBinary(env: Env = process.env): string | undefined {
  return findBinary('nats-server', 'NATS_SERVER_PATH', env);
}

function findBinary(name: string, variable: string, env: Env): string | undefined {
  const named = env[variable];
  if (named) {
    if (runnable(named)) return named;
    throw new Error(`${variable} names ${named}, which is not a program that can be run`);
  }
  const onPath = (env.PATH ?? '').split(delimiter).filter((place) => place !== '');
  return [...fetched(name), ...onPath.map((place) => join(place, name + EXE))].find(runnable);
}

/** Newest first by version, so that an upgrade wins over what an earlier bootstrap left behind. */
function fetched(name: string): string[] {
  const form = new RegExp(`^${name}-(\\d[\\d.]*|go|sdk)${EXE === '' ? '' : '\\.exe'}$`);
  try {
    return readdirSync(TOOLS)
      .filter((entry) => form.test(entry))
      .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
      .map((entry) => join(TOOLS, entry));
  } catch {
    return [];
  }
}

function runnable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
