/**
 * What the objects of a batch hold, one JSON line a record. Fields may be added; a change of meaning raises the schema
 * number in `seal.ts`, so that an older worker refuses what it would misread.
 */
import type { DeadLetter, StoredEvent } from '@milkrun/core';

/** One line of a result object: what a delivered record says it delivered. */
export interface ResultRef {
  /** Name inside the batch, such as `results/0.1-3`. */
  readonly object: string;
  /** Counted from 0. */
  readonly line: number;
}

/** Stands for events held back by an earlier batch: they lie in workerdb and have no result line. */
export const HELD_REF: ResultRef = Object.freeze({ object: 'held', line: 0 });

/** A record and where it stands. */
export interface Stored<T> {
  readonly record: T;
  readonly at: ResultRef;
}

/** A dead letter as JSON: raw bytes in base64. */
export interface DeadLetterRecord extends Omit<DeadLetter, 'raw'> {
  readonly raw: string;
}

/** Which lease, hop and step attempt a record belongs to. */
interface Origin {
  readonly triggerId: string;
  readonly leaseEpoch: number;
  readonly hop: number;
  /** Attempt of the step within the hop, counted by Temporal from 1. */
  readonly attempt: number;
}

/** One page of one poll, or the verdict that ended it: cursor and events in one record, never one without the other. */
export interface ResultRecord extends Origin {
  /** Position in its chain, counted from 0. */
  readonly page: number;
  /** `ok` or a verdict code. */
  readonly code: string;
  readonly events: readonly StoredEvent[];
  /** The source cannot be asked for these events again: who finds them needs no more than this to keep them (S6). */
  readonly once?: true;
  /** base64 of the 8-byte hashes of all keys the chain listed; only where more keys than fit must be remembered. */
  readonly keys?: string;
  /** base64 of the hashes that were not known before, one for each event, in the same order. */
  readonly newKeys: string;
  /** base64 of hashes to remember without an event: primed and bad items. */
  readonly quietKeys?: string;
  /** JSON text of the cursor after this page; left out, as null, where `sameCursor` says it and nobody is told of it. */
  readonly cursorAfter: string | null;
  /** The cursor is the one workerdb holds: there is nothing to write. */
  readonly sameCursor?: boolean;
  readonly more: boolean;
  readonly deduplicated: number;
  readonly pollMs: number;
  readonly versionUsed?: string;
  readonly retryAfterSeconds?: number;
  /** Text for explain, ≤ 500 characters, no secrets. */
  readonly reason?: string;
  readonly deadLetters?: readonly DeadLetterRecord[];
  readonly primeDone?: boolean;
  readonly rekeys?: boolean;
  /** The page raised `gap_suspected`. */
  readonly gap?: boolean;
}

export interface DeliveredRecord extends Origin {
  readonly result: ResultRef;
  /** `accepted`: by the control plane, whole unless `eventIds` says which; the others as their verdict says. */
  readonly status: 'accepted' | 'gone' | 'parked' | 'refused';
  /** Events accepted so far when the page was taken in part. */
  readonly eventIds?: readonly string[];
  readonly deadLetters?: readonly DeadLetterRecord[];
}

export interface AuthRecord {
  readonly connectionId: string;
  readonly tenantId: string;
  /** JSON text: the secret. */
  readonly auth: string;
  /** By the database's clock, milliseconds since the epoch; null when it does not expire. */
  readonly expiresAtMs: number | null;
  /** When the answer came, so that auth which arrived nearly expired is used until it is. */
  readonly fetchedAtMs: number;
  /** The hop it was fetched in: a poll that was refused waits for a later one. */
  readonly hop: number;
}

/** Why an entry left before its poll. Verdicts of polls are result records. */
export interface VerdictRecord {
  readonly triggerId: string;
  readonly leaseEpoch: number;
  readonly hop: number;
  readonly code: string;
  readonly reason: string;
  readonly retryAfterSeconds?: number;
}

/** Key of `readAuth`'s map: no two pairs share one. */
export function authKeyOf(tenantId: string, connectionId: string): string {
  return `${tenantId.length} ${tenantId}${connectionId}`;
}

/** A dead letter for a record. */
export function deadLetterRecordOf(letter: DeadLetter): DeadLetterRecord {
  return { ...letter, raw: Buffer.from(letter.raw).toString('base64') };
}

/** The dead letter of a record. */
export function deadLetterOf(record: DeadLetterRecord): DeadLetter {
  return { ...record, raw: new Uint8Array(Buffer.from(record.raw, 'base64')) };
}
