/** `milkrun dev` as a stranger runs it, in a folder of its own on free ports: started, asked, killed, stopped. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@milkrun/core';
import type { Say } from './types.ts';

const MAIN = fileURLToPath(new URL('../../apps/cli/src/main.ts', import.meta.url));
/** Settings of whoever runs the drill must not reach what it starts; `TEMPORAL_CLI_PATH` is where its server is. */
export const SETTINGS =
  /^(WORKERDB|REGISTRYDB|CONTROL_PLANE|POLL|ENGINE|API|OBJECT_STORE|TEMPORAL(?!_CLI_PATH)|NATS|STATSD|MILKRUN|METRICS|TIMER|DISPATCH|BATCH|LEASE|MAX_RETRY|BLOB|REGISTRY|WORKER|DEFAULT|LOG|NPM_REGISTRY|OUTBOUND)/;
const READY_MS = 180_000;
const POLL_MS = 200;

/**
 * What is killed: every process down to PostgreSQL's and Temporal's; all that are Milkrun's own, which orphans the
 * servers; or the first one alone, whose children then drain by themselves while somebody starts anew.
 */
export const KILLED = ['everything', 'own', 'first'] as const;
type Killed = (typeof KILLED)[number];

export interface DevRun {
  readonly apiUrl: string;
  readonly engineUrl: string;
  /** Seconds from the start to the address of the console, its first data included. */
  readonly readySeconds: number;
  /** Seconds of them for the first data. */
  readonly firstDataSeconds: number;
  api<T = unknown>(path: string, body?: unknown): Promise<T>;
  engine<T = unknown>(path: string): Promise<T>;
  /** Id of a part's process, such as `worker`. */
  pidOf(part: string): number;
  logOf(part: string): string;
  /** kill -9, all at once; answers how many processes there were. */
  kill(what?: Killed): Promise<number>;
  /** Ctrl-C; answers the exit code. */
  stop(): Promise<number | null>;
}

export interface DevOptions {
  readonly home: string;
  /** API_PORT, ENGINE_PORT and the rest, the same for each run in one folder. */
  readonly settings: Readonly<Record<string, string>>;
  readonly fleet?: number;
  readonly log: Say;
}

/** Ports nobody listens on, as settings. */
export async function freePorts(): Promise<Record<string, string>> {
  const servers = ['API_PORT', 'ENGINE_PORT', 'POLL_FUNCTION_PORT', 'METRICS_PORT'].map(
    (setting) => [setting, createServer().listen(0, '127.0.0.1')] as const,
  );
  const settings: Record<string, string> = {};
  for (const [setting, server] of servers) {
    if (!server.listening) await once(server, 'listening');
    settings[setting] = String((server.address() as { port: number }).port);
  }
  for (const [, server] of servers) server.close();
  return settings;
}

/** Starts it and resolves when its console can be opened. Rejects with what it said when it ends before. */
export async function startDev({ home, settings, fleet = 0, log }: DevOptions): Promise<DevRun> {
  const startedAt = performance.now();
  const seconds = (): number => (performance.now() - startedAt) / 1000;
  const child = spawn(process.execPath, [MAIN, 'dev', '--fleet', String(fleet)], {
    env: { ...inherited(), TEMPORAL_CONFIG_FILE: '', MILKRUN_HOME: home, ...settings },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  let engineAt = 0;
  let apiUrl: string | undefined;
  let apiKey = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-20_000);
    if (engineAt === 0 && /^engine /m.test(said)) engineAt = seconds();
    if (apiUrl === undefined) [, apiUrl, apiKey = ''] = /^Open (\S+)\/#key=(\S+)$/m.exec(said) ?? [];
  });
  const ended = once(child, 'exit') as Promise<[number | null]>;
  await until('the console', READY_MS, async () => {
    if (hasEnded(child)) throw new Error(`milkrun dev ended with ${child.exitCode ?? child.signalCode}:\n${said}`);
    return apiUrl !== undefined;
  }).catch(async (error: unknown) => {
    await killAll(treeOf(child.pid as number));
    throw error;
  });
  const readySeconds = seconds();
  log(`milkrun dev is ready after ${readySeconds.toFixed(1)} s`);
  const dev = JSON.parse(readFileSync(join(home, 'dev.json'), 'utf8')) as { engineUrl: string; engineKey: string };
  return {
    apiUrl: apiUrl as unknown as string,
    engineUrl: dev.engineUrl,
    readySeconds,
    firstDataSeconds: readySeconds - engineAt,
    api: (path, body) => ask(`${apiUrl}${path}`, apiKey, body),
    engine: (path) => ask(dev.engineUrl + path, dev.engineKey),
    pidOf(part) {
      const found = recordedIn(home).find(({ name }) => name === part);
      if (found === undefined) throw new Error(`milkrun dev has no ${part}`);
      return found.pid;
    },
    logOf: (part) => readFileSync(join(home, 'logs', `${part}.log`), 'utf8'),
    async kill(what = 'everything') {
      const own = () => recordedIn(home).flatMap(({ name, pid }) => (name === 'temporal' ? [] : [pid]));
      const first = child.pid as number;
      const pids = what === 'everything' ? treeOf(first) : what === 'own' ? own() : [first];
      await killAll(pids);
      await ended;
      return pids.length;
    },
    async stop() {
      if (!hasEnded(child)) child.kill('SIGINT');
      const [code] = await ended;
      return code;
    },
  };
}

/** Our own environment without settings of Milkrun's. */
export function inherited(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !SETTINGS.test(name)));
}

/** Asks again until the answer is true; rejects when it has not become so in time. */
export async function until(what: string, withinMs: number, isSo: () => Promise<boolean>): Promise<void> {
  const giveUp = performance.now() + withinMs;
  while (!(await isSo())) {
    if (performance.now() > giveUp) throw new Error(`waited ${withinMs / 1000} s for ${what} in vain`);
    await systemClock.sleep(POLL_MS);
  }
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null;

async function ask<T>(url: string, key: string, body?: unknown): Promise<T> {
  const answer = await fetch(url, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${text.slice(0, 500)}`);
  return JSON.parse(text) as T;
}

/** Processes whose command line names the folder. */
export function processesIn(home: string): string[] {
  const text = execFileSync('ps', ['-A', '-ww', '-o', 'pid=,args='], { encoding: 'utf8' });
  return text.split('\n').filter((line) => line.includes(home));
}

function recordedIn(home: string): { name: string; pid: number }[] {
  const { processes } = JSON.parse(readFileSync(join(home, 'processes.json'), 'utf8')) as {
    processes: { name: string; pid: number }[];
  };
  return processes;
}

/** Kills the processes and waits until they are gone. */
async function killAll(pids: readonly number[]): Promise<void> {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if ((error as { code?: string }).code !== 'ESRCH') throw error;
    }
  }
  await until('the killed processes to be gone', 30_000, async () => {
    const alive = new Set(processTable().map(([pid]) => pid));
    return pids.every((pid) => !alive.has(pid));
  });
}

function treeOf(root: number): number[] {
  const table = processTable();
  const pids = [root];
  for (const parent of pids) pids.push(...table.flatMap(([pid, ppid]) => (ppid === parent ? [pid] : [])));
  return pids;
}

/** Every process but zombies, with its parent. */
function processTable(): (readonly [pid: number, ppid: number])[] {
  const text = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,stat='], { encoding: 'utf8' });
  return text
    .trim()
    .split('\n')
    .flatMap((line) => {
      const [pid, ppid, state] = line.trim().split(/\s+/);
      return state?.startsWith('Z') ? [] : [[Number(pid), Number(ppid)] as const];
    });
}
