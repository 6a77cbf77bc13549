/** One engine process of a drill: started behind proxies of its own, armed, and waited for. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { ArmedFault, FailpointReport } from '@milkrun/testkit';
import { SETTINGS } from '../dev-run.ts';
import type { Order } from './worker-main.ts';

const MAIN = fileURLToPath(new URL('worker-main.ts', import.meta.url));

export interface WorkerProcess {
  readonly pid: number;
  /** Resolves with the engine's own API once it is ready; rejects when the process ends before. */
  readonly ready: Promise<string>;
  /** Resolves when the process is gone: its exit code, or the signal's name. */
  readonly gone: Promise<number | string>;
  isGone(): boolean;
  /** The end of what it logged. */
  said(): string;
  arm(fault: ArmedFault): void;
  disarm(id: number): void;
  go(id: number): void;
  /** Called for each report of its failpoints. */
  onReport(listener: (report: FailpointReport) => void): void;
  signal(signal: NodeJS.Signals): void;
  kill(): Promise<void>;
}

export interface WorkerOptions {
  /** Settings of the worker, the whole of them. */
  readonly settings: Readonly<Record<string, string>>;
  readonly logFile: string;
  /** Armed before anything else happens in the process. */
  readonly armed?: readonly ArmedFault[];
  /** Run before it, such as a library that shifts the clock. */
  readonly env?: Readonly<Record<string, string>>;
}

export function spawnWorker({ settings, logFile, armed = [], env = {} }: WorkerOptions): WorkerProcess {
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !SETTINGS.test(name)));
  const log = openSync(logFile, 'a');
  const child: ChildProcess = spawn(process.execPath, [MAIN], {
    env: { ...inherited, ...settings, ...env, TEMPORAL_CONFIG_FILE: '', DRILL_ARMED: JSON.stringify(armed) },
    stdio: ['ignore', log, log, 'ipc', 'pipe'],
  });
  closeSync(log);
  const listeners: ((report: FailpointReport) => void)[] = [];
  let rest = '';
  (child.stdio[4] as Readable).setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) for (const listener of listeners) listener(JSON.parse(line) as FailpointReport);
  });
  // A stopped one, too, ends with the drill.
  const last = (): void => void child.kill('SIGKILL');
  process.once('exit', last);
  let isGone = false;
  const gone = once(child, 'exit').then(([code, signal]) => {
    isGone = true;
    process.removeListener('exit', last);
    return (code ?? signal) as number | string;
  });
  const ready = new Promise<string>((resolve, reject) => {
    child.on('message', (message: { type?: string; addresses?: Record<string, string> }) => {
      if (message.type === 'ready') resolve(message.addresses?.engine as string);
    });
    gone.then((how) => reject(new Error(`the worker ended with ${how} before it was ready; see ${logFile}`)));
  });
  ready.catch(() => {});
  const order = (what: Order): void => {
    if (child.connected) child.send(what, () => {});
  };
  return {
    pid: child.pid as number,
    ready,
    gone,
    isGone: () => isGone,
    said: () => readFileSync(logFile, 'utf8').slice(-3_000),
    arm: (fault) => order({ order: 'arm', fault }),
    disarm: (id) => order({ order: 'disarm', id }),
    go: (id) => order({ order: 'go', id }),
    onReport: (listener) => void listeners.push(listener),
    signal: (signal) => void child.kill(signal),
    async kill() {
      child.kill('SIGKILL');
      await gone;
    },
  };
}
