/**
 * One process of `milkrun dev`: the same command line in its own process group (Ctrl-C of a terminal reaches only the
 * parent, which then drains in order), its output in a log file, and a channel on which it says that it is ready. When
 * the parent vanishes the channel closes, and the child drains by itself.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Env } from './environment.ts';
import type { RecordedProcess } from './home.ts';
import { startTimeOf } from './identity.ts';

/** What a child says on the channel once it serves. */
export interface Ready {
  readonly type: 'ready';
  /** Further processes it started, to be ended with it. */
  readonly processes?: readonly RecordedProcess[];
  /** Addresses by name, such as `api` or `temporal`. */
  readonly addresses: Readonly<Record<string, string>>;
}

export interface Child {
  readonly name: string;
  readonly ready: Ready;
  readonly processes: readonly RecordedProcess[];
  /** Resolves with how it ended. */
  readonly ended: Promise<string>;
  /** Asks it to drain; after `graceMs` it is killed, and the answer is false. */
  stop(graceMs: number): Promise<boolean>;
}

export interface ChildOptions {
  readonly name: string;
  /** Arguments of `milkrun`. */
  readonly args: readonly string[];
  readonly env: Env;
  readonly home: string;
  readonly readyMs?: number;
  /** Aborted: it is asked to end although it is not ready yet. */
  readonly signal?: AbortSignal;
  /** Told as soon as the process exists. */
  readonly onSpawn: (recorded: RecordedProcess) => void;
}

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url));
const LOG_TAIL = 15;
const STOP_MS = 30_000;

/** Starts the process and resolves when it is ready. Rejects with the end of its log when it is not, or as `signal` says. */
export async function startChild(options: ChildOptions): Promise<Child> {
  const { name, args, env, home, readyMs = 120_000, signal, onSpawn } = options;
  const log = join(home, 'logs', `${name}.log`);
  // The run before keeps one log, for a look at how it ended.
  if (existsSync(log)) renameSync(log, join(home, 'logs', `${name}.previous.log`));
  const output = openSync(log, 'a', 0o600);
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...env },
    detached: true,
    stdio: ['ignore', output, output, 'ipc'],
  });
  closeSync(output);
  const ended = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
    child.once('error', (error) => resolve(error.message));
  });
  const pid = child.pid;
  const own: RecordedProcess | undefined =
    pid === undefined ? undefined : { name, pid, startedAt: startTimeOf(pid) ?? '' };
  if (own !== undefined) onSpawn(own);

  async function stop(graceMs: number): Promise<boolean> {
    if (child.exitCode !== null || child.signalCode !== null) return true;
    child.kill('SIGTERM');
    const grace = new AbortController();
    const gone = await Promise.race([ended.then(() => true), delay(graceMs, false, { signal: grace.signal })]);
    grace.abort();
    if (!gone) child.kill('SIGKILL');
    await ended;
    return gone;
  }

  const timeout = new AbortController();
  const ready = await Promise.race([
    readyMessage(child),
    ended.then((how) => `it ended (${how})`),
    delay(readyMs, `it was not ready after ${readyMs / 1000} s`, { signal: timeout.signal }),
    ...(signal === undefined ? [] : [aborted(signal, timeout.signal)]),
  ]);
  timeout.abort();
  if (ready === undefined) {
    await stop(STOP_MS);
    throw signal?.reason;
  }
  if (typeof ready === 'string') {
    child.kill('SIGKILL');
    throw new Error(`${name} did not start: ${ready}. Its log, ${log}, ends with:\n${tailOf(log)}`);
  }
  for (const process of ready.processes ?? []) onSpawn(process);
  return {
    name,
    ready,
    processes: [...(own === undefined ? [] : [own]), ...(ready.processes ?? [])],
    ended,
    stop,
  };
}

/** Resolves when the signal is aborted, or never when `until` is first. */
function aborted(signal: AbortSignal, until: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', () => resolve(undefined), { once: true, signal: until });
  });
}

function readyMessage(child: ChildProcess): Promise<Ready> {
  return new Promise((resolve) => {
    child.on('message', (message) => {
      if (message !== null && typeof message === 'object' && (message as Ready).type === 'ready')
        resolve(message as Ready);
    });
  });
}

function tailOf(log: string): string {
  return readFileSync(log, 'utf8')
    .trimEnd()
    .split('\n')
    .slice(-LOG_TAIL)
    .map((line) => `  ${line.slice(0, 500)}`)
    .join('\n');
}
