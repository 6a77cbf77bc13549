/** LegacyStore: what the legacy pipeline asks of its own tables in registrydb. Every time in here is the database's. */
import type { ClaimedTrigger, CommitRow, HeldEvent, TriggerState } from './batch-store.ts';

/** A trigger that the legacy pipeline may poll now. `trigger.leaseEpoch` is the poll's own epoch. */
export interface LegacyDue {
  readonly next: 'poll';
  readonly ownershipEpoch: number;
  readonly trigger: ClaimedTrigger;
  readonly state: TriggerState;
  /** Events kept from earlier polls, oldest first. */
  readonly held: readonly HeldEvent[];
}

export type LegacyRead =
  | LegacyDue
  | { readonly next: 'wait'; readonly waitMs: number }
  /** Nothing more to do until somebody starts it again. */
  | { readonly next: 'stop'; readonly reason: 'gone' | 'disabled' | 'halted' | 'not_owner' };

export interface LegacyCommit {
  /** False: the trigger has another owner, or another attempt has committed meanwhile; nothing was written. */
  readonly committed: boolean;
}

export interface LegacyStore {
  /** Carries out rewinds, resumes and poll-nows given since the last look, then says what is to be done. */
  read(triggerId: string): Promise<LegacyRead>;
  /** Whether the pipeline still owns it; asked right before the poll function is called. */
  owns(triggerId: string, ownershipEpoch: number): Promise<boolean>;
  /** One fenced statement: what is remembered, the next poll, held events, dead letters and lifecycle records. */
  commit(input: {
    readonly triggerId: string;
    readonly ownershipEpoch: number;
    readonly row: CommitRow;
  }): Promise<LegacyCommit>;
  /** Triggers whose workflow should be started or woken: new, changed (again after 5 s), or overdue (again after 30 s). */
  nudge(limit: number): Promise<readonly string[]>;
  ping(): Promise<void>;
  close(): Promise<void>;
}
