/** The model's tick: the same plan as `workerdb`'s statement, in the same order of thought. */
import type { TickInput, TickResult } from '@milkrun/core';
import {
  type Batch,
  batchByNo,
  byKey,
  connectionKeyOf,
  isLive,
  limitKeyOf,
  type ModelContext,
  type Row,
} from './tables.ts';

const MINUTE = 60_000;
const WORKER_LIVE_MS = 45_000;

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

export function tick(context: ModelContext, input: TickInput, seen?: (what: TickSeen) => void): TickResult {
  const { tables } = context;
  const now = context.now();
  const shard = tables.timerShards.get(input.timerShard);
  if (shard === undefined)
    return { planned: [], unclaimed: [], due: 0, left: 0, wakeInMs: MINUTE, oldestDueSeconds: 0, backoffMs: 0 };
  const all = [...tables.batches.values()];
  const live = all.filter((batch) => isLive(batch, now));
  const pending = all.filter(
    (batch) => batch.claimedAt === null && batch.endedAt === null && batch.startedAt > now - MINUTE,
  );
  const planned = new Set(pending.flatMap((batch) => (batch.keys ?? []).map((key) => `${key.triggerId} ${key.epoch}`)));
  const candidates = [...tables.rows.values()]
    .filter(
      (row) =>
        shard.serves.includes(row.shard) &&
        row.enabled &&
        (row.haltedCode === null || row.haltedProbe) &&
        row.nextPollAt !== null &&
        row.nextPollAt <= now + MINUTE,
    )
    .map((row) => ({ row, at: dueAt(context, row) }));
  const due = candidates
    .filter(({ row, at }) => at <= now && !planned.has(`${row.triggerId} ${row.leaseEpoch}`))
    .sort((a, b) => a.at - b.at || (a.row.triggerId < b.row.triggerId ? -1 : 1));
  const ranks = new Map<string, number>();
  const ready = due.map(({ row, at }): ReadyRow => {
    const rank = (ranks.get(row.tenantId) ?? 0) + 1;
    ranks.set(row.tenantId, rank);
    return { row, at, rank };
  });
  ready.sort((a, b) => a.rank - b.rank || a.at - b.at || (a.row.triggerId < b.row.triggerId ? -1 : 1));
  const workers = Math.max(1, [...tables.workers.values()].filter((at) => at > now - WORKER_LIVE_MS).length);
  const batches = live.length + pending.length;
  const open =
    live.reduce((sum, batch) => sum + batch.open, 0) + pending.reduce((sum, batch) => sum + batch.planned, 0);
  const size = input.batchSize;
  const isBackedOff = shard.backoffUntil !== null && shard.backoffUntil > now;
  const room =
    !input.dispatch || isBackedOff
      ? 0
      : Math.max(
          0,
          Math.min(
            ready.length,
            2 * size * workers - open,
            size * (16 * workers - batches),
            size * input.batchIds.length,
          ),
        );
  const keys = room >= ready.length || (room % size) * 2 >= size ? room : room - (room % size);
  const chosen = ready.slice(0, keys);
  const made: Batch[] = [];
  for (let at = 0; at < chosen.length; at += size) {
    const part = chosen
      .slice(at, at + size)
      .map(({ row }) => ({ shard: row.shard, triggerId: row.triggerId, epoch: row.leaseEpoch }))
      .sort(byKey);
    const batch: Batch = {
      batchNo: tables.nextBatchNo,
      batchId: input.batchIds[at / size] as string,
      timerShard: input.timerShard,
      planned: part.length,
      startedAt: now,
      keys: part,
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
    made.push(batch);
  }
  seen?.({ ready, planned: made });
  const later = candidates.map(({ at }) => at).filter((at) => at > now);
  shard.tickedAt = now;
  if (isBackedOff) shard.wakeAt = Math.min(shard.backoffUntil as number, now + MINUTE);
  else if (ready.length > keys) shard.wakeAt = now;
  else shard.wakeAt = Math.min(now + MINUTE, ...later);
  const oldest = Math.min(...ready.map(({ at }) => at));
  return {
    planned: made.map((batch) => ({ batchId: batch.batchId, keys: batch.planned })),
    unclaimed: pending.filter((batch) => batch.timerShard === input.timerShard).map((batch) => batch.batchId),
    due: ready.length,
    left: ready.length - keys,
    wakeInMs: Math.max(0, shard.wakeAt - now),
    oldestDueSeconds: ready.length === 0 ? 0 : (now - oldest) / 1000,
    backoffMs: shard.backoffUntil === null ? 0 : Math.max(0, shard.backoffUntil - now),
  };
}
