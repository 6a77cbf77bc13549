/** The model's tick: the same plan as `workerdb`'s statements, in the same order of thought. */
import type { TickInput, TickResult } from '@milkrun/core';
import {
  type Batch,
  batchByNo,
  byKey,
  connectionKeyOf,
  isLive,
  limitKeyOf,
  type ModelContext,
  type PlannedKey,
  type Row,
} from './tables.ts';

const MINUTE = 60_000;
const WORKER_LIVE_MS = 45_000;
const RANKED_MS = 5_000;

/** A due row as the plan ranks it. */
interface ReadyRow {
  readonly row: Row;
  readonly at: number;
  readonly rank: number;
}

export interface TickSeen {
  readonly ready: readonly ReadyRow[];
  readonly planned: readonly Batch[];
}

/** `isBig`: of a tenant with over a quarter of what is due, which has batches of its own. */
type RankedKey = PlannedKey & { readonly isBig: boolean };
type Candidate = { readonly row: Row; readonly at: number };

/** What a plan is made from: what is due, what of it is at hand, in order, and when the next falls due. */
interface Sums {
  readonly due: number;
  readonly atHand: readonly RankedKey[];
  /** What of it belongs to tenants with no more than a quarter of what is due: planned alone where there is no room for a batch. */
  readonly small: readonly RankedKey[];
  readonly oldest: number | null;
  readonly next: number | null;
}

/** When a row counts as due: its own time, its live lease's end, every hold on it, whichever is latest. */
function dueAt({ tables, now }: ModelContext, row: Row): number {
  const { limits } = tables;
  const lease = batchByNo(tables, row.leaseOwner);
  const holds = [
    limits.get(limitKeyOf(row.toolkit, connectionKeyOf(row))),
    limits.get(limitKeyOf(row.toolkit, '')),
    limits.get(limitKeyOf('', '')),
  ].map((limit) => (limit === undefined || limit.notBefore <= now() ? 0 : limit.notBefore));
  return Math.max(row.nextPollAt as number, isLive(lease, now()) ? (lease.expiresAt as number) : 0, ...holds);
}

const byAge = (a: Candidate, b: Candidate): number => a.at - b.at || (a.row.triggerId < b.row.triggerId ? -1 : 1);

/** Rows a paced source would not let a claim take: they must not fill a batch's places. */
function surplusOf({ tables, now }: ModelContext, due: readonly Candidate[]): Set<Row> {
  const surplus = new Set<Row>();
  for (const { toolkit, connection, perMinute, notBefore } of tables.limits.values()) {
    if (perMinute === null || notBefore > now()) continue;
    const own = due.filter(
      ({ row }) => row.toolkit === toolkit && (connection === '' || connection === connectionKeyOf(row)),
    );
    for (const { row } of own.toSorted(byAge).slice(perMinute)) surplus.add(row);
  }
  return surplus;
}

function scan(context: ModelContext, serves: readonly number[], pending: readonly Batch[]) {
  const { tables } = context;
  const now = context.now();
  const planned = new Set(pending.flatMap((batch) => (batch.keys ?? []).map((key) => `${key.triggerId} ${key.epoch}`)));
  const candidates = [...tables.rows.values()]
    .filter(
      (row) =>
        serves.includes(row.shard) &&
        row.enabled &&
        (row.haltedCode === null || row.haltedProbe) &&
        row.nextPollAt !== null &&
        row.nextPollAt <= now + MINUTE,
    )
    .map((row): Candidate => ({ row, at: dueAt(context, row) }));
  const due = candidates.filter(({ at }) => at <= now);
  const surplus = surplusOf(context, due);
  const mine = new Map<string, number>();
  const ranks = new Map<string, number>();
  const ready = due
    .filter(({ row }) => !planned.has(`${row.triggerId} ${row.leaseEpoch}`) && !surplus.has(row))
    .sort(byAge)
    .map(({ row, at }): ReadyRow => {
      const rank = (ranks.get(row.tenantId) ?? 0) + 1;
      ranks.set(row.tenantId, rank);
      mine.set(row.tenantId, rank);
      return { row, at, rank };
    });
  ready.sort((a, b) => a.rank - b.rank || byAge(a, b));
  const later = candidates.map(({ at }) => at).filter((at) => at > now);
  const ownOf = (row: Row): number => mine.get(row.tenantId) ?? 0;
  const keyOf = ({ row }: ReadyRow): RankedKey => {
    const isBig = ownOf(row) * 4 > ready.length && ownOf(row) < ready.length;
    return { shard: row.shard, triggerId: row.triggerId, epoch: row.leaseEpoch, isBig };
  };
  const sums: Sums = {
    due: ready.length,
    atHand: ready.map(keyOf),
    small: ready.filter(({ row }) => ownOf(row) * 4 <= ready.length).map(keyOf),
    oldest: ready.length === 0 ? null : Math.min(...ready.map(({ at }) => at)),
    next: later.length === 0 ? null : Math.min(...later),
  };
  return { ready, sums };
}

export function tick(context: ModelContext, input: TickInput, seen?: (what: TickSeen) => void): TickResult {
  const { tables } = context;
  const now = context.now();
  const size = input.batchSize;
  const ahead = input.batchesAhead ?? 0;
  const shard = tables.timerShards.get(input.timerShard);
  const kept = ahead > 0 && input.dispatch ? keptOf(context, input) : undefined;
  if (shard === undefined)
    return {
      planned: [],
      unclaimed: [],
      due: 0,
      left: 0,
      wakeInMs: MINUTE,
      oldestDueSeconds: 0,
      backoffMs: 0,
      gone: true,
    };
  const all = [...tables.batches.values()];
  const live = all.filter((batch) => isLive(batch, now));
  const pending = all.filter(
    (batch) => batch.claimedAt === null && batch.endedAt === null && batch.startedAt > now - MINUTE,
  );
  const scanned = kept === undefined ? scan(context, shard.serves, pending) : undefined;
  const sums = kept ?? (scanned as NonNullable<typeof scanned>).sums;
  const workers = Math.max(1, [...tables.workers.values()].filter((at) => at > now - WORKER_LIVE_MS).length);
  const open =
    live.reduce((sum, batch) => sum + batch.open, 0) + pending.reduce((sum, batch) => sum + batch.planned, 0);
  const backoff = shard.backoffUntil;
  const isBackedOff = backoff !== null && backoff > now;
  const isProbing = shard.backoffLevel > 0;
  const isProbeOpen =
    backoff !== null &&
    [...live, ...pending].some((batch) => batch.timerShard === input.timerShard && batch.startedAt > backoff);
  const may = input.dispatch && !isBackedOff && !(isProbing && isProbeOpen);
  const room = may
    ? Math.max(
        0,
        Math.min(
          sums.due,
          2 * size * workers - open,
          size * (16 * workers - live.length - pending.length),
          size * (isProbing ? 1 : input.batchIds.length),
        ),
      )
    : 0;
  const rounded = room >= sums.due || (room % size) * 2 >= size ? room : room - (room % size);
  const whole = Math.min(sums.atHand.length, rounded);
  const keys = whole > 0 ? whole : Math.min(room, sums.small.length);
  const ranked = whole > 0 || kept !== undefined ? sums.atHand : sums.small;
  const made = put(context, input, ranked.slice(0, keys));
  if (kept !== undefined) (tables.ranked.get(input.timerShard) as { taken: number }).taken += keys;
  else if (ahead > 0)
    tables.ranked.set(input.timerShard, {
      rankedAt: now,
      due: sums.due - keys,
      taken: 0,
      oldest: sums.oldest,
      next: sums.next,
      keys: ranked.slice(keys, keys + (may ? ahead * size : 0)).map(({ isBig: _, ...key }) => key),
    });
  if (scanned !== undefined) seen?.({ ready: scanned.ready, planned: made });
  shard.tickedAt = now;
  if (isBackedOff) shard.wakeAt = Math.min(backoff, now + MINUTE);
  else if (sums.due > keys) shard.wakeAt = now;
  else shard.wakeAt = Math.min(now + MINUTE, sums.next ?? Number.POSITIVE_INFINITY);
  return {
    planned: made.map((batch) => ({ batchId: batch.batchId, keys: batch.planned })),
    unclaimed: pending.filter((batch) => batch.timerShard === input.timerShard).map((batch) => batch.batchId),
    due: sums.due,
    left: sums.due - keys,
    wakeInMs: Math.max(0, shard.wakeAt - now),
    oldestDueSeconds: sums.oldest === null ? 0 : (now - sums.oldest) / 1000,
    backoffMs: backoff === null ? 0 : Math.max(0, backoff - now),
  };
}

/** What an earlier scan of the last seconds has ranked, when there is a batch of it or all that is due. */
function keptOf({ tables, now }: ModelContext, input: TickInput): Sums | undefined {
  const kept = tables.ranked.get(input.timerShard);
  if (kept === undefined || kept.rankedAt <= now() - RANKED_MS || kept.rankedAt > now()) return undefined;
  const { keys, taken, due } = kept;
  if (taken >= keys.length || (taken + input.batchSize > keys.length && due !== keys.length)) return undefined;
  return {
    due: due - taken,
    small: [],
    atHand: keys.slice(taken).map((key) => ({ ...key, isBig: false })),
    oldest: kept.oldest,
    next: kept.next,
  };
}

function put({ tables, now }: ModelContext, input: TickInput, chosen: readonly RankedKey[]): Batch[] {
  const { batchSize, batchIds } = input;
  // Room for both kinds of batches, or none is apart.
  const mayBeApart = 2 * Math.ceil(chosen.length / batchSize) <= batchIds.length;
  const groups = new Map<number, PlannedKey[]>();
  for (const [at, { isBig, ...key }] of chosen.entries()) {
    const group = Math.floor(at / batchSize) + (isBig && mayBeApart ? Math.floor(batchIds.length / 2) : 0);
    groups.set(group, [...(groups.get(group) ?? []), key]);
  }
  return [...groups].map(([group, own]) => {
    const keys = own.sort(byKey);
    const batch: Batch = {
      batchNo: tables.nextBatchNo,
      batchId: batchIds[group] as string,
      timerShard: input.timerShard,
      planned: keys.length,
      startedAt: now(),
      keys,
      hop: 0,
      open: 0,
      entries: null,
      claimedAt: null,
      expiresAt: null,
      endedAt: null,
      step: 'planned',
    };
    tables.nextBatchNo += 1;
    tables.batches.set(batch.batchId, batch);
    return batch;
  });
}
