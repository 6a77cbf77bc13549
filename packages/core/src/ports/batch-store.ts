/**
 * BatchStore: what a batch asks of workerdb. Implemented by `@milkrun/workerdb` (PostgreSQL) and by the simulation's model.
 *
 * Every time in here is the database's. Errors: a method throws `StoreUnavailable`-like driver errors only for
 * infrastructure; what concerns one entry is data in the answer.
 */
import type { Code } from '../codes.ts';

/** Where a row lives, and the lease that proves the right to write it. */
export interface LeasedKey {
  readonly shard: number;
  readonly triggerId: string;
  readonly leaseEpoch: number;
}

export type DedupeStrategy = 'unique' | 'hash' | 'watermark';

export interface PollPolicy {
  readonly dedupe: DedupeStrategy;
  /** Only with `watermark`; seconds. */
  readonly overlapSeconds?: number;
  /** False: what a poll returned can not be asked for again. */
  readonly repeatable: boolean;
}

/** One leased row with its definition, as claim returns it. JSON columns stay text, spliced, never re-encoded. */
export interface ClaimedTrigger extends LeasedKey {
  readonly tenantId: string;
  readonly toolkit: string;
  readonly slug: string;
  readonly connectionId: string;
  readonly versionWanted: string;
  readonly versionUsed: string | null;
  /** JSON text. */
  readonly config: string;
  readonly pollPolicy: PollPolicy;
  readonly intervalSeconds: number;
  /** RFC 3339 or null. */
  readonly since: string | null;
  /** RFC 3339. */
  readonly createdAt: string;
  readonly configVersion: number;
  readonly primed: boolean;
  /** When a poll of it last succeeded, RFC 3339, or null. */
  readonly lastOkAt: string | null;
  readonly failureCount: number;
  readonly poisonCount: number;
  /** Due time the row had when it was claimed, RFC 3339; for the due-lag histogram. */
  readonly dueAt: string;
  /** claim time − due time in seconds, by the database's clock. */
  readonly dueLagSeconds: number;
  /** True for a credential-halted row that is being probed. */
  readonly probe: boolean;
  /** Bytes of cursor + seen keys, for slicing reads at 8 MiB. */
  readonly stateBytes: number;
}

export interface ClaimResult {
  /** `ended`: the batch row is gone, ended or expired: there is nothing to do. `again`: claimed by an earlier attempt. */
  readonly status: 'claimed' | 'again' | 'ended';
  readonly triggers: readonly ClaimedTrigger[];
}

/** What a trigger remembers. `cursor` is JSON text or null, `seen` concatenated 8-byte hashes, newest last. */
export interface TriggerState {
  readonly shard: number;
  readonly triggerId: string;
  readonly cursor: string | null;
  readonly seen: Uint8Array;
}

/** An event as a CloudEvents record in JSON text, with its id beside it. */
export interface StoredEvent {
  readonly eventId: string;
  /** The whole CloudEvent as JSON text. */
  readonly json: string;
}

export interface HeldEvent extends StoredEvent {
  readonly shard: number;
  readonly triggerId: string;
}

export interface DeadLetter {
  readonly stage: 'poll' | 'broadcast';
  readonly code: string;
  readonly reason: string;
  readonly eventId?: string;
  /** The raw bytes as they came, cut at 256 KiB by the writer. */
  readonly raw: Uint8Array;
}

/**
 * How a row leaves its batch:
 * - `success`: next phase slot (or Retry-After when later), failure_count 0.
 * - `more`: success with more pages open: due at once.
 * - `backoff`: own failure: failure_count + 1 (halts when `haltAfter` is reached: `failures` or `poisons`).
 * - `rate_limited`: next poll at Retry-After (≤ 24 h), counters unchanged, writes `source_limits`.
 * - `release`: lease given back, counters unchanged, row stays due (the timer shard backs off when forced).
 * - `halt`: halted with `haltCode`; credential halts get a probe in 6 h, others no next poll.
 */
export type RowOutcome = 'success' | 'more' | 'backoff' | 'rate_limited' | 'release' | 'halt';

export interface CommitRow extends LeasedKey {
  readonly outcome: RowOutcome;
  readonly code: Code;
  /** Free text of the last error for explain, ≤ 500 characters, no secrets. */
  readonly reason?: string;
  /** With `backoff`: which counter is charged, and when it halts. */
  readonly charge?: 'failure' | 'poison';
  readonly haltAfter?: number;
  readonly haltCode?: Code;
  /** Seconds from the commit's own now. */
  readonly retryAfterSeconds?: number;
  /** JSON text, `null` among them: no cursor any more; absent = unchanged. */
  readonly cursor?: string;
  /** Absent = unchanged. */
  readonly seen?: Uint8Array;
  /** What `seen` has behind the keys there were, when it is those and more: all of it that needs to be written. */
  readonly seenAdded?: Uint8Array;
  readonly versionUsed?: string;
  /** True once a prime is complete; absent = unchanged. */
  readonly primed?: boolean;
  /** True when a poll of this batch succeeded, whatever became of its events: failure_count 0, last_ok_at. */
  readonly polled?: boolean;
  /** Events delivered in this batch. */
  readonly events: number;
  readonly deduplicated?: number;
  /** Items in the answers; absent: delivered and deduplicated ones. */
  readonly found?: number;
  readonly pollMs?: number;
  /** Events of a source that cannot repeat itself, not delivered: kept in `held_events`. */
  readonly held?: readonly StoredEvent[];
  /** Held events delivered by this batch: deleted. */
  readonly heldDelivered?: readonly string[];
  readonly deadLetters?: readonly DeadLetter[];
  /** Warning lifecycle records to write (for instance before a permanent halt, or gap_suspected). */
  readonly warnings?: readonly Code[];
  /** A version change that changed keys: the trigger primes again. */
  readonly rekeyed?: boolean;
}

export interface CommitInput {
  readonly batchId: string;
  readonly rows: readonly CommitRow[];
  /** True only in the last statement of a batch's last commit: sets `ended_at`, which frees everything left. */
  readonly end: boolean;
  /** A forced end that released at least half of what was claimed: the timer shard backs off (30 s → 5 min). */
  readonly forced: boolean;
  /** Entries that keep their lease for the next hop. */
  readonly open: number;
  /** Seconds the lease is extended by when the batch goes on (TTL plus the hop's back-off). */
  readonly extendSeconds?: number;
}

export interface CommitException extends LeasedKey {
  readonly status: 'already' | 'fenced' | 'quarantined' | 'braked';
}

export interface CommitResult {
  readonly committed: number;
  /** Only rows that did not commit in the plain way. */
  readonly exceptions: readonly CommitException[];
  /** The soonest next_poll_at written, as milliseconds from the database's now; null when none. */
  readonly nextDueInMs: number | null;
  /** True when that due time lies before the shard's recorded wake: arm the shard (database first, then arm). */
  readonly arm: boolean;
  readonly halted: Readonly<Record<string, number>>;
  /** Statements that failed on data and were halved to find the bad row; absent: none. */
  readonly bisections?: number;
}

export interface BatchCheck {
  /** False: ended or expired; nothing of it may be written any more. */
  readonly live: boolean;
  /** Triggers taken from this batch since it claimed them. */
  readonly fenced: readonly { readonly shard: number; readonly triggerId: string; readonly deleted: boolean }[];
  /** The mass-410 brake is on: do not treat 410 as a halt. */
  readonly brake: boolean;
  /** The database's clock, milliseconds since the epoch: the one clock that all workers share. */
  readonly nowMs: number;
  /** The extension has freed places for which the last tick left due rows behind: arm the timer shard. */
  readonly waiting?: boolean;
  /** Of a check: the batch is live and its commit has begun, so what is saved from now on may come too late for it. */
  readonly committing?: boolean;
}

export interface ExtendInput {
  readonly batchId: string;
  readonly leaseSeconds: number;
  readonly hop: number;
  readonly step: BatchStep;
  /** Entries without a result, for `batches.open`; null leaves it as it is. */
  readonly open: number | null;
}

export type BatchStep = 'claim' | 'auth' | 'poll' | 'broadcast' | 'commit' | 'backoff';

export interface BatchStore {
  /** Leases the planned keys of the batch; claims once, then answers what the batch owns. */
  claim(input: {
    readonly batchId: string;
    readonly leaseSeconds: number;
    readonly bytesMax: number;
  }): Promise<ClaimResult>;
  /** Extends a lease that is still alive, records step and open, and checks the fence in the same statement. */
  extend(input: ExtendInput): Promise<BatchCheck>;
  /** The fence check alone. */
  check(batchId: string): Promise<BatchCheck>;
  /** States of the given rows; the caller slices by ≤ 2,500 rows and 8 MiB. A row without state is left out. */
  readStates(keys: readonly LeasedKey[]): Promise<readonly TriggerState[]>;
  /** Events held back earlier for the given rows, oldest first. */
  readHeld(keys: readonly LeasedKey[]): Promise<readonly HeldEvent[]>;
  /** Keeps events of unrepeatable sources that their batch will not tell; asks for no lease, only that the trigger exists. */
  holdFenced(events: readonly HeldEvent[]): Promise<void>;
  /** One fenced statement per ≤ 8 MiB; bisects on data errors (SQLSTATE class 22 and 54) and quarantines the bad row. */
  commit(input: CommitInput): Promise<CommitResult>;
  /** Ends a batch and frees its rows in O(1). True when this call ended it. */
  end(batchId: string): Promise<boolean>;
}
