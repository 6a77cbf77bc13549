/** AlonePoller: one trigger polled and delivered without a batch, by the same rules as in one. */
import type { ClaimedTrigger, CommitRow, HeldEvent, TriggerState } from './batch-store.ts';

export interface AloneInput {
  /** Stands for the batch id, in events and in `/state`. */
  readonly runId: string;
  readonly trigger: ClaimedTrigger;
  readonly state: TriggerState;
  /** Events kept from earlier polls, sent first. */
  readonly held: readonly HeldEvent[];
  readonly budgetMs: number;
  readonly signal: AbortSignal;
  /** Asked right before the poll function is called. False: nothing is called and nothing is to be committed. */
  readonly mayPoll: () => Promise<boolean>;
}

/**
 * Takes a slot of the process, polls, delivers, and answers what is to be committed; undefined when the poll may not start,
 * or was aborted. Rejects only for a broken port.
 */
export type AlonePoller = (input: AloneInput) => Promise<CommitRow | undefined>;
