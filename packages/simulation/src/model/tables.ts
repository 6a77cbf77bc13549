/** The tables of the model: what workerdb keeps, as plain objects. Times are milliseconds of the model's own clock. */
import type { BatchStep, HeldEvent, LifecycleRecord, PollPolicy } from '@milkrun/core';
import type { RowFacts } from '../history.ts';

/** A trigger's three rows in one. */
export interface Row {
  readonly shard: number;
  readonly triggerId: string;
  configVersion: number;
  createdAt: number;
  since: number | null;
  tenantId: string;
  toolkit: string;
  slug: string;
  versionWanted: string;
  connectionId: string;
  pollPolicy: PollPolicy;
  config: string;
  enabled: boolean;
  intervalS: number;
  phaseS: number;
  defBytes: number;
  nextPollAt: number | null;
  leaseEpoch: number;
  lastCommittedEpoch: number;
  leaseOwner: number | null;
  lastPolledAt: number | null;
  lastOkAt: number | null;
  quietSince: number | null;
  quietPolls: number;
  failureCount: number;
  poisonCount: number;
  lastCode: string | null;
  primed: boolean;
  haltedProbe: boolean;
  haltedCode: string | null;
  haltedAt: number | null;
  stateBytes: number;
  lastEventAt: number | null;
  pollRequestedAt: number | null;
  versionUsed: string | null;
  cursor: string | null;
  seen: Uint8Array;
}

export interface PlannedKey {
  readonly shard: number;
  readonly triggerId: string;
  readonly epoch: number;
}

export interface Batch {
  readonly batchNo: number;
  readonly batchId: string;
  readonly timerShard: number;
  readonly planned: number;
  readonly startedAt: number;
  keys: readonly PlannedKey[] | null;
  hop: number;
  open: number;
  entries: number | null;
  claimedAt: number | null;
  expiresAt: number | null;
  endedAt: number | null;
  step: BatchStep | 'planned';
}

interface TimerShard {
  readonly timerShard: number;
  serves: readonly number[];
  backoffLevel: number;
  wakeAt: number;
  tickedAt: number | null;
  backoffUntil: number | null;
}

interface Limit {
  readonly toolkit: string;
  /** `tenant connection`, or empty for the whole toolkit. */
  readonly connection: string;
  perMinute: number | null;
  notBefore: number;
  readonly madeAt: number;
  steppedAt: number;
  readonly reason: 'rate_limited' | 'source_down';
}

/** What one scan ranked beyond the places there were, in order. */
interface Ranked {
  readonly rankedAt: number;
  readonly due: number;
  taken: number;
  readonly oldest: number | null;
  readonly next: number | null;
  readonly keys: readonly PlannedKey[];
}

export interface OutboxRow extends Omit<LifecycleRecord, 'at'> {
  readonly id: number;
  readonly at: number;
  offeredUntil: number;
  acknowledgedAt: number | null;
}

interface Letter {
  readonly triggerId: string;
  readonly stage: string;
  readonly code: string;
  readonly eventId: string | null;
  readonly raw: string;
}

export interface Tables {
  readonly rows: Map<string, Row>;
  readonly batches: Map<string, Batch>;
  /** By batch number, then trigger: whether it was deleted. */
  readonly fences: Map<number, Map<string, { readonly shard: number; deleted: boolean }>>;
  readonly timerShards: Map<number, TimerShard>;
  readonly ranked: Map<number, Ranked>;
  readonly workers: Map<string, number>;
  readonly limits: Map<string, Limit>;
  /** Polls and connector failures by toolkit and slot of ten seconds. */
  readonly health: Map<string, Map<number, { polls: number; failures: number }>>;
  readonly turns: Map<string, { workerId: string; until: number }>;
  readonly held: Map<string, HeldEvent[]>;
  readonly letters: Map<string, Letter>;
  readonly outbox: OutboxRow[];
  readonly tombstones: Map<string, number>;
  readonly marks: Set<string>;
  feed: { cursor: string | null; token: string | null; startedAt: number | null };
  fleet: { polled: number; braked: boolean; brakeResetAt: number };
  nextBatchNo: number;
  nextOutboxId: number;
}

export function emptyTables(): Tables {
  return {
    rows: new Map(),
    batches: new Map(),
    fences: new Map(),
    timerShards: new Map(),
    ranked: new Map(),
    workers: new Map(),
    limits: new Map(),
    health: new Map(),
    turns: new Map(),
    held: new Map(),
    letters: new Map(),
    outbox: [],
    tombstones: new Map(),
    marks: new Set(),
    feed: { cursor: null, token: null, startedAt: null },
    fleet: { polled: 0, braked: false, brakeResetAt: Number.NEGATIVE_INFINITY },
    nextBatchNo: 1,
    nextOutboxId: 1,
  };
}

/** The model's clock and randomness, and who is told what happens. */
export interface ModelContext {
  readonly tables: Tables;
  /** Milliseconds since the epoch, the database's. */
  readonly now: () => number;
  /** In [0, 1). */
  readonly random: () => number;
}

export const isLive = (batch: Batch | undefined, now: number): batch is Batch =>
  batch !== undefined && batch.endedAt === null && batch.expiresAt !== null && batch.expiresAt > now;

export function batchByNo(tables: Tables, batchNo: number | null): Batch | undefined {
  if (batchNo === null) return undefined;
  for (const batch of tables.batches.values()) if (batch.batchNo === batchNo) return batch;
  return undefined;
}

export const limitKeyOf = (toolkit: string, connection: string): string => JSON.stringify([toolkit, connection]);
export const connectionKeyOf = (row: Pick<Row, 'tenantId' | 'connectionId'>): string =>
  JSON.stringify([row.tenantId, row.connectionId]);

/** The first slot of a trigger after an instant. */
export function nextSlot(after: number, intervalS: number, phaseS: number): number {
  return (Math.floor((after / 1000 - phaseS) / intervalS) + 1) * intervalS * 1000 + phaseS * 1000;
}

/** Ascending by shard and id, as every lock is taken. */
export function byKey(
  a: { readonly shard: number; readonly triggerId: string },
  b: { readonly shard: number; readonly triggerId: string },
): number {
  return a.shard - b.shard || (a.triggerId < b.triggerId ? -1 : a.triggerId > b.triggerId ? 1 : 0);
}

/** JSON text as jsonb prints it: members by length of name and then by bytes, a space after `,` and `:`. */
export function jsonbText(text: string): string {
  return printed(JSON.parse(text) as unknown);
}

function printed(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(printed).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const names = Object.keys(value).sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
  return `{${names.map((name) => `${JSON.stringify(name)}: ${printed((value as Record<string, unknown>)[name])}`).join(', ')}}`;
}

export const iso = (ms: number): string => new Date(Math.floor(ms)).toISOString();

export function rowFactsOf(row: Row | undefined): RowFacts | undefined {
  if (row === undefined) return undefined;
  return {
    epoch: row.leaseEpoch,
    cursor: row.cursor,
    primed: row.primed,
    createdAt: row.createdAt,
    since: row.since,
    failures: row.failureCount,
    poisons: row.poisonCount,
    halted: row.haltedCode,
    enabled: row.enabled,
  };
}
