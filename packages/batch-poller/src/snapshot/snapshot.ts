/**
 * The snapshot of a batch: immutable sealed objects under `batches/{batchId}/` (design section 6).
 *
 * Guarantees: an object is written whole or not at all, and never overwritten; what cannot be opened is never used. A
 * crash leaves whole objects behind, which the next attempt reads. What this process wrote or read stays decoded in a
 * bounded cache: objects never change, so a copy cannot be stale.
 */
import {
  type ClaimedTrigger,
  type Clock,
  type KeyProvider,
  type Log,
  type Metrics,
  type ObjectStore,
  ObjectTooLarge,
} from '@milkrun/core';
import pLimit from 'p-limit';
import { createDecodedCache } from './cache.ts';
import { decodeLines, encodeLines } from './codec.ts';
import { createDeliveredWriter, type DeliveredWriter } from './delivered-writer.ts';
import { type SnapshotMachine, threadPool } from './machine.ts';
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
  readonly clock: Clock;
  /** Who packs and seals; the thread pool by default. */
  readonly machine?: SnapshotMachine;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Largest object read; a claim is cut at 8 MiB and a segment flushed there, so ours stay far below. */
const OBJECT_BYTES_MAX = 128 * 1024 * 1024;
const READS_AT_ONCE = 4;
/** Names taken by an earlier run of the same attempt that a writer steps over before it calls that a fault. */
const TAKEN_NAMES_MAX = 1_000;

type Decoded = readonly object[];

export function createSnapshots(options: SnapshotsOptions): Snapshots {
  const { objects, keys, clock, metrics, log, machine = threadPool } = options;
  const cache = createDecodedCache();

  async function write(
    batchId: string,
    object: string,
    purpose: Purpose,
    records: Decoded,
    lines: Iterable<string>,
  ): Promise<'created' | 'exists'> {
    const body = await seal(keys, { batchId, object, purpose }, await encodeLines(lines, machine), machine);
    const done = await objects.putIfAbsent(batchPrefixOf(batchId) + object, body);
    metrics.count('polling.snapshot.puts', 1, { object: purpose });
    metrics.count('polling.snapshot.bytes', body.byteLength, { object: purpose });
    if (done === 'created' && purpose !== 'auth') cache.set(batchId, object, records, body.byteLength);
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
    for (let { n } = position; n < position.n + TAKEN_NAMES_MAX; n += 1) {
      if ((await write(batchId, objectNameOf(purpose, { ...position, n }), purpose, records, lines())) === 'created')
        return n;
    }
    throw new Error(`all names from ${batchPrefixOf(batchId)}${objectNameOf(purpose, position)} on are taken`);
  }

  async function read(batchId: string, object: string, purpose: Purpose): Promise<Decoded | undefined> {
    const known = cache.get(batchId, object);
    if (known !== undefined) return known;
    const key = batchPrefixOf(batchId) + object;
    try {
      const bytes = await objects.get(key, OBJECT_BYTES_MAX);
      if (bytes === undefined) return undefined;
      const body = await unseal(keys, { batchId, object, purpose }, key, bytes, machine);
      const records = await decodeLines(body, machine).catch((error: unknown) => {
        throw new SnapshotUnreadable(key, String(error), { cause: error });
      });
      if (purpose !== 'auth') cache.set(batchId, object, records, bytes.byteLength);
      return records;
    } catch (error) {
      if (error instanceof ObjectTooLarge) throw report(new SnapshotUnreadable(key, error.message, { cause: error }));
      if (error instanceof SnapshotUnreadable) throw report(error);
      throw error;
    }
  }

  function report(unreadable: SnapshotUnreadable): SnapshotUnreadable {
    metrics.count('polling.snapshot.unread');
    log.error({ key: unreadable.key, reason: unreadable.message }, 'snapshot.unreadable');
    return unreadable;
  }

  /** The records, or undefined for an object that is absent or can not be used. */
  async function readIfUsable(batchId: string, object: string, purpose: Purpose): Promise<Decoded | undefined> {
    try {
      return await read(batchId, object, purpose);
    } catch (error) {
      if (error instanceof SnapshotUnreadable) return undefined;
      throw error;
    }
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
      else report(new SnapshotUnreadable(key, 'its name is none of ours'));
    }
    names.sort((a, b) => comparePositions(a.position, b.position));
    const limit = pLimit(READS_AT_ONCE);
    const contents = await Promise.all(names.map(({ name }) => limit(() => readIfUsable(batchId, name, purpose))));
    const all: Stored<T>[] = [];
    for (const [at, { name }] of names.entries()) {
      contents[at]?.forEach((record, line) => {
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
      }, clock);
    },
    readResults: (batchId) => readAll<ResultRecord>(batchId, 'results'),
    deliveredWriter(batchId, hop, attempt) {
      let n = 0;
      return createDeliveredWriter(async (records) => {
        n = 1 + (await writeNext(batchId, 'delivered', { hop, attempt, n }, records, () => linesOf(records)));
      });
    },
    readDelivered: (batchId) => readAll<DeliveredRecord>(batchId, 'delivered'),
    forget: cache.forget,
  };
}

function* linesOf(records: readonly object[]): Generator<string> {
  for (const record of records) yield JSON.stringify(record);
}
