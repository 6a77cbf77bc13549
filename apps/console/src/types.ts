/** What the API answers, as far as the console reads it. */

export interface EngineFigures {
  readonly now: string;
  readonly feedAtEnd: boolean;
  readonly triggers: number;
  readonly due: number;
  readonly oldestDueSeconds: number;
  readonly leasesHeld: number;
  readonly halted: Readonly<Record<string, number>>;
  readonly batches: Readonly<Record<string, number>>;
  readonly polls: number;
  readonly dueLagP99Seconds: number | null;
  readonly eventsFound: number;
  readonly eventsDelivered: number;
  readonly undelivered: number;
  readonly workers: number;
  readonly braked: boolean;
  readonly widthInUse: number;
  readonly codes: Readonly<Record<string, number>>;
}

export interface Fleet {
  readonly triggers: number;
  readonly enabled: number;
  readonly engine: EngineFigures | null;
  readonly engineProblem: string | null;
}

export interface PageOf<T> {
  readonly items: readonly T[];
  readonly next: string | null;
}

export interface Trigger {
  readonly id: string;
  readonly deduplicationKey: string | null;
  readonly name: string | null;
  readonly tags: readonly string[];
  readonly toolkit: string;
  readonly slug: string;
  readonly version: string;
  readonly config: unknown;
  readonly connectionId: string;
  readonly intervalSeconds: number;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly poll: { readonly dedupe: string };
  readonly status: {
    readonly state: 'active' | 'disabled' | 'halted';
    readonly code: string | null;
    readonly meaning: string | null;
    readonly since: string | null;
    readonly by: string | null;
    readonly reason: string | null;
    readonly ends: readonly string[];
  };
  readonly warning: { readonly code: string; readonly at: string } | null;
  readonly lastEventAt: string | null;
}

interface Wait {
  readonly reason: string;
  readonly since: string | null;
  readonly until: string | null;
}

export interface QuietLine {
  readonly what: 'quiet';
  readonly from: string;
  readonly to: string;
  readonly polls: number;
}

export interface PollLine {
  readonly what: 'polled' | 'halted' | 'released' | 'failed' | 'fenced';
  readonly at: string;
  readonly dueAt: string | null;
  readonly claimedAt: string | null;
  readonly claimedBy: string | null;
  readonly skipped: readonly Wait[];
  readonly code: string;
  readonly found: number;
  readonly deduplicated: number;
  readonly delivered: number;
  readonly pollMs: number | null;
  readonly reason: string | null;
  readonly nextAt: string | null;
}

export interface Explanation {
  readonly trigger: {
    readonly nextPollAt: string | null;
    readonly lastPolledAt: string | null;
    readonly lastOkAt: string | null;
    readonly lastCode: string | null;
    readonly failureCount: number;
    readonly primed: boolean;
    readonly leaseEpoch: number | string;
    readonly seenKeys: number;
    readonly cursor: string | null;
  };
  readonly now: string;
  readonly waits: readonly Wait[];
  readonly since: string;
  readonly until: string;
  readonly timeline: readonly (QuietLine | PollLine)[];
  readonly more: boolean;
}

export interface Connection {
  readonly id: string;
  readonly toolkit: string;
  readonly name: string;
  readonly kind: string;
  readonly status: 'active' | 'expired' | 'revoked' | 'refresh_failed';
  readonly statusReason: string | null;
  readonly expiresAt: string | null;
  readonly updatedAt: string;
}

export interface StoredEvent {
  readonly id: string;
  readonly triggerId: string;
  readonly storedAt: string;
  readonly event: unknown;
}

export interface Activity {
  readonly id: string;
  readonly slug: string;
  readonly name: string;
  readonly enabled: boolean;
  readonly trigger_type: 'cron' | 'at' | 'event' | 'manual';
  readonly version: number;
  readonly status: 'active' | 'done' | 'tripped';
  readonly status_reason: string | null;
  readonly failures_in_row: number;
  readonly covered_at: string | null;
  readonly updated_at: string;
  readonly definition: unknown;
}

export interface Tick {
  readonly at: string | null;
  readonly local: string;
  readonly flag: string | null;
  readonly runs: boolean;
}

export interface Run {
  readonly run_id: string;
  readonly activity_id: string;
  readonly slug: string;
  readonly status: string;
  readonly reason: string | null;
  readonly origin: string;
  readonly scheduled_for: string | null;
  readonly fired_at: string | null;
  readonly admitted_at: string | null;
  readonly finished_at: string | null;
  readonly tasks_planned: number;
  readonly tasks_done: number;
  readonly tasks_failed: number;
  readonly dry_run: boolean;
  readonly version_used: number;
  readonly workflow_id: string;
  readonly error: unknown;
  readonly event?: unknown;
  readonly context_snapshot?: unknown;
}

export interface Task {
  readonly task_id: string;
  readonly run_id: string;
  readonly activity_id: string;
  readonly title: string | null;
  readonly type: string;
  readonly mode: 'auto' | 'human';
  readonly status: string;
  readonly attempts: number;
  readonly assignee: string | null;
  readonly due_at: string | null;
  readonly created_at: string;
  readonly finished_at: string | null;
  readonly error: unknown;
}

export interface ActivityLetter {
  readonly id: string;
  readonly stage: string;
  readonly event_key: string | null;
  readonly error: string;
  readonly tries: number;
  readonly at: string;
  readonly raw: string;
}

export interface EngineLetter {
  readonly id: string;
  readonly triggerId: string | null;
  readonly at: string;
  readonly stage: string;
  readonly code: string;
  readonly reason: string;
}

export interface Batch {
  readonly batchId: string;
  readonly timerShard: number;
  readonly step: string;
  readonly hop: number;
  readonly planned: number;
  readonly entries: number | null;
  readonly open: number;
  readonly startedAt: string;
  readonly expiresAt: string | null;
  readonly endedAt: string | null;
}

export interface Shard {
  readonly timerShard: number;
  readonly storageShards: readonly number[];
  readonly due: number;
  readonly wakeAt: string | null;
  readonly tickedAt: string | null;
  readonly backoffUntil: string | null;
}

export interface Worker {
  readonly workerId: string;
  readonly width: number;
  readonly startedAt: string;
  readonly seenAt: string;
  readonly live: boolean;
  readonly turns: readonly string[];
}

export interface Hold {
  readonly reason: string;
  readonly toolkit: string | null;
  readonly tenantId: string | null;
  readonly perMinute: number | null;
  readonly since: string;
  readonly until: string | null;
}

export interface Migration {
  readonly id: string;
  readonly direction: 'to_v2' | 'to_legacy';
  readonly state: 'running' | 'paused' | 'done';
  readonly pausedBecause: string | null;
  readonly total: number;
  readonly begun: number;
  readonly moved: number;
  readonly gone: number;
  readonly refused: Readonly<Record<string, number>>;
  readonly failed: number;
  readonly startedAt: string;
  readonly endedAt: string | null;
}
