/**
 * Collects result records and stores them as immutable objects: every 1,000 records, 8 MiB of text, or 2 s.
 *
 * Appending is synchronous and cheap; it waits only when more than 16 MiB are not stored yet. A failure to store surfaces
 * at the next append and at close: pages that cannot be saved must not be polled for.
 */
import type { Clock } from '@milkrun/core';
import type { ResultRecord } from './records.ts';

export interface ResultWriter {
  /** Undefined, or a promise to wait for when too much is waiting. Throws what storing threw. */
  append(record: ResultRecord): Promise<void> | undefined;
  /** Stores what is left and waits for everything. Throws what storing threw. */
  close(): Promise<void>;
}

type Store = (records: readonly ResultRecord[], lines: readonly string[]) => Promise<void>;

const RECORDS_MAX = 1_000;
const TEXT_MAX = 8 * 1024 * 1024;
const WAITING_TEXT_MAX = 16 * 1024 * 1024;
const FLUSH_MS = 2_000;

export function createResultWriter(store: Store, clock: Clock): ResultWriter {
  let records: ResultRecord[] = [];
  let lines: string[] = [];
  let text = 0;
  let waiting = 0;
  /** Aborts the wait for the next flush by age. */
  let aging: AbortController | undefined;
  let failure: { readonly error: unknown } | undefined;
  /** Flushes follow one another: names are numbered in the order of their records. */
  let tail: Promise<void> = Promise.resolve();

  function flush(): Promise<void> {
    aging?.abort(new Error('flushed'));
    aging = undefined;
    if (records.length === 0) return tail;
    const [batch, batchLines, batchText] = [records, lines, text];
    [records, lines, text] = [[], [], 0];
    tail = tail
      .then(() => (failure === undefined ? store(batch, batchLines) : undefined))
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => {
        waiting -= batchText;
      });
    return tail;
  }

  /** Flushes what is waiting once it is old enough, unless something else did before. */
  function age(): void {
    if (aging !== undefined) return;
    aging = new AbortController();
    clock.sleep(FLUSH_MS, aging.signal).then(flush, () => {});
  }

  return {
    append(record) {
      if (failure !== undefined) throw failure.error;
      const line = JSON.stringify(record);
      records.push(record);
      lines.push(line);
      text += line.length;
      waiting += line.length;
      if (records.length >= RECORDS_MAX || text >= TEXT_MAX) void flush();
      else age();
      return waiting > WAITING_TEXT_MAX ? flush() : undefined;
    },
    async close() {
      await flush();
      if (failure !== undefined) throw failure.error;
    },
  };
}
