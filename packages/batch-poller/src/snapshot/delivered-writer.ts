/**
 * Records deliveries durably, each before the next chunk of its lane is sent.
 *
 * What lanes record while a write is in flight goes into the next object together: as many objects as the store takes
 * one after the other, not as many as there are chunks.
 */
import type { DeliveredRecord } from './records.ts';

export interface DeliveredWriter {
  /** Returns when the records are durable. Rejects when they may not be; they are not tried again. */
  record(records: readonly DeliveredRecord[]): Promise<void>;
}

interface Waiting {
  readonly records: readonly DeliveredRecord[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** `store` writes one object; it is never called while it runs. */
export function createDeliveredWriter(store: (records: readonly DeliveredRecord[]) => Promise<void>): DeliveredWriter {
  let waiting: Waiting[] = [];
  let writing = false;

  async function writeWaiting(): Promise<void> {
    writing = true;
    while (waiting.length > 0) {
      const taken = waiting;
      waiting = [];
      try {
        await store(taken.flatMap(({ records }) => records));
        for (const { resolve } of taken) resolve();
      } catch (error) {
        for (const { reject } of taken) reject(error);
      }
    }
    writing = false;
  }

  return {
    record(records) {
      if (records.length === 0) return Promise.resolve();
      return new Promise((resolve, reject) => {
        waiting.push({ records, resolve, reject });
        if (!writing) void writeWaiting();
      });
    },
  };
}
