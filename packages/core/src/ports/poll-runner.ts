/** PollRunner: one call of the poll function for one trigger; never throws for what a poll can come to. */
import type { VerdictCode } from '../codes.ts';

export interface PollRequest {
  readonly toolkit: string;
  /** The poll contract's request as JSON text (spliced by the caller from stored text). */
  readonly body: string;
  /** Milliseconds this call may take, connect included. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

export interface PolledItem {
  readonly key?: string;
  readonly occurredAt?: string;
  readonly data: unknown;
}

/** A page as the poll function answered it: shape validated, items not yet (a bad item is the caller's to dead-letter). */
export interface PollPage {
  readonly items: readonly unknown[];
  /** JSON text of the cursor, or null. */
  readonly cursor: string | null;
  readonly more: boolean;
  readonly retryAfterSeconds?: number;
  readonly version?: string;
  readonly rekeys?: boolean;
}

export type PollReply =
  | { readonly code: 'ok'; readonly page: PollPage; readonly bytes: number }
  | {
      readonly code: Extract<VerdictCode, `poll.${string}`>;
      readonly message: string;
      readonly retryAfterSeconds?: number;
      /** Set with poll.throttled: lower the width. */
      readonly throttle?: string;
    }
  /** The caller's signal aborted it: no verdict, the entry stays as it was. */
  | { readonly code: 'aborted' };

export interface PollRunner {
  poll(request: PollRequest): Promise<PollReply>;
  available(): boolean;
  close(): Promise<void>;
}
