/** Sealed objects of batches over the ObjectStore port: lines in, lines out, under one name each. */
import { type KeyProvider, type Log, type Metrics, type ObjectStore, ObjectTooLarge } from '@milkrun/core';
import pLimit from 'p-limit';
import { decodeLines, encodeLines } from './codec.ts';
import { batchPrefixOf, comparePositions, ENTRIES, objectNameOf, positionOf } from './names.ts';
import type { Stored } from './records.ts';
import { type Purpose, SnapshotUnreadable, seal, unseal } from './seal.ts';

export interface SnapshotDeps {
  readonly objects: ObjectStore;
  readonly keys: KeyProvider;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Lines on their way to an object; sealed once for each name tried, so that a repeated write is known again. */
export interface Segment {
  readonly lines: readonly string[];
  sealed?: Uint8Array;
}

/** All records under one purpose, in (hop, attempt, n, line) order. */
export interface Records<T> {
  readonly records: readonly Stored<T>[];
  /** Keys of objects that could not be used. They are left where they are. */
  readonly unreadable: readonly string[];
}

/** Largest object read; what a batch writes stays far below. */
const OBJECT_BYTES_MAX = 128 * 1024 * 1024;
const READS_AT_ONCE = 4;
/** Names taken by somebody else that a writer steps over before it calls that a fault. */
const TAKEN_NAMES_MAX = 1_000;

export type SealedObjects = ReturnType<typeof createSealedObjects>;

export function createSealedObjects({ objects, keys, metrics, log }: SnapshotDeps) {
  const keyOf = (batchId: string, object: string): string => batchPrefixOf(batchId) + object;

  async function sealLines(batchId: string, object: string, purpose: Purpose, lines: Iterable<string>) {
    return await seal(keys, { batchId, object, purpose }, await encodeLines(lines));
  }

  async function put(batchId: string, object: string, purpose: Purpose, sealed: Uint8Array) {
    const outcome = await objects.putIfAbsent(keyOf(batchId, object), sealed);
    metrics.count('polling.snapshot.puts', 1, { object: purpose });
    if (outcome === 'created') metrics.count('polling.snapshot.bytes', sealed.byteLength, { object: purpose });
    return outcome;
  }

  async function holds(batchId: string, object: string, sealed: Uint8Array): Promise<boolean> {
    const stored = await objects.get(keyOf(batchId, object), OBJECT_BYTES_MAX);
    return stored !== undefined && Buffer.from(stored).equals(sealed);
  }

  /** Values of one object, undefined when there is none. Throws SnapshotUnreadable. */
  async function read(batchId: string, object: string, purpose: Purpose): Promise<object[] | undefined> {
    const key = keyOf(batchId, object);
    try {
      const sealed = await objects.get(key, OBJECT_BYTES_MAX);
      if (sealed === undefined) return undefined;
      const body = await unseal(keys, { batchId, object, purpose }, key, sealed);
      return await decodeLines(body).catch((error: unknown) => {
        throw new SnapshotUnreadable(key, (error as Error).message, { cause: error });
      });
    } catch (error) {
      if (error instanceof ObjectTooLarge) throw new SnapshotUnreadable(key, error.message, { cause: error });
      throw error;
    }
  }

  /** The same, with an object that can not be used reported and answered by its error. */
  async function readOrReport(batchId: string, object: string, purpose: Purpose) {
    try {
      return await read(batchId, object, purpose);
    } catch (error) {
      if (!(error instanceof SnapshotUnreadable)) throw error;
      log.error({ batchId, key: error.key, reason: error.message }, 'snapshot.unreadable');
      return error;
    }
  }

  return {
    /** Writes one object under a fixed name; `exists` when it was there. */
    async write(batchId: string, object: string, purpose: Purpose, lines: Iterable<string>) {
      return await put(batchId, object, purpose, await sealLines(batchId, object, purpose, lines));
    },

    /**
     * Writes a segment under the first free name from `n` on and returns its number. Repeating a call that failed, with
     * the same segment and `n`, writes nothing twice: the object that made it is known by its bytes.
     */
    async writeSegment(
      batchId: string,
      purpose: Exclude<Purpose, 'entries'>,
      at: { readonly hop: number; readonly attempt: number; readonly n: number },
      segment: Segment,
    ): Promise<number> {
      for (let n = at.n; n < at.n + TAKEN_NAMES_MAX; n += 1) {
        const object = objectNameOf(purpose, { ...at, n });
        segment.sealed ??= await sealLines(batchId, object, purpose, segment.lines);
        if ((await put(batchId, object, purpose, segment.sealed)) === 'created') return n;
        if (await holds(batchId, object, segment.sealed)) return n;
        delete segment.sealed;
      }
      throw new Error(`all names from ${keyOf(batchId, objectNameOf(purpose, at))} on are taken`);
    },

    /** The entries: values, `missing` or `unreadable` (reported). */
    async readEntries(batchId: string): Promise<object[] | 'missing' | 'unreadable'> {
      const found = await readOrReport(batchId, ENTRIES, 'entries');
      if (found === undefined) return 'missing';
      return found instanceof SnapshotUnreadable ? 'unreadable' : found;
    },

    /** Every readable record under a purpose. An object that vanishes meanwhile counts as absent. */
    async readAll<T extends object>(batchId: string, purpose: Exclude<Purpose, 'entries'>): Promise<Records<T>> {
      const prefix = batchPrefixOf(batchId);
      const unreadable: string[] = [];
      const found = (await objects.list(`${prefix}${purpose}/`)).flatMap((key) => {
        const object = key.slice(prefix.length);
        const position = positionOf(object);
        if (position !== undefined) return [{ object, position }];
        log.error({ batchId, key, reason: 'its name is none of ours' }, 'snapshot.unreadable');
        unreadable.push(key);
        return [];
      });
      found.sort((a, b) => comparePositions(a.position, b.position));
      const limit = pLimit(READS_AT_ONCE);
      const contents = await Promise.all(
        found.map(({ object }) => limit(() => readOrReport(batchId, object, purpose))),
      );
      const records: Stored<T>[] = [];
      for (const [at, content] of contents.entries()) {
        const object = found[at]?.object ?? '';
        if (content instanceof SnapshotUnreadable) unreadable.push(content.key);
        else content?.forEach((record, line) => records.push({ record: record as T, at: { object, line } }));
      }
      return { records, unreadable };
    },

    /** Keys of a batch under a name prefix, `''` for all. */
    list: (batchId: string, namePrefix: string) => objects.list(batchPrefixOf(batchId) + namePrefix),

    async remove(keysToRemove: readonly string[]): Promise<void> {
      const limit = pLimit(READS_AT_ONCE);
      await Promise.all(keysToRemove.map((key) => limit(() => objects.delete(key))));
    },
  };
}
