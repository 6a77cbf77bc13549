/**
 * Records deliveries durably, each before the next chunk of its lane is sent.
 *
 * What lanes record while a write is in flight goes into the next object together: as many objects as the store can
 * take one after the other, not as many as there are chunks.
 */
import type { SealedObjects } from './objects.ts';
import type { DeliveredRecord } from './records.ts';

export interface DeliveredWriter {
  /** Resolves once the records are durable. Rejects when they may not be; they are not tried again. */
  record(records: readonly DeliveredRecord[]): Promise<void>;
}

export interface DeliveredWriterOptions {
  readonly sealed: SealedObjects;
  readonly batchId: string;
  readonly hop: number;
  readonly attempt: number;
}

interface Waiting {
  readonly lines: readonly string[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export function createDeliveredWriter({ sealed, batchId, hop, attempt }: DeliveredWriterOptions): DeliveredWriter {
  let waiting: Waiting[] = [];
  let writing = false;
  let n = 0;

  async function writeWaiting(): Promise<void> {
    writing = true;
    while (waiting.length > 0) {
      const taken = waiting;
      waiting = [];
      try {
        const lines = taken.flatMap((one) => one.lines);
        n = 1 + (await sealed.writeSegment(batchId, 'delivered', { hop, attempt, n }, { lines }));
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
        waiting.push({ lines: records.map((record) => JSON.stringify(record)), resolve, reject });
        if (!writing) void writeWaiting();
      });
    },
  };
}
