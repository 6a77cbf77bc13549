/** A loop of a worker: one round after the other until it is stopped, with back-off after a round that failed. */
import type { Clock, Log } from '@milkrun/core';

export interface Loop {
  /** Begins; a second call changes nothing. */
  start(): void;
  /** Aborts the round in progress and resolves when it has ended. */
  stop(): Promise<void>;
}

export interface LoopOptions {
  readonly name: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Milliseconds between the end of a good round and the next, unless the round itself answers another number. */
  readonly everyMs: number;
  /** First and longest pause after failures; default 1 s doubling to 30 s. */
  readonly backoff?: { readonly firstMs: number; readonly maxMs: number };
  /** One round. Resolves to the milliseconds until the next, or nothing for `everyMs`. */
  readonly round: (signal: AbortSignal) => Promise<number | undefined>;
}

const BACKOFF = { firstMs: 1_000, maxMs: 30_000 };

export function createLoop({ name, clock, log, everyMs, backoff = BACKOFF, round }: LoopOptions): Loop {
  const stopping = new AbortController();
  let running: Promise<void> | undefined;

  async function run(): Promise<void> {
    const { signal } = stopping;
    let failures = 0;
    while (!signal.aborted) {
      let waitMs: number;
      try {
        waitMs = (await round(signal)) ?? everyMs;
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        waitMs = Math.min(backoff.maxMs, backoff.firstMs * 2 ** Math.min(20, failures - 1));
        const fields = { loop: name, failures, waitMs, error: error instanceof Error ? error.message : String(error) };
        log.warn(fields, 'loop.round_failed');
      }
      if (waitMs > 0) await clock.sleep(waitMs, signal).catch(() => undefined);
    }
  }

  return {
    start() {
      running ??= run();
    },
    async stop() {
      stopping.abort(new Error(`the ${name} loop is stopped`));
      await running;
    },
  };
}
