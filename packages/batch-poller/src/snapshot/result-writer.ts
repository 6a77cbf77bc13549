/**
 * Collects result lines of one poll-step attempt into immutable objects: every 1,000 records, 8 MiB of text or 2 s.
 *
 * One flush at a time, in order. A flush that fails keeps its lines; the failure is thrown once, by whichever of
 * `append`, `flush` and `close` comes next, and the next flush tries the same object again.
 */
import type { Clock } from '@milkrun/core';
import type { SealedObjects, Segment } from './objects.ts';

export interface ResultWriter {
  /**
   * Takes one record as JSON text. Answers a promise only when more than 16 MiB wait to be written: await it before
   * the next poll. Throws an earlier flush's failure; the record is kept nevertheless.
   */
  append(line: string): Promise<void> | undefined;
  /** Resolves once everything appended so far is durable. */
  flush(): Promise<void>;
  /** Flushes, stops the timer and takes no more. Call it in `finally`; after a failure it may be called again. */
  close(): Promise<void>;
}

export interface ResultWriterOptions {
  readonly sealed: SealedObjects;
  readonly clock: Clock;
  readonly batchId: string;
  readonly hop: number;
  readonly attempt: number;
}

const FLUSH_RECORDS = 1_000;
const FLUSH_BYTES = 8 * 1024 * 1024;
const FLUSH_MS = 2_000;
const WAITING_BYTES_MAX = 16 * 1024 * 1024;

export function createResultWriter({ sealed, clock, batchId, hop, attempt }: ResultWriterOptions): ResultWriter {
  let lines: string[] = [];
  let lineBytes = 0;
  const queue: (Segment & { readonly bytes: number })[] = [];
  let waitingBytes = 0;
  let n = 0;
  let running: Promise<void> | undefined;
  let failure: { readonly error: unknown } | undefined;
  let timer: AbortController | undefined;
  let closed = false;

  function cut(): void {
    timer?.abort();
    timer = undefined;
    if (lines.length === 0) return;
    queue.push({ lines, bytes: lineBytes });
    lines = [];
    lineBytes = 0;
  }

  /** Writes the queue to its end; never rejects, a failure is kept for the caller. */
  function drain(): Promise<void> {
    running ??= writeQueue().finally(() => {
      running = undefined;
    });
    return running;
  }

  async function writeQueue(): Promise<void> {
    try {
      for (let next = queue[0]; next !== undefined; next = queue[0]) {
        n = 1 + (await sealed.writeSegment(batchId, 'results', { hop, attempt, n }, next));
        queue.shift();
        waitingBytes -= next.bytes;
      }
    } catch (error) {
      failure = { error };
    }
  }

  function throwFailure(): void {
    const failed = failure;
    failure = undefined;
    if (failed !== undefined) throw failed.error;
  }

  async function drained(): Promise<void> {
    await drain();
    throwFailure();
  }

  async function flush(): Promise<void> {
    cut();
    while (queue.length > 0) {
      failure = undefined;
      await drained();
    }
  }

  function startTimer(): void {
    const started = new AbortController();
    timer = started;
    clock.sleep(FLUSH_MS, started.signal).then(
      () => {
        if (timer !== started) return;
        cut();
        void drain();
      },
      // Cut before its time.
      () => {},
    );
  }

  return {
    append(line) {
      if (closed) throw new Error(`the result writer of ${batchId}, hop ${hop}, attempt ${attempt} is closed`);
      const bytes = Buffer.byteLength(line) + 1;
      lines.push(line);
      lineBytes += bytes;
      waitingBytes += bytes;
      if (lines.length >= FLUSH_RECORDS || lineBytes >= FLUSH_BYTES) {
        cut();
        void drain();
      } else if (timer === undefined) {
        startTimer();
      }
      throwFailure();
      return waitingBytes > WAITING_BYTES_MAX ? drained() : undefined;
    },
    flush,
    async close() {
      closed = true;
      await flush();
    },
  };
}
