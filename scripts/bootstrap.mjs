// From a fresh clone to a ready machine: packages, the pinned Node, the servers. No dependencies; runs on Node >= 20.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildConsole } from './lib/console.mjs';
import { withLock } from './lib/lock.mjs';
import { exe, run, runnable } from './lib/process.mjs';
import { fetchTool, findTool, sweep, TOOLS } from './lib/tools.mjs';

export const root = fileURLToPath(new URL('..', import.meta.url));
const tools = join(root, '.tools');
const bin = join(root, 'node_modules/.bin');
const stamp = join(root, 'node_modules/.bootstrap');

/** Without the pinned Node (no package for this platform) a system Node of at least this version will do. */
const NODE_FALLBACK_MIN = [22, 22];

const { packageManager: PNPM } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

/** @param {string} version @param {readonly number[]} minimum */
export function atLeast(version, minimum) {
  const parts = version.replace(/^v/, '').split('.').map(Number);
  for (const [i, wanted] of minimum.entries()) {
    const have = parts[i] ?? 0;
    if (have !== wanted) return have > wanted;
  }
  return true;
}

/** What the installed packages depend on; any change means installing again. */
function wantedInstall() {
  const hash = createHash('sha256').update(`${PNPM} ${process.platform} ${process.arch}`);
  for (const file of ['pnpm-lock.yaml', 'pnpm-workspace.yaml']) hash.update(readFileSync(join(root, file)));
  return hash.digest('hex');
}

function installed() {
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === wantedInstall();
}

/** @param {(line: string) => void} log */
async function install(log) {
  const wanted = wantedInstall();
  log(`installing packages with ${PNPM}`);
  // CI=true: pnpm must not ask whether it may replace an earlier node_modules.
  const { code } = await run('npx', ['-y', PNPM, 'install', '--frozen-lockfile', '--reporter=append-only'], {
    cwd: root,
    env: { ...process.env, CI: 'true' },
    timeoutMs: 1_800_000,
    show: true,
  });
  if (code !== 0) {
    throw new Error(
      `the packages could not be installed (pnpm exited with ${code}, its output is above). ` +
        'Check that the npm registry is reachable (npm ping), then run the same command again.',
    );
  }
  writeFileSync(stamp, wanted);
  log('packages installed');
}

/** The Node that runs Milkrun: the pinned one, else a system one that is new enough. */
function findNode() {
  const pinned = join(bin, `node${exe}`);
  if (runnable(pinned)) return pinned;
  if (atLeast(process.version, NODE_FALLBACK_MIN)) return process.execPath;
  throw new Error(
    `the pinned Node is not available for ${process.platform}-${process.arch} and this one is ${process.version}. ` +
      `Install Node ${NODE_FALLBACK_MIN.join('.')} or newer and run the same command again.`,
  );
}

/**
 * Makes everything ready; does nothing that an earlier run has done. Progress goes to stderr, with times.
 * @param {string[]} needed tools wanted, of `TOOLS`
 * @param {{ ownServer?: boolean, optional?: boolean, extras?: string[], console?: boolean }} [options] `ownServer`: a binary is needed
 *   even when the environment names a running server; `optional`: a tool that cannot be had is reported, not an error;
 *   `extras`: further tools, of which the same holds always; `console`: the console is built, too
 * @returns {Promise<{ node: string, env: NodeJS.ProcessEnv }>}
 */
export async function bootstrap(needed, { ownServer = false, optional = false, extras = [], console = false } = {}) {
  const names = [...needed, ...extras];
  if (!atLeast(process.version, [20])) {
    throw new Error(`Milkrun needs Node 20 or newer to start, and this is ${process.version}. See https://nodejs.org`);
  }
  const started = performance.now();
  /** @param {string} line */
  const log = (line) =>
    process.stderr.write(`bootstrap ${((performance.now() - started) / 1000).toFixed(1).padStart(5)} s  ${line}\n`);

  /** @param {string} name */
  const find = (name) => findTool(name, tools, { ownServer });
  const ready = () => installed() && names.every((name) => find(name) !== undefined);

  /** @type {Set<string>} */
  const missing = new Set();
  if (!ready()) {
    await withLock(
      join(tools, 'bootstrap.lock'),
      (holder) => log(`waiting for another bootstrap (process ${holder})`),
      async () => {
        sweep(tools);
        if (!installed()) await install(log);
        for (const name of names) {
          if (find(name) !== undefined) continue;
          log(`fetching ${name}`);
          try {
            await fetchTool(name, { root, tools, node: findNode(), log });
          } catch (error) {
            if (!optional && !extras.includes(name)) throw error;
            missing.add(name);
            log(/** @type {Error} */ (error).message);
          }
        }
        log('ready');
      },
    );
  }

  /** @type {NodeJS.ProcessEnv} */
  const env = {
    ...process.env,
    PATH: bin + delimiter + (process.env.PATH ?? ''),
    DO_NOT_TRACK: '1',
    TURBO_TELEMETRY_DISABLED: '1',
  };
  for (const name of names) {
    const path = missing.has(name) ? undefined : find(name);
    const tool = TOOLS[name];
    if (path && tool !== undefined) env[tool.env] = path;
  }
  const node = findNode();
  if (console) await buildConsole(root, node, log);
  return { node, env };
}
