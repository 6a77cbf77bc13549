/** InboxStore: events that are collected for a run, or handed to one that is open. */
import type { NewEvent, NewTask } from './activity-store.ts';

/** What is known of what was collected under a key and not handed on. */
export interface CollectFacts {
  /** The definition the last event matched, JSON text, and the index of its entry in `on`. */
  readonly spec: string;
  readonly entry: number;
  readonly count: number;
  readonly firstMs: number;
  readonly lastMs: number;
  readonly nowMs: number;
}

export type CollectDecision = { readonly waitMs: number } | { readonly take: number };

export interface Collected {
  /** JSON text, in order of arrival; the first thousand. */
  readonly records: readonly string[];
  /** Of all. */
  readonly count: number;
  readonly firstMs: number;
  readonly lastMs: number;
}

export interface InboxStore {
  /**
   * Takes what was collected under a key as one batch, once `decide` says so, and stores the event made of it. A repeat with
   * the same batch answers the same.
   */
  takeCollected(
    input: { readonly activityId: string; readonly key: string; readonly batch: string },
    decide: (facts: CollectFacts) => CollectDecision,
    compose: (given: Collected) => NewEvent,
  ): Promise<
    | { readonly state: 'empty' }
    | { readonly state: 'wait'; readonly waitMs: number }
    | { readonly state: 'taken'; readonly event: NewEvent; readonly version: number }
  >;
  /** The oldest event under a key that no run has taken. */
  nextDelivered(
    activityId: string,
    key: string,
  ): Promise<{ readonly eventKey: string; readonly version: number; readonly record: string } | null>;
  /** Adds the tasks of a delivered event behind those of the run, once. */
  addPlan(
    runId: string,
    eventKey: string,
    plan: { readonly tasks: readonly NewTask[]; readonly truncated: boolean },
  ): Promise<void>;
}
