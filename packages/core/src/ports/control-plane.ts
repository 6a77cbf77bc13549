/** ControlPlane: the three engine endpoints, as the engine sees them. Answers are validated; nothing is trusted by position. */
import type { Code } from '../codes.ts';

export interface ConnectionAsk {
  readonly connectionId: string;
  readonly tenantId: string;
  readonly toolkit: string;
  readonly triggerIds: readonly string[];
}

/** One connection's answer. `auth` is JSON text (an opaque object for the poll function). */
export type ConnectionAnswer =
  | {
      readonly connectionId: string;
      readonly tenantId: string;
      readonly code: 'ok';
      readonly auth: string;
      /** Milliseconds it lasts, by the answer's own clock, from when the answer came; null when it does not expire. */
      readonly lastsMs: number | null;
    }
  | {
      readonly connectionId: string;
      readonly tenantId: string;
      readonly code:
        | 'auth.expired'
        | 'auth.revoked'
        | 'auth.not_found'
        | 'auth.refresh_failed'
        | 'auth.missing'
        | 'auth.unavailable'
        | 'auth.payload_too_large';
      readonly reason: string;
      /** Seconds, from a 429 or a 5xx that named it. */
      readonly retryAfterSeconds?: number;
    };

export interface StateResult {
  readonly triggerId: string;
  readonly leaseEpoch: number;
  /** Version of the trigger's record that the poll was made with. */
  readonly configVersion: number;
  readonly triggerVersion: string;
  /** Whole CloudEvents, each as JSON text. */
  readonly events: readonly string[];
  readonly last: boolean;
  /** Opaque, ≤ 96 KiB. */
  readonly pollState?: string;
}

export type StateStatus =
  | { readonly triggerId: string; readonly status: 'accepted' }
  | { readonly triggerId: string; readonly status: 'gone'; readonly reason?: string }
  | { readonly triggerId: string; readonly status: 'rejected'; readonly eventId?: string; readonly reason?: string };

/** What a POST /state came to, classified once, here. `statuses` are matched by id; a missing one is not accepted. */
export type StateAnswer =
  | {
      readonly kind: 'answered';
      readonly statuses: readonly StateStatus[];
      readonly lifecycle: readonly LifecycleEcho[];
    }
  | { readonly kind: 'gone' }
  /** 413, 400 or 422: halve to one event, then dead letter. */
  | { readonly kind: 'refused'; readonly status: number; readonly reason: string }
  /** 401, 403, 404: platform, parked, alert. */
  | { readonly kind: 'misconfigured'; readonly status: number; readonly reason: string }
  /** 429, 5xx, time-out, reset. */
  | { readonly kind: 'unavailable'; readonly reason: string; readonly retryAfterSeconds?: number };

export interface LifecycleRecord {
  readonly triggerId: string;
  readonly configVersion: number;
  readonly state: 'halted' | 'resumed' | 'warning';
  readonly code: Code | string;
  /** RFC 3339. */
  readonly at: string;
}

export interface LifecycleEcho {
  readonly triggerId: string;
  readonly at: string;
}

export interface TriggerChange {
  readonly op: 'upsert' | 'delete';
  readonly triggerId: string;
  readonly configVersion: number;
  readonly tenantId: string;
  readonly toolkit: string;
  readonly slug: string;
  readonly version: string;
  /** JSON text. */
  readonly config: string;
  readonly connectionId: string;
  readonly intervalSeconds: number;
  readonly enabled: boolean;
  readonly since?: string;
  readonly createdAt: string;
  readonly poll: {
    readonly dedupe: 'unique' | 'hash' | 'watermark';
    readonly overlapSeconds?: number;
    readonly repeatable: boolean;
  };
  readonly primed: boolean;
  readonly pollNow: boolean;
  /** A rewind: JSON text of the new cursor. `undefined`: no rewind. */
  readonly cursor?: string;
  readonly pollState?: string;
  readonly resume?: 'cursor' | 'now';
  /** The newest version that lifts a halt: what changed and changed back between two reads of the feed does too. */
  readonly liftedVersion?: number;
  /** Who polls it, for an engine that does not know it yet; later a hand-off decides. Absent: v2. */
  readonly pipeline?: 'v2' | 'legacy';
  /** How often its owner has changed: with it `pipeline` counts for an engine that knows of fewer changes. */
  readonly ownershipEpoch?: number;
}

export interface DeletedTrigger {
  readonly op: 'delete';
  readonly triggerId: string;
  readonly configVersion: number;
}

export type FeedChange = (TriggerChange & { readonly op: 'upsert' }) | DeletedTrigger;

export type FeedAnswer =
  | { readonly kind: 'page'; readonly changes: readonly FeedChange[]; readonly next: string; readonly more: boolean }
  /** 410: the cursor expired; a full resync is due. */
  | { readonly kind: 'expired' }
  | { readonly kind: 'unavailable'; readonly reason: string; readonly retryAfterSeconds?: number };

export interface ControlPlane {
  /** Asks for the connections in chunks by toolkit, halves on too-large, answers each asked (tenant, connection) exactly once. */
  fetchConnections(
    asks: readonly ConnectionAsk[],
    options?: { readonly signal?: AbortSignal; readonly onAnswers?: (answers: readonly ConnectionAnswer[]) => void },
  ): Promise<readonly ConnectionAnswer[]>;
  /** One POST /state. The caller chunks (≤ 500 events and ≤ 1 MiB) and halves. */
  postState(input: {
    readonly batchId: string;
    readonly results: readonly StateResult[];
    readonly lifecycle: readonly LifecycleRecord[];
    readonly signal?: AbortSignal;
  }): Promise<StateAnswer>;
  /** One GET /triggers/changes; `after` null for the beginning. */
  readChanges(input: {
    readonly after: string | null;
    readonly limit: number;
    readonly waitSeconds: number;
    readonly signal?: AbortSignal;
  }): Promise<FeedAnswer>;
  /** Breaker state, read by claim and tick: open means nothing is dispatched. */
  available(): boolean;
  close(): Promise<void>;
}
