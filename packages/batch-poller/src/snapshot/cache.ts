/**
 * Decoded objects of recent batches: what one step of this process wrote, the next one reads without opening it again.
 *
 * Bounded in batches and in sealed bytes: decoded records take up to eight times their sealed size in memory, so the
 * bound stands for 128 MiB at most. The batch used longest ago leaves first; the one in use always stays.
 */

const BATCHES_MAX = 48;
const SEALED_BYTES_MAX = 16 * 1024 * 1024;

export interface DecodedCache {
  get(batchId: string, object: string): readonly object[] | undefined;
  /** `sealedBytes`: size of the stored object. */
  set(batchId: string, object: string, records: readonly object[], sealedBytes: number): void;
  forget(batchId: string): void;
}

interface Batch {
  readonly objects: Map<string, readonly object[]>;
  bytes: number;
}

export function createDecodedCache(batchesMax = BATCHES_MAX, sealedBytesMax = SEALED_BYTES_MAX): DecodedCache {
  /** In order of use, the latest last. */
  const batches = new Map<string, Batch>();
  let bytes = 0;

  function forget(batchId: string): void {
    bytes -= batches.get(batchId)?.bytes ?? 0;
    batches.delete(batchId);
  }

  function use(batchId: string, batch: Batch): Batch {
    batches.delete(batchId);
    batches.set(batchId, batch);
    return batch;
  }

  return {
    get(batchId, object) {
      const batch = batches.get(batchId);
      return batch === undefined ? undefined : use(batchId, batch).objects.get(object);
    },
    set(batchId, object, records, sealedBytes) {
      const batch = use(batchId, batches.get(batchId) ?? { objects: new Map(), bytes: 0 });
      if (batch.objects.has(object)) return;
      batch.objects.set(object, records);
      batch.bytes += sealedBytes;
      bytes += sealedBytes;
      for (const oldest of batches.keys()) {
        if (oldest === batchId || (batches.size <= batchesMax && bytes <= sealedBytesMax)) break;
        forget(oldest);
      }
    },
    forget,
  };
}
