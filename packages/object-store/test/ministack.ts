/** ministack, an S3 server in Python, as a real bucket for tests: installed hash-checked into .tools, on loopback only. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@milkrun/core';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const pins = join(root, 'scripts/ministack.txt');
const INSTALL_MS = 300_000;
const START_MS = 60_000;

/** Python 3.10 or newer with pip, or undefined: then nothing of this can run. */
export function findPython(): string | undefined {
  return ['python3', 'python'].find((program) => {
    const check = 'import sys, pip; sys.exit(sys.version_info < (3, 10))';
    return spawnSync(program, ['-c', check], { stdio: 'ignore' }).status === 0;
  });
}

/** Installs what is pinned; by rename, so that neither a kill nor a second run leaves half a library. */
function install(python: string): string {
  const version = /^ministack==([\w.]+)/m.exec(readFileSync(pins, 'utf8'))?.[1];
  const target = join(root, '.tools', `ministack-${version}`);
  if (existsSync(target)) return target;
  mkdirSync(join(root, '.tools'), { recursive: true });
  const draft = mkdtempSync(join(root, '.tools', 'ministack-draft-'));
  try {
    const options = ['-q', '--target', draft, '--only-binary=:all:', '--require-hashes', '-r', pins];
    const pip = spawnSync(python, ['-m', 'pip', 'install', ...options], {
      encoding: 'utf8',
      timeout: INSTALL_MS,
      env: { ...process.env, PIP_DISABLE_PIP_VERSION_CHECK: '1', PIP_NO_INPUT: '1' },
    });
    if (pip.status !== 0) throw new Error(`ministack could not be installed by pip: ${pip.stderr.trim()}`);
    if (!existsSync(target)) renameSync(draft, target);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  return target;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

export interface Ministack {
  /** `http://127.0.0.1:PORT`. */
  readonly endpoint: string;
  stop(): Promise<void>;
}

/** Starts an empty server and waits until it answers. Throws with its output when it does not. */
export async function startMinistack(python: string): Promise<Ministack> {
  const library = install(python);
  const port = await freePort();
  // No worker processes: they would outlive the one that is killed.
  const options = ['--workers', '0', '--bind', `127.0.0.1:${port}`];
  const child = spawn(python, ['-m', 'hypercorn', ...options, 'ministack.app:app'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      PYTHONPATH: library,
      GATEWAY_PORT: String(port),
      SERVICES: 's3',
      // Its MQTT port would listen beside, on every address.
      IOT_MTLS_ENABLED: '0',
      LOG_LEVEL: 'WARNING',
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output = (output + String(chunk)).slice(-4_000);
    });
  }
  const endpoint = `http://127.0.0.1:${port}`;
  const until = systemClock.monotonic() + START_MS;
  while (!(await answers(endpoint))) {
    if (child.exitCode !== null || systemClock.monotonic() > until) {
      await end(child);
      throw new Error(`ministack does not answer on ${endpoint}: ${output}`);
    }
    await systemClock.sleep(50);
  }
  return { endpoint, stop: () => end(child) };
}

async function answers(endpoint: string): Promise<boolean> {
  try {
    return (await fetch(`${endpoint}/_ministack/health`)).ok;
  } catch {
    return false;
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}
