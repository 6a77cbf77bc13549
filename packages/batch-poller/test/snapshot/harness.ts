/** Snapshots over a store in memory whose stored bytes a test can look at and damage. */
import { randomBytes } from 'node:crypto';
import { type KeyProvider, type Log, noMetrics, type ObjectStore, systemClock } from '@milkrun/core';
import { createMemoryObjectStore } from '@milkrun/object-store';
import { createLocalKeys } from '../../src/snapshot/local-keys.ts';
import { createSnapshots, type Snapshots } from '../../src/snapshot/snapshot.ts';

export const BATCH = 'batch-poller:timer-shard:0:0199a6f0-1111-7000-8000-000000000001';

export const keyText = (): string => randomBytes(32).toString('base64');

export interface Harness {
  readonly objects: ObjectStore;
  readonly keys: KeyProvider;
  /** Keys of objects reported as unreadable, in order. */
  readonly reported: string[];
  /** Snapshots that have nothing decoded yet, as another process would. */
  fresh(keys?: KeyProvider): Snapshots;
  /** Stored bytes by key. */
  stored(): Promise<ReadonlyMap<string, Uint8Array>>;
  /** Puts other bytes under a key, which the store itself never does. */
  replace(key: string, bytes: Uint8Array): Promise<void>;
}

export function createHarness(objects: ObjectStore = createMemoryObjectStore()): Harness {
  const keys = createLocalKeys(keyText());
  const reported: string[] = [];
  const log: Log = {
    info: () => {},
    warn: () => {},
    error: (fields, event) => {
      if (event === 'snapshot.unreadable') reported.push(String(fields.key));
    },
  };
  return {
    objects,
    keys,
    reported,
    fresh: (other = keys) => createSnapshots({ objects, keys: other, clock: systemClock, metrics: noMetrics, log }),
    async stored() {
      const all = new Map<string, Uint8Array>();
      for (const key of await objects.list('')) all.set(key, (await objects.get(key)) as Uint8Array);
      return all;
    },
    async replace(key, bytes) {
      await objects.delete(key);
      await objects.putIfAbsent(key, bytes);
    },
  };
}

/** Key in the store of an object of `BATCH`. */
export const at = (object: string, batchId = BATCH): string => `batches/${batchId}/${object}`;
