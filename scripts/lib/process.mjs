// Child processes: found on PATH, run to their end with a time limit, or run in our place with signals passed on.
import { spawn } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { constants as os } from 'node:os';
import { delimiter, join } from 'node:path';

export const exe = process.platform === 'win32' ? '.exe' : '';
const windows = process.platform === 'win32';
const OUTPUT_CHARS_MAX = 64 * 1024;
const SAME_SIGNAL_MS = 500;
const PARENT_WATCH_MS = 1_000;

/** @param {string} path */
export function runnable(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** @param {string} name @param {string | undefined} path */
export function onPath(name, path = process.env.PATH) {
  return (path ?? '')
    .split(delimiter)
    .filter((dir) => dir !== '')
    .map((dir) => join(dir, name + exe))
    .find(runnable);
}

/**
 * Runs a program to its end. Dies with us: a SIGINT or SIGTERM that ends us ends it first.
 * @param {string} program
 * @param {string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, timeoutMs?: number, show?: boolean }} [options] `show`: output goes to stderr
 * @returns {Promise<{ code: number, output: string }>} 127 when it cannot be started, 124 on time-out
 */
export function run(program, args, { cwd, env, timeoutMs = 600_000, show = false } = {}) {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      ...(cwd === undefined ? {} : { cwd }),
      env: env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
      shell: windows,
    });
    let output = '';
    let timedOut = false;
    /** @param {Buffer} chunk */
    const take = (chunk) => {
      if (show) process.stderr.write(chunk);
      output = (output + chunk.toString('utf8')).slice(-OUTPUT_CHARS_MAX);
    };
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    /** @param {NodeJS.Signals} signal */
    const stop = (signal) => {
      child.kill(signal);
      process.exit(128 + os.signals[signal]);
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
    /** @param {number} code */
    const end = (code) => {
      clearTimeout(timer);
      process.removeListener('SIGINT', stop);
      process.removeListener('SIGTERM', stop);
      resolve({ code, output });
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('error', (error) => {
      output += String(error);
      end(127);
    });
    child.on('close', (code) => end(timedOut ? 124 : (code ?? 1)));
  });
}

/**
 * Runs a program in our place: it has our terminal, gets our signals, and its exit status becomes ours. We never end
 * before it, so that Ctrl-C lets it drain.
 * @param {string} program
 * @param {string[]} args
 * @param {{ cwd?: string, env: NodeJS.ProcessEnv }} options
 * @returns {Promise<number>} exit status, 128 + signal number when a signal ended it
 */
export function runInOurPlace(program, args, { cwd, env }) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      ...(cwd === undefined ? {} : { cwd }),
      env,
      stdio: 'inherit',
      shell: windows,
    });
    /** @type {Map<string, number>} */
    const passedOn = new Map();
    for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
      process.on(signal, () => {
        // On a terminal Ctrl-C reaches the whole group, the child too: passing it on would make it a second one.
        if (signal === 'SIGINT' && process.stdin.isTTY) return;
        // npm passes signals on as well, so that one request may arrive here twice.
        const now = performance.now();
        if (now - (passedOn.get(signal) ?? Number.NEGATIVE_INFINITY) < SAME_SIGNAL_MS) return;
        passedOn.set(signal, now);
        child.kill(signal);
      });
    }
    // Below npm, whoever kills npm outright means us: what runs in our place must not go on alone.
    const parent = process.ppid;
    const watch = setInterval(() => {
      if (process.ppid === parent) return;
      clearInterval(watch);
      child.kill('SIGTERM');
    }, PARENT_WATCH_MS);
    if (env.npm_lifecycle_event === undefined) clearInterval(watch);
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      clearInterval(watch);
      resolve(code ?? 128 + (signal === null ? 1 : os.signals[signal]));
    });
  });
}
