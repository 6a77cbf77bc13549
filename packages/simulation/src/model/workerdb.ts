/**
 * workerdb in memory, behind the ports the steps and the dispatcher use, with a clock and randomness given to it.
 *
 * It says what the statements mean, one row after the other. `test/contract.pg.test.ts` makes the same calls on it and on
 * PostgreSQL and compares every answer and every row, so that neither can drift from the other.
 */
import {
  type BatchStore,
  type DispatchStore,
  type LeasedKey,
  type LivenessReport,
  STORAGE_SHARDS,
  type Violation,
} from '@milkrun/core';
import { check, claim, end, extend } from './claim.ts';
import { commit } from './commit.ts';
import { applyFeedPage, clearHalts, type FeedSeen, finishResync, makeAllDue, makeDue } from './feed.ts';
import {
  batchByNo,
  connectionKeyOf,
  emptyTables,
  isLive,
  iso,
  limitKeyOf,
  type ModelContext,
  nextSlot,
  type Tables,
} from './tables.ts';
import { type TickSeen, tick } from './tick.ts';

const MINUTE = 60_000;

type Settled<T> = {
  readonly [K in keyof T]: T[K] extends (...args: infer A) => Promise<infer R> ? (...args: A) => R : T[K];
};

/** The stores' methods, answering at once; whoever puts them behind a port adds the waiting and the faults. */
export type ModelWorkerDb = Settled<Omit<BatchStore & DispatchStore, 'withTurn'>> & {
  readonly tables: Tables;
  /** Whether the named turn is this worker's for the next seconds. */
  takeTurn(name: string, holdSeconds: number, workerId: string): boolean;
  pollNow(triggerId: string): boolean;
  pollAllNow(): number;
  clearHalts(code: string): number;
};

export interface ModelOptions {
  readonly now: () => number;
  readonly random: () => number;
  /** Milliseconds between ticks, for the liveness rule. */
  readonly tickMs?: number;
  readonly onTick?: (seen: TickSeen) => void;
  readonly onFeed?: (seen: FeedSeen) => void;
}

export function createModelWorkerDb(options: ModelOptions): ModelWorkerDb {
  const tables = emptyTables();
  const { now } = options;
  const context: ModelContext = { tables, now, random: options.random };
  const tickMs = options.tickMs ?? 10_000;
  let tokens = 0;
  return {
    tables,
    claim: (input) => claim(context, input),
    extend: (input) => extend(context, input),
    check: (batchId) => check(context, batchId),
    readStates: (keys) =>
      keys.flatMap(({ triggerId }) => {
        const row = tables.rows.get(triggerId);
        return row === undefined ? [] : [{ shard: row.shard, triggerId, cursor: row.cursor, seen: row.seen }];
      }),
    readHeld: (keys: readonly LeasedKey[]) => keys.flatMap(({ triggerId }) => tables.held.get(triggerId) ?? []),
    holdFenced: (events) => {
      for (const event of events) {
        if (!tables.rows.has(event.triggerId)) continue;
        const own = tables.held.get(event.triggerId) ?? [];
        tables.held.set(event.triggerId, own);
        if (!own.some(({ eventId }) => eventId === event.eventId)) own.push(event);
      }
    },
    commit: (input) => commit(context, input),
    end: (batchId) => end(context, batchId),
    tick: (input) => tick(context, input, options.onTick),
    feedCursor: () => tables.feed.cursor,
    applyFeedPage: (input) => applyFeedPage(context, input, options.onFeed),
    beginResync: () => {
      tokens += 1;
      tables.marks.clear();
      tables.feed = { cursor: null, token: `token-${tokens}`, startedAt: now() };
      return `token-${tokens}`;
    },
    resyncInProgress: () => (tables.feed.startedAt === null ? null : tables.feed.token),
    finishResync: (input) => finishResync(context, input),
    heartbeatWorker: ({ workerId }) => {
      tables.workers.set(workerId, now());
      return { live: [...tables.workers.values()].filter((at) => at > now() - 45_000).length };
    },
    removeWorker: (workerId) => {
      tables.workers.delete(workerId);
      for (const [name, turn] of tables.turns) if (turn.workerId === workerId) tables.turns.delete(name);
      return { othersLive: [...tables.workers.values()].filter((at) => at > now() - 45_000).length };
    },
    timerShards: () => [...tables.timerShards.keys()].sort((a, b) => a - b),
    ensureTimerShards: (count) => {
      if (tables.timerShards.size > 0) return;
      for (let timerShard = 0; timerShard < count; timerShard += 1) {
        const serves = Array.from({ length: STORAGE_SHARDS }, (_, n) => n).filter((n) => n % count === timerShard);
        tables.timerShards.set(timerShard, {
          timerShard,
          serves,
          backoffLevel: 0,
          backoffUntil: null,
          tickedAt: null,
          wakeAt: Number.NEGATIVE_INFINITY,
        });
      }
    },
    liveness: () => liveness(context, tickMs),
    repairLiveness: (report) => repair(context, report),
    pendingLifecycle: (limit) => {
      const pending = tables.outbox
        .filter(({ acknowledgedAt, offeredUntil }) => acknowledgedAt === null && offeredUntil < now())
        .slice(0, limit);
      for (const record of pending) record.offeredUntil = now() + 30_000;
      return pending.map(({ id, triggerId, configVersion, state, code, at }) => ({
        id: String(id),
        triggerId,
        configVersion,
        state,
        code,
        at: iso(at),
      }));
    },
    acknowledgeLifecycle: (ids) => {
      const wanted = new Set(ids);
      for (const record of tables.outbox)
        if (wanted.has(String(record.id)) && record.acknowledgedAt === null) record.acknowledgedAt = now();
    },
    takeTurn: (name, holdSeconds, workerId) => {
      const turn = tables.turns.get(name);
      if (turn !== undefined && turn.workerId !== workerId && turn.until >= now()) return false;
      tables.turns.set(name, { workerId, until: now() + holdSeconds * 1000 });
      return true;
    },
    pollNow: (triggerId) => makeDue(context, triggerId),
    pollAllNow: () => makeAllDue(context),
    clearHalts: (code) => clearHalts(context, code),
  };
}

function liveness({ tables, now }: ModelContext, tickMs: number): LivenessReport {
  const at = now();
  const isHeld = (key: string): boolean => {
    const limit = tables.limits.get(key);
    return limit !== undefined && (limit.notBefore > at || limit.perMinute !== null);
  };
  const violations: Violation[] = [];
  let polled = 0;
  let stale = 0;
  let oldest = at;
  for (const row of tables.rows.values()) {
    if (!row.enabled || row.haltedCode !== null) continue;
    polled += 1;
    if (row.lastOkAt !== null && row.lastOkAt < at - 3 * row.intervalS * 1000) stale += 1;
    const leased = isLive(batchByNo(tables, row.leaseOwner), at);
    const shard = [...tables.timerShards.values()].find(({ serves }) => serves.includes(row.shard));
    const isPaused = shard?.backoffUntil != null && shard.backoffUntil > at;
    const held =
      isPaused ||
      isHeld(limitKeyOf(row.toolkit, connectionKeyOf(row))) ||
      isHeld(limitKeyOf(row.toolkit, '')) ||
      isHeld(limitKeyOf('', ''));
    if (row.nextPollAt !== null && !leased && !held) oldest = Math.min(oldest, row.nextPollAt);
    const kind = breachOf(row.nextPollAt, row.intervalS, leased, at, tickMs);
    if (kind === undefined) continue;
    const where = shard === undefined ? {} : { timerShard: shard.timerShard };
    violations.push({ kind, triggerId: row.triggerId, ...where, detail: '', held });
  }
  const open: Record<string, number> = {};
  for (const { kind, held } of violations) if (held !== true) open[kind] = (open[kind] ?? 0) + 1;
  return {
    checked: tables.rows.size,
    polled,
    open,
    violations,
    stale,
    staleTriggers: [],
    silent: 0,
    silentTriggers: [],
    oldestDueSeconds: Math.max(0, at - oldest) / 1000,
    quietShards: [...tables.timerShards.values()]
      .filter(({ tickedAt }) => (tickedAt ?? Number.NEGATIVE_INFINITY) < at - MINUTE - tickMs)
      .map(({ timerShard }) => timerShard),
  };
}

/** Gives what lost its next poll one again, and clears away what is over. */
function repair(context: ModelContext, report: LivenessReport): void {
  const at = context.now();
  if (report.violations.some(({ kind }) => kind === 'no_next_poll' || kind === 'too_far_ahead')) {
    for (const row of context.tables.rows.values()) {
      if (!row.enabled || row.haltedCode !== null) continue;
      if (row.nextPollAt === null) row.nextPollAt = at;
      else if (row.nextPollAt > at + Math.max(row.intervalS, 86_400) * 1000 + MINUTE)
        row.nextPollAt = nextSlot(at, row.intervalS, row.phaseS);
    }
  }
  sweep(context, report.polled);
}

function breachOf(
  nextPollAt: number | null,
  intervalS: number,
  leased: boolean,
  at: number,
  tickMs: number,
): string | undefined {
  if (nextPollAt === null) return 'no_next_poll';
  if (nextPollAt > at + Math.max(intervalS, 86_400) * 1000 + 60_000) return 'too_far_ahead';
  return !leased && nextPollAt < at - tickMs - 60_000 ? 'overdue' : undefined;
}

/** What a liveness round counts and clears beside. */
function sweep({ tables, now }: ModelContext, polled: number): void {
  const at = now();
  const { fleet } = tables;
  fleet.polled = polled;
  const since = Math.max(at - 3_600_000, fleet.brakeResetAt);
  const halts = tables.outbox.filter(
    ({ state, code, at: when }) => state === 'halted' && code === 'receiver_gone' && when > since,
  ).length;
  fleet.braked = fleet.braked && halts >= Math.max(50, Math.ceil(polled * 0.05));
  for (const slots of tables.health.values())
    for (const slot of slots.keys()) if (slot < Math.floor(at / 10_000) - 60) slots.delete(slot);
  for (const [key, limit] of tables.limits)
    if (limit.perMinute === null && limit.notBefore < at - 60_000) tables.limits.delete(key);
  for (const batch of tables.batches.values()) {
    if (batch.endedAt !== null || batch.startedAt >= at - 86_400_000) continue;
    batch.endedAt = at;
    batch.open = 0;
    batch.keys = null;
  }
  for (const batchNo of tables.fences.keys())
    if (batchByNo(tables, batchNo)?.endedAt !== null) tables.fences.delete(batchNo);
}
