/** A Node process of a drill's own, killed by it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { inherited } from './dev-run.ts';

export interface ChildProcess {
  readonly pid: number;
  hasEnded(): boolean;
  /** The end of what it said. */
  said(): string;
  /** Resolves when it is gone; also when it was already. */
  kill(signal: NodeJS.Signals): Promise<void>;
}

export interface ChildOptions {
  readonly env: Readonly<Record<string, string>>;
  /** Waits for a line it says; rejects when it ends before. */
  readonly until?: RegExp;
}

export async function startChildProcess(args: readonly string[], { env, until }: ChildOptions): Promise<ChildProcess> {
  const child = spawn(process.execPath, args, {
    env: { ...inherited(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = once(child, 'close').catch(() => undefined);
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
  let said = '';
  const ready = Promise.withResolvers<void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-10_000);
      if (until?.test(said)) ready.resolve();
    });
  }
  void ended.then(() => ready.reject(new Error(`${args.join(' ')} ended with ${child.exitCode}: ${said}`)));
  if (until === undefined) ready.resolve();
  await ready.promise;
  return {
    pid: child.pid as number,
    hasEnded,
    said: () => said,
    async kill(signal) {
      if (!hasEnded()) child.kill(signal);
      await ended;
    },
  };
}
