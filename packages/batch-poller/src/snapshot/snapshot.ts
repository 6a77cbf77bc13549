/**
 * The snapshot of a batch: immutable sealed objects under `batches/{batchId}/` (design section 6).
 *
 * Guarantees: an object is written whole or not at all, and never overwritten; what cannot be opened is never used. A
 * crash leaves whole objects behind, which the next attempt reads. What this process wrote or read stays decoded in a
 * bounded cache: objects never change, so a copy cannot be stale.
 */
import type { ClaimedTrigger, KeyProvider, Log, Metrics, ObjectStore } from '@milkrun/core';
import { decodeLines, encodeLines } from './codec.ts';
import { batchPrefixOf, comparePositions, ENTRIES, type ObjectPosition, objectNameOf, positionOf } from './names.ts';
import {
  type AuthRecord,
  authKeyOf,
  type DeliveredRecord,
  type ResultRecord,
  type Stored,
  type VerdictRecord,
} from './records.ts';
import { createResultWriter, type ResultWriter } from './result-writer.ts';
import { type Purpose, SnapshotUnreadable, seal, unseal } from './seal.ts';

export type { ResultWriter } from './result-writer.ts';

export interface DeliveredWriter {
  /** Writes one object and returns when it is durable. */
  record(records: readonly DeliveredRecord[]): Promise<void>;
}

export interface Snapshots {
  /** Writes the entries unless they are there already. */
  writeEntries(batchId: string, entries: readonly ClaimedTrigger[]): Promise<void>;
  readEntries(batchId: string): Promise<readonly ClaimedTrigger[] | 'missing' | 'unreadable'>;
  writeAuth(batchId: string, hop: number, attempt: number, records: readonly AuthRecord[]): Promise<void>;
  /** By `authKeyOf`, the newest answer of each connection. */
  readAuth(batchId: string): Promise<ReadonlyMap<string, AuthRecord>>;
  deleteAuth(batchId: string): Promise<void>;
  writeVerdicts(
    batchId: string,
    hop: number,
    attempt: number,
    n: number,
    records: readonly VerdictRecord[],
  ): Promise<void>;
  readVerdicts(batchId: string): Promise<readonly VerdictRecord[]>;
  resultWriter(batchId: string, hop: number, attempt: number): ResultWriter;
  /** In (hop, attempt, n, line) order; unreadable objects are left out and reported: what they held was not polled. */
  readResults(batchId: string): Promise<readonly Stored<ResultRecord>[]>;
  deliveredWriter(batchId: string, hop: number, attempt: number): DeliveredWriter;
  readDelivered(batchId: string): Promise<readonly Stored<DeliveredRecord>[]>;
  /** Drops what is cached of a batch that is over. */
  forget(batchId: string): void;
}

export interface SnapshotsOptions {
  readonly objects: ObjectStore;
  readonly keys: KeyProvider;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Batches whose objects stay decoded: more than one process runs at once. */
const CACHED_BATCHES_MAX = 48;

type Decoded = readonly object[];

export function createSnapshots(options: SnapshotsOptions): Snapshots {
  const { objects, keys, metrics, log } = options;
  const cache = new Map<string, Map<string, Decoded>>();

  function cached(batchId: string): Map<string, Decoded> {
    let found = cache.get(batchId);
    if (found === undefined) {
      found = new Map();
      cache.set(batchId, found);
      const oldest = cache.keys().next().value;
      if (cache.size > CACHED_BATCHES_MAX && oldest !== undefined) cache.delete(oldest);
    }
    return found;
  }

  async function write(
    batchId: string,
    object: string,
    purpose: Purpose,
    records: Decoded,
    lines: Iterable<string>,
  ): Promise<'created' | 'exists'> {
    const body = await seal(keys, { batchId, object, purpose }, await encodeLines(lines));
    const done = await objects.putIfAbsent(batchPrefixOf(batchId) + object, body);
    metrics.count('polling.snapshot.puts', 1, { object: purpose });
    metrics.count('polling.snapshot.bytes', body.byteLength, { object: purpose });
    if (done === 'created' && purpose !== 'auth') cached(batchId).set(object, records);
    return done;
  }

  /** `n` counts on from the first free name: an attempt that is repeated under its own number never takes another's. */
  async function writeNext(
    batchId: string,
    purpose: Exclude<Purpose, 'entries'>,
    position: ObjectPosition,
    records: Decoded,
    lines: () => Iterable<string>,
  ): Promise<number> {
    for (let { n } = position; ; n += 1) {
      if ((await write(batchId, objectNameOf(purpose, { ...position, n }), purpose, records, lines())) === 'created')
        return n;
    }
  }

  async function read(batchId: string, object: string, purpose: Purpose): Promise<Decoded | undefined> {
    const known = cached(batchId).get(object);
    if (known !== undefined) return known;
    const key = batchPrefixOf(batchId) + object;
    const bytes = await objects.get(key);
    if (bytes === undefined) return undefined;
    let records: Decoded;
    try {
      records = await decodeLines(await unseal(keys, { batchId, object, purpose }, key, bytes));
    } catch (error) {
      const unreadable =
        error instanceof SnapshotUnreadable ? error : new SnapshotUnreadable(key, String(error), { cause: error });
      metrics.count('polling.snapshot.unread');
      log.error({ key, reason: unreadable.message }, 'snapshot.unreadable');
      throw unreadable;
    }
    if (purpose !== 'auth') cached(batchId).set(object, records);
    return records;
  }

  /** All objects of a purpose in their order; what cannot be opened is left out. */
  async function readAll<T extends object>(
    batchId: string,
    purpose: Exclude<Purpose, 'entries'>,
  ): Promise<Stored<T>[]> {
    const prefix = batchPrefixOf(batchId);
    const names: { name: string; position: ObjectPosition }[] = [];
    for (const key of await objects.list(`${prefix}${purpose}/`)) {
      const name = key.slice(prefix.length);
      const position = positionOf(name);
      if (position !== undefined) names.push({ name, position });
    }
    names.sort((a, b) => comparePositions(a.position, b.position));
    const all: Stored<T>[] = [];
    for (const { name } of names) {
      let records: Decoded | undefined;
      try {
        records = await read(batchId, name, purpose);
      } catch (error) {
        if (!(error instanceof SnapshotUnreadable)) throw error;
      }
      records?.forEach((record, line) => {
        all.push({ record: record as T, at: { object: name, line } });
      });
    }
    return all;
  }

  return {
    async writeEntries(batchId, entries) {
      await write(batchId, ENTRIES, 'entries', entries, linesOf(entries));
    },
    async readEntries(batchId) {
      try {
        return ((await read(batchId, ENTRIES, 'entries')) as readonly ClaimedTrigger[] | undefined) ?? 'missing';
      } catch (error) {
        if (error instanceof SnapshotUnreadable) return 'unreadable';
        throw error;
      }
    },
    async writeAuth(batchId, hop, attempt, records) {
      await writeNext(batchId, 'auth', { hop, attempt, n: 0 }, records, () => linesOf(records));
    },
    async readAuth(batchId) {
      const newest = new Map<string, AuthRecord>();
      for (const { record } of await readAll<AuthRecord>(batchId, 'auth'))
        newest.set(authKeyOf(record.tenantId, record.connectionId), record);
      return newest;
    },
    async deleteAuth(batchId) {
      for (const key of await objects.list(`${batchPrefixOf(batchId)}auth/`)) await objects.delete(key);
    },
    async writeVerdicts(batchId, hop, attempt, n, records) {
      await writeNext(batchId, 'verdicts', { hop, attempt, n }, records, () => linesOf(records));
    },
    async readVerdicts(batchId) {
      return (await readAll<VerdictRecord>(batchId, 'verdicts')).map((stored) => stored.record);
    },
    resultWriter(batchId, hop, attempt) {
      let n = 0;
      return createResultWriter(async (records, lines) => {
        n = 1 + (await writeNext(batchId, 'results', { hop, attempt, n }, records, () => lines));
      });
    },
    readResults: (batchId) => readAll<ResultRecord>(batchId, 'results'),
    deliveredWriter(batchId, hop, attempt) {
      let n = 0;
      return {
        async record(records) {
          // The number is taken before the wait: lanes record side by side.
          const own = n;
          n += 1;
          await writeNext(batchId, 'delivered', { hop, attempt, n: own }, records, () => linesOf(records));
        },
      };
    },
    readDelivered: (batchId) => readAll<DeliveredRecord>(batchId, 'delivered'),
    forget: (batchId) => {
      cache.delete(batchId);
    },
  };
}

function* linesOf(records: readonly object[]): Generator<string> {
  for (const record of records) yield JSON.stringify(record);
}
