/**
 * The snapshot of a batch: everything it knows between steps, as immutable sealed objects under `batches/{batchId}/`.
 *
 * Nothing is rewritten, so a repeated step adds objects or finds what is there, and two attempts that overlap never
 * touch each other's. Every object is sealed; one that was changed, cut, swapped or sealed by an unknown key is never
 * used: it is reported by its key and counts as absent. Errors of the store itself (ObjectStoreUnavailable) are thrown.
 */
import type { ClaimedTrigger, Clock } from '@milkrun/core';
import { createDeliveredWriter, type DeliveredWriter } from './delivered-writer.ts';
import { ENTRIES, objectNameOf } from './names.ts';
import { createSealedObjects, type Records, type SnapshotDeps } from './objects.ts';
import { type AuthRecord, authKeyOf, type DeliveredRecord, type ResultRecord, type VerdictRecord } from './records.ts';
import { createResultWriter, type ResultWriter } from './result-writer.ts';

export interface Snapshots {
  /** Writes the entries unless they exist: then the old ones stay and count. */
  writeEntries(batchId: string, entries: readonly ClaimedTrigger[]): Promise<'created' | 'exists'>;
  readEntries(batchId: string): Promise<readonly ClaimedTrigger[] | 'missing' | 'unreadable'>;

  /** Adds one object of credentials. */
  writeAuth(batchId: string, hop: number, attempt: number, records: readonly AuthRecord[]): Promise<void>;
  /** By `authKeyOf`; of several records of one connection the one written by the latest (hop, attempt). */
  readAuth(batchId: string): Promise<ReadonlyMap<string, AuthRecord>>;
  /** Removes all credentials: when the poll step ends. */
  deleteAuth(batchId: string): Promise<void>;

  /** Writes verdicts of steps before the poll; `exists` when this attempt wrote its n-th before. */
  writeVerdicts(
    batchId: string,
    hop: number,
    attempt: number,
    n: number,
    records: readonly VerdictRecord[],
  ): Promise<'created' | 'exists'>;
  readVerdicts(batchId: string): Promise<Records<VerdictRecord>>;

  resultWriter(batchId: string, hop: number, attempt: number): ResultWriter;
  readResults(batchId: string): Promise<Records<ResultRecord>>;

  deliveredWriter(batchId: string, hop: number, attempt: number): DeliveredWriter;
  readDelivered(batchId: string): Promise<Records<DeliveredRecord>>;

  /** Keys of all objects of a batch. */
  list(batchId: string): Promise<readonly string[]>;
  /** Removes all objects of a batch. For operations and tests; in service they expire. */
  drop(batchId: string): Promise<void>;
}

export function createSnapshots(deps: SnapshotDeps & { readonly clock: Clock }): Snapshots {
  const sealed = createSealedObjects(deps);
  return {
    writeEntries: (batchId, entries) => sealed.write(batchId, ENTRIES, 'entries', linesOf(entries)),
    readEntries: async (batchId) => (await sealed.readEntries(batchId)) as ClaimedTrigger[] | 'missing' | 'unreadable',

    async writeAuth(batchId, hop, attempt, records) {
      await sealed.writeSegment(batchId, 'auth', { hop, attempt, n: 0 }, { lines: [...linesOf(records)] });
    },
    async readAuth(batchId) {
      const { records } = await sealed.readAll<AuthRecord>(batchId, 'auth');
      return new Map(records.map(({ record }) => [authKeyOf(record.tenantId, record.connectionId), record]));
    },
    deleteAuth: async (batchId) => sealed.remove(await sealed.list(batchId, 'auth/')),

    writeVerdicts: (batchId, hop, attempt, n, records) =>
      sealed.write(batchId, objectNameOf('verdicts', { hop, attempt, n }), 'verdicts', linesOf(records)),
    readVerdicts: (batchId) => sealed.readAll(batchId, 'verdicts'),

    resultWriter: (batchId, hop, attempt) => createResultWriter({ sealed, clock: deps.clock, batchId, hop, attempt }),
    readResults: (batchId) => sealed.readAll(batchId, 'results'),

    deliveredWriter: (batchId, hop, attempt) => createDeliveredWriter({ sealed, batchId, hop, attempt }),
    readDelivered: (batchId) => sealed.readAll(batchId, 'delivered'),

    list: (batchId) => sealed.list(batchId, ''),
    drop: async (batchId) => sealed.remove(await sealed.list(batchId, '')),
  };
}

/** Serialized one by one, as they are taken. */
function* linesOf(records: Iterable<object>): Generator<string> {
  for (const record of records) yield JSON.stringify(record);
}
