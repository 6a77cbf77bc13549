/** Where Temporal's command line program is: named by the environment, fetched by bootstrap, or on PATH. */
import { accessSync, constants, readdirSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const TOOLS = fileURLToPath(new URL('../../../.tools/', import.meta.url));
const NAME = process.platform === 'win32' ? 'temporal.exe' : 'temporal';

/** Throws a sentence that names every place looked at. */
export function findTemporalBinary(env: NodeJS.ProcessEnv = process.env): string {
  const named = env.TEMPORAL_CLI_PATH;
  if (named) {
    if (runnable(named)) return named;
    throw new Error(`TEMPORAL_CLI_PATH names ${named}, which is not a program that can be run`);
  }
  const onPath = (env.PATH ?? '').split(delimiter).filter((place) => place !== '');
  const places = [...fetched(), ...onPath.map((place) => join(place, NAME))];
  const found = places.find(runnable);
  if (found !== undefined) return found;
  throw new Error(
    'no Temporal found: set TEMPORAL_ADDRESS (a running server) or TEMPORAL_CLI_PATH (the `temporal` program), ' +
      'or run `npm test` or `npm start` once, which fetches it',
  );
}

/** Newest first by version, so that an upgrade wins over what an earlier bootstrap left behind. */
function fetched(): string[] {
  try {
    return readdirSync(TOOLS)
      .filter((name) => /^temporal-\d[\d.]*(\.exe)?$/.test(name))
      .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
      .map((name) => join(TOOLS, name));
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
