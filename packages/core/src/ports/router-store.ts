/** RouterStore: what routing events to activities asks of registrydb. */
import type { NewEvent } from './activity-store.ts';

/** An activity that waits for events of a type. */
export interface Candidate {
  readonly activityId: string;
  readonly version: number;
  /** The current version, JSON text. */
  readonly spec: string;
  readonly enabled: boolean;
  readonly status: 'active' | 'done' | 'tripped';
}

export interface MatchNote {
  readonly activityId: string;
  readonly version: number;
  readonly result: 'matched' | 'unmatched' | 'disabled';
  readonly reason: string | null;
}

export interface DeadLetterInput {
  readonly tenantId: string;
  readonly stage: 'decode' | 'schema' | 'conflict' | 'loop' | 'start';
  readonly eventKey: string | null;
  readonly raw: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly streamSeq: number | null;
  readonly error: string;
  readonly tries: number;
}

/** What a tenant has registered of a type. */
export interface RegisteredType {
  readonly state: 'draft' | 'approved';
  /** JSON Schema of `data`, JSON text. */
  readonly schema: string | null;
}

/** An event that is collected, or handed to a run that may be open. */
export interface CollectInput {
  readonly tenantId: string;
  readonly activityId: string;
  readonly eventKey: string;
  readonly key: string;
  /** Index of the entry of `on` that matched, in that version. */
  readonly entry: number;
  readonly version: number;
}

/** An event waiting to be put on the bus. */
export interface OutboxEvent {
  readonly seq: number;
  readonly tenantId: string;
  readonly key: string;
  /** A CloudEvents record, JSON text. */
  readonly record: string;
}

export interface RouterStore {
  /**
   * Stores an event once, unless `refuse` gives a reason against it. `known`: it was there with the same content;
   * `conflict`: with another one. `candidates`: the activities of the tenant that wait for its type, as they are now.
   */
  receive(
    tenantId: string,
    event: NewEvent,
    refuse: (registered: RegisteredType | null) => string | undefined,
  ): Promise<
    | { readonly state: 'new' | 'known' | 'conflict'; readonly candidates: readonly Candidate[] }
    | { readonly state: 'refused'; readonly reason: string }
  >;
  /** Puts an event that matched into the inbox of an activity, once. `taken`: a run has it. */
  collect(input: CollectInput): Promise<{ readonly taken: boolean }>;
  noteMatches(tenantId: string, key: string, matches: readonly MatchNote[]): Promise<void>;
  /** Once for a stage and stream sequence. */
  deadLetter(letter: DeadLetterInput): Promise<void>;
  /**
   * Hands waiting events to `send`, oldest first, each removed once it was sent. Stops at the first that can not be sent.
   * Resolves to how many were sent.
   */
  drainOutbox(send: (event: OutboxEvent) => Promise<void>, limit: number): Promise<number>;
}
