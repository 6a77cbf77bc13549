/** The model's claim, extension, check and end of a batch. */
import type { BatchCheck, ClaimedTrigger, ClaimResult, ExtendInput } from '@milkrun/core';
import {
  type Batch,
  batchByNo,
  byKey,
  connectionKeyOf,
  isLive,
  iso,
  limitKeyOf,
  type ModelContext,
  type Row,
} from './tables.ts';

/** Bytes of a row around its definition. */
const ROW_BYTES = 200;

export interface ClaimInput {
  readonly batchId: string;
  readonly leaseSeconds: number;
  readonly bytesMax: number;
}

export function claim(context: ModelContext, input: ClaimInput): ClaimResult {
  const { tables } = context;
  const now = context.now();
  const me = tables.batches.get(input.batchId);
  if (me !== undefined && me.claimedAt === null && me.endedAt === null) {
    const taken = pick(context, me, input.bytesMax);
    // As the rows are returned: with the due time and halt they had.
    for (const row of taken) {
      row.leaseOwner = me.batchNo;
      row.leaseEpoch += 1;
    }
    me.claimedAt = now;
    me.expiresAt = now + input.leaseSeconds * 1000;
    me.step = 'claim';
    me.entries = taken.length;
    me.open = taken.length;
    if (taken.length > 0) return { status: 'claimed', triggers: taken.map((row) => claimedOf(row, now)) };
  }
  if (!isLive(me, now) || me.claimedAt === null) return { status: 'ended', triggers: [] };
  const owned = (me.keys ?? [])
    .map((key) => tables.rows.get(key.triggerId))
    .filter((row): row is Row => row !== undefined && row.leaseOwner === me.batchNo);
  return { status: 'again', triggers: owned.map((row) => claimedOf(row, now)) };
}

/** The planned rows that may be taken now: every predicate of the tick again, the planned epoch among them. */
function pick({ tables, now }: ModelContext, me: Batch, bytesMax: number): Row[] {
  const at = now();
  const { limits } = tables;
  const isHeld = (toolkit: string, connection: string): boolean =>
    (limits.get(limitKeyOf(toolkit, connection))?.notBefore ?? 0) > at;
  const locked: Row[] = [];
  for (const key of [...(me.keys ?? [])].sort(byKey)) {
    const row = tables.rows.get(key.triggerId);
    if (row === undefined || row.leaseEpoch !== key.epoch) continue;
    if (!row.enabled || (row.haltedCode !== null && !row.haltedProbe)) continue;
    if (row.nextPollAt === null || row.nextPollAt > at) continue;
    if (isLive(batchByNo(tables, row.leaseOwner), at)) continue;
    if (isHeld(row.toolkit, connectionKeyOf(row)) || isHeld(row.toolkit, '') || isHeld('', '')) continue;
    locked.push(row);
  }
  const over = new Set<Row>();
  for (const limit of limits.values()) {
    if (limit.perMinute === null) continue;
    const own = locked
      .filter(
        (row) =>
          row.toolkit === limit.toolkit && (limit.connection === '' || limit.connection === connectionKeyOf(row)),
      )
      .sort((a, b) => (a.nextPollAt as number) - (b.nextPollAt as number) || (a.triggerId < b.triggerId ? -1 : 1));
    for (const row of own.slice(limit.perMinute)) over.add(row);
    const taken = Math.min(own.length, limit.perMinute);
    if (taken > 0) limit.notBefore = Math.max(limit.notBefore, at) + (taken * 60_000) / limit.perMinute;
  }
  let bytes = 0;
  return locked.filter((row) => {
    bytes += row.defBytes + ROW_BYTES;
    return bytes <= bytesMax && !over.has(row);
  });
}

function claimedOf(row: Row, now: number): ClaimedTrigger {
  return {
    shard: row.shard,
    triggerId: row.triggerId,
    leaseEpoch: row.leaseEpoch,
    tenantId: row.tenantId,
    toolkit: row.toolkit,
    slug: row.slug,
    connectionId: row.connectionId,
    versionWanted: row.versionWanted,
    versionUsed: row.versionUsed,
    config: row.config,
    pollPolicy: row.pollPolicy,
    intervalSeconds: row.intervalS,
    since: row.since === null ? null : iso(row.since),
    createdAt: iso(row.createdAt),
    configVersion: row.configVersion,
    primed: row.primed,
    lastOkAt: row.lastOkAt === null ? null : iso(row.lastOkAt),
    failureCount: row.failureCount,
    poisonCount: row.poisonCount,
    dueAt: iso(row.nextPollAt as number),
    dueLagSeconds: (now - (row.nextPollAt as number)) / 1000,
    probe: row.haltedCode !== null,
    stateBytes: row.stateBytes,
  };
}

function fencedOf({ tables }: ModelContext, batch: Batch | undefined): BatchCheck['fenced'] {
  if (batch === undefined) return [];
  return [...(tables.fences.get(batch.batchNo) ?? [])].map(([triggerId, { shard, deleted }]) => ({
    shard,
    triggerId,
    deleted,
  }));
}

/** The batch, if it may still be written. */
function liveBatch({ tables, now }: ModelContext, batchId: string): Batch | undefined {
  const batch = tables.batches.get(batchId);
  return isLive(batch, now()) ? batch : undefined;
}

export function extend(context: ModelContext, input: ExtendInput): BatchCheck {
  const { tables } = context;
  const was = tables.batches.get(input.batchId)?.open;
  const me = liveBatch(context, input.batchId);
  if (me !== undefined) {
    me.expiresAt = Math.max(me.expiresAt as number, context.now() + input.leaseSeconds * 1000);
    if (me.hop !== input.hop || me.step !== 'commit') me.step = input.step;
    me.hop = input.hop;
    me.open = input.open ?? me.open;
  }
  const shard = me === undefined ? undefined : tables.timerShards.get(me.timerShard);
  const isShort = shard !== undefined && shard.tickedAt !== null && shard.wakeAt <= shard.tickedAt;
  return {
    live: me !== undefined,
    brake: tables.fleet.braked,
    nowMs: context.now(),
    waiting: was !== undefined && input.open !== null && was > input.open && isShort,
    fenced: fencedOf(context, me),
  };
}

export function check(context: ModelContext, batchId: string): BatchCheck {
  const me = liveBatch(context, batchId);
  return {
    live: me !== undefined,
    brake: context.tables.fleet.braked,
    nowMs: context.now(),
    waiting: false,
    committing: me?.step === 'commit',
    fenced: fencedOf(context, me),
  };
}

export function end({ tables, now }: ModelContext, batchId: string): boolean {
  const batch = tables.batches.get(batchId);
  if (batch === undefined || batch.endedAt !== null) return false;
  batch.endedAt = now();
  batch.open = 0;
  batch.keys = null;
  tables.fences.delete(batch.batchNo);
  return true;
}
