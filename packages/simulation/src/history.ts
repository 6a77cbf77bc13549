/** What happened in a run, as the checkers see it: facts from outside the engine, in the order of their times. */
import type { CommitException, CommitRow, DedupeStrategy } from '@milkrun/core';

/** Position of an item in its source, counted from 0. */
export interface Item {
  readonly key: string;
  readonly occurredAt: string;
  readonly data: { readonly n: number };
}

/** How a source gives its items away. */
export type SourceKind =
  /** All of them for ever, from a position: the cursor is the position after the last one given. */
  | 'log'
  /** The newest few at every poll; no cursor. */
  | 'listing'
  /** Each of them once: what a poll gave is gone. */
  | 'queue';

export interface TriggerFacts {
  readonly triggerId: string;
  readonly tenantId: string;
  readonly toolkit: string;
  readonly kind: SourceKind;
  readonly dedupe: DedupeStrategy;
  readonly intervalSeconds: number;
  /** Every item its source ever had, in order. */
  readonly items: readonly Item[];
  /** Items a page holds at the most. */
  readonly pageItems: number;
  /** Every connection it was ever configured with. */
  readonly connections: readonly string[];
}

/** A row as it was at a moment. */
export interface RowFacts {
  readonly epoch: number;
  readonly cursor: string | null;
  readonly primed: boolean;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly since: number | null;
  readonly failures: number;
  readonly poisons: number;
  readonly halted: string | null;
  readonly enabled: boolean;
}

interface At {
  /** Milliseconds since the run began. */
  readonly at: number;
}

export type Fact = At &
  (
    | {
        readonly kind: 'ticked';
        /** Due rows with their rank within their tenant, in the order of the plan. */
        readonly ready: readonly { readonly triggerId: string; readonly tenantId: string; readonly rank: number }[];
        readonly planned: readonly { readonly batchId: string; readonly triggerIds: readonly string[] }[];
      }
    | {
        readonly kind: 'claimed';
        readonly batchId: string;
        readonly status: string;
        readonly planned: number;
        readonly leaseSeconds: number;
        readonly rows: readonly {
          readonly triggerId: string;
          readonly epoch: number;
          readonly takenFrom: 'free' | 'live';
          /** What a prime goes by, as the batch was told it. */
          readonly primed: boolean;
          readonly createdAt: number;
          readonly since: number | null;
        }[];
      }
    | {
        readonly kind: 'extended';
        readonly batchId: string;
        readonly hop: number;
        readonly live: boolean;
        readonly wasLive: boolean;
        /** From now, milliseconds. */
        readonly leaseMs: number;
      }
    | { readonly kind: 'ended'; readonly batchId: string }
    | {
        readonly kind: 'committed';
        readonly batchId: string;
        readonly hop: number;
        readonly end: boolean;
        readonly wasLive: boolean;
        readonly rows: readonly {
          readonly input: CommitRow;
          readonly before: RowFacts | undefined;
          readonly after: RowFacts | undefined;
          readonly owned: boolean;
        }[];
        readonly exceptions: readonly CommitException[];
        readonly process: string;
        /** The answer asked for the timer to be armed. */
        readonly arm: boolean;
      }
    | {
        readonly kind: 'fed';
        readonly triggerId: string;
        readonly op: 'upsert' | 'delete';
        readonly fences: boolean;
        readonly moves: boolean;
        readonly lifts: boolean;
        /** What the change asked for beside the definition. */
        readonly asks: 'rewind' | 'resume' | 'other';
        readonly before: RowFacts | undefined;
        readonly after: RowFacts | undefined;
        readonly configVersion: number;
      }
    | {
        readonly kind: 'asked';
        readonly connections: readonly { readonly tenantId: string; readonly connectionId: string }[];
      }
    | {
        readonly kind: 'polled';
        readonly triggerId: string;
        readonly process: string;
        /** Milliseconds the process has been running, pauses left out. */
        readonly ranMs: number;
        /** Whom the credentials belong to. */
        readonly auth: { readonly tenantId: string; readonly connectionId: string };
        readonly cursor: string | null;
        readonly code: string;
        /** Positions of the items in the answer. */
        readonly items: readonly number[];
        readonly cursorAfter: string | null;
      }
    | {
        readonly kind: 'told';
        readonly batchId: string;
        readonly process: string;
        readonly status: number;
        readonly results: readonly {
          readonly triggerId: string;
          readonly epoch: number;
          readonly events: readonly { readonly id: string; readonly key: string; readonly triggerId: string }[];
          readonly status: 'accepted' | 'gone' | 'rejected' | 'none';
          readonly refused: readonly string[];
        }[];
      }
    /** A process asks for the timer shard to be woken. */
    | { readonly kind: 'armed'; readonly by: string; readonly process: string }
    /** A process makes a call; equal requests have equal digests. */
    | {
        readonly kind: 'called';
        readonly process: string;
        readonly path: '/state' | '/conn/batch';
        readonly digest: string;
      }
    | { readonly kind: 'hop'; readonly batchId: string; readonly hop: number }
    | { readonly kind: 'batch_over'; readonly batchId: string; readonly status: string }
    | { readonly kind: 'logged'; readonly event: string; readonly batchId: string | undefined }
    /** `orphaned`: whoever asked for it had died meanwhile. */
    | { readonly kind: 'stored'; readonly key: string; readonly leaks: boolean; readonly orphaned: boolean }
    /** A promise failed and nobody had asked to be told. */
    | { readonly kind: 'unheard'; readonly error: string }
    | { readonly kind: 'faults_off' }
  );

/** How things stand when the run is over. */
export interface Ending {
  readonly at: number;
  readonly faultsOffAt: number;
  /** Whether the run came to rest before its time was up. */
  readonly rested: boolean;
  readonly liveBatches: readonly string[];
  readonly rows: readonly (RowFacts & {
    readonly triggerId: string;
    readonly lastOkAt: number | null;
    readonly dueInMs: number | null;
  })[];
  /** Ids held for the next batch, by trigger. */
  readonly held: Readonly<Record<string, readonly string[]>>;
  /** Ids in dead letters, by trigger. */
  readonly letters: Readonly<Record<string, readonly string[]>>;
  /** Keys of items in dead letters without an id, by trigger. */
  readonly badItems: Readonly<Record<string, readonly string[]>>;
  /** Objects of credentials that are still there. */
  readonly authObjects: readonly string[];
  /** Events of readable result objects, by trigger; deleted triggers and orphaned objects are left out. */
  readonly saved: readonly {
    readonly batchId: string;
    readonly triggerId: string;
    readonly eventIds: readonly string[];
  }[];
  readonly unsentLifecycle: number;
  readonly faults: number;
  readonly faultKinds: readonly string[];
}

export interface History {
  readonly seed: number;
  readonly triggers: readonly TriggerFacts[];
  readonly facts: readonly Fact[];
  readonly ending: Ending;
  readonly leaseSeconds: number;
  readonly maxHops: number;
}
