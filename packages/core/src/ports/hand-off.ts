/**
 * Hand-off of triggers between the legacy pipeline and v2: what each side's storage must offer. Every method may be repeated;
 * each is guarded by the hand-off's own id and the ownership epoch, so a hand-off that was overtaken changes nothing.
 */
import type { DedupeStrategy, StoredEvent } from './batch-store.ts';

/** Also the owner a trigger has meanwhile. */
export type Direction = 'to_v2' | 'to_legacy';

/** Why a trigger was not moved. */
export type HandOffRefusal =
  /** No such trigger. */
  | 'not_found'
  /** It belongs to the wanted pipeline already. */
  | 'already_there'
  /** Another hand-off moves it. */
  | 'moving'
  /** Nobody has said how its toolkit's cursors are carried over. */
  | 'no_codec'
  /** The engine has not read it, or its newest change, from the feed. */
  | 'not_in_engine'
  /** The pipeline that has it did not let go in time. */
  | 'still_running';

export interface HandOffKey {
  readonly triggerId: string;
  /** The version the engine must have read before the trigger may move. */
  readonly configVersion: number;
}

/** What a trigger takes along. Times are RFC 3339. */
export interface CarriedTrigger {
  readonly triggerId: string;
  readonly toolkit: string;
  readonly dedupe: DedupeStrategy;
  /** The epoch it has under its new owner. */
  readonly ownershipEpoch: number;
  /** Epoch of its last poll, so that events go on sorting. */
  readonly pollEpoch: number;
  /** Instructions of later versions have not been carried out yet. */
  readonly configVersion: number;
  /** JSON text or null. */
  readonly cursor: string | null;
  /** base64. */
  readonly seen: string;
  /** Items dated up to here have been told: for a codec that carries no seen keys. */
  readonly toldUntil: string | null;
  readonly primed: boolean;
  /** Where a prime that is still to come starts. */
  readonly primeFrom: string | null;
  readonly versionUsed: string | null;
  readonly failureCount: number;
  readonly poisonCount: number;
  readonly nextPollAt: string | null;
  readonly lastOkAt: string | null;
  readonly halted: { readonly code: string; readonly at: string } | null;
  /** Undelivered events, oldest first. */
  readonly held: readonly StoredEvent[];
}

export interface Sealed {
  /** At rest: nothing writes what they remember any more. */
  readonly carried: readonly CarriedTrigger[];
  /** Deleted meanwhile. */
  readonly gone: readonly string[];
  /** Milliseconds until more may be at rest; null when all are. */
  readonly waitMs: number | null;
}

interface SealInput {
  readonly handOff: string;
  readonly triggerIds: readonly string[];
  /** A call that had begun when its pipeline let go is over after this. */
  readonly longestCallSeconds: number;
}

/** workerdb's side. */
export interface EngineHandOffs {
  /** Stops the engine from claiming (to_legacy), or announces (to_v2); `missing`: not there, or not as new as asked. */
  mark(input: {
    readonly handOff: string;
    readonly direction: Direction;
    readonly keys: readonly HandOffKey[];
  }): Promise<{ readonly marked: readonly string[]; readonly missing: readonly string[] }>;
  /** to_legacy: what is leased by no batch any more comes to rest; a repeatable one is fenced after `graceSeconds`. */
  seal(input: SealInput & { readonly graceSeconds: number }): Promise<Sealed>;
  /** to_v2: answers those it owns now, and the timer shards to arm. */
  accept(input: { readonly handOff: string; readonly carried: readonly CarriedTrigger[] }): Promise<{
    readonly accepted: readonly string[];
    readonly arm: readonly number[];
  }>;
  /** to_legacy, once the other side has accepted. */
  conclude(input: { readonly handOff: string; readonly triggerIds: readonly string[] }): Promise<void>;
  /** Back to the old owner, unless at rest already. */
  cancel(input: {
    readonly handOff: string;
    readonly direction: Direction;
    readonly triggerIds: readonly string[];
  }): Promise<void>;
  /** How many triggers each pipeline owns. */
  owners(): Promise<Readonly<Record<'legacy' | 'to_v2' | 'v2' | 'to_legacy', number>>>;
}

export interface MigrationScope {
  readonly tenantId?: string;
  readonly toolkit?: string;
}

/** registrydb's side. */
export interface LegacyHandOffs {
  count(direction: Direction, scope: MigrationScope): Promise<number>;
  /** Triggers the other pipeline owns, in order of their ids. */
  select(input: {
    readonly direction: Direction;
    readonly scope: MigrationScope;
    readonly after: string | null;
    readonly limit: number;
  }): Promise<readonly string[]>;
  /** Marks what may move. `accepts`: whether a codec carries cursors of this toolkit and strategy. */
  begin(input: {
    readonly handOff: string;
    readonly direction: Direction;
    readonly triggerIds: readonly string[];
    readonly accepts: (toolkit: string, dedupe: DedupeStrategy) => boolean;
  }): Promise<{
    readonly begun: readonly HandOffKey[];
    readonly refused: readonly { readonly triggerId: string; readonly code: HandOffRefusal }[];
  }>;
  /** to_v2: those whose workflow has not been seen closed, with the seconds since they were marked. */
  unquiet(input: {
    readonly handOff: string;
    readonly triggerIds: readonly string[];
  }): Promise<readonly { readonly triggerId: string; readonly seconds: number }[]>;
  markQuiet(input: { readonly handOff: string; readonly triggerIds: readonly string[] }): Promise<void>;
  seal(input: SealInput): Promise<Sealed>;
  /** to_legacy: answers those it owns now. */
  accept(input: {
    readonly handOff: string;
    readonly actor: string;
    readonly carried: readonly CarriedTrigger[];
  }): Promise<readonly string[]>;
  conclude(input: {
    readonly handOff: string;
    readonly actor: string;
    readonly triggerIds: readonly string[];
  }): Promise<void>;
  cancel(input: {
    readonly handOff: string;
    readonly direction: Direction;
    readonly triggerIds: readonly string[];
  }): Promise<void>;
}

/** Carries what triggers remember from one side to the other: sealed, immutable, out of Temporal's history. */
export interface CarriedObjects {
  /** Writes unless it is there already; answers what is there. */
  put(name: string, carried: readonly CarriedTrigger[]): Promise<readonly CarriedTrigger[]>;
  /** Throws when it is absent or not what was written. */
  get(name: string): Promise<readonly CarriedTrigger[]>;
}
