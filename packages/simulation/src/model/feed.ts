/** The model's feed page, resync and operators' verbs. */
import { type FeedChange, type FeedPageInput, type FeedPageResult, SEEN_KEYS_MAX, storageShardOf } from '@milkrun/core';
import type { RowFacts } from '../history.ts';
import { addOutbox } from './commit.ts';
import { batchByNo, jsonbText, type ModelContext, nextSlot, type Row, rowFactsOf } from './tables.ts';

const HERD_ROWS = 100;

type Upsert = Extract<FeedChange, { op: 'upsert' }>;

/** What the feed did to one trigger, for whoever watches. */
export interface FeedSeen {
  readonly triggerId: string;
  readonly op: 'upsert' | 'delete';
  readonly fences: boolean;
  readonly lifts: boolean;
  /** A rewind or a new prime: cursor and keys start elsewhere. */
  readonly moves: boolean;
  readonly asks: 'rewind' | 'resume' | 'other';
  readonly before: RowFacts | undefined;
  readonly row: Row | undefined;
}

export function applyFeedPage(
  context: ModelContext,
  input: FeedPageInput,
  seen?: (what: FeedSeen) => void,
): FeedPageResult {
  const { tables } = context;
  const total = { applied: false, upserted: 0, deleted: 0, fenced: 0, stale: 0, arm: [] as number[] };
  if (input.source === 'pull') {
    if (tables.feed.cursor !== input.after) return total;
    tables.feed.cursor = input.next;
  }
  total.applied = true;
  const fresh = new Set(
    input.changes.filter(({ op, triggerId }) => op === 'upsert' && !tables.rows.has(triggerId)).map((c) => c.triggerId),
  );
  const spread = fresh.size > HERD_ROWS;
  // Each trigger's changes in the order of their versions.
  for (const change of [...input.changes].sort((a, b) => a.configVersion - b.configVersion)) {
    if (tables.feed.token !== null && change.op === 'upsert') tables.marks.add(change.triggerId);
    const known = tables.rows.get(change.triggerId);
    const before = seen === undefined ? undefined : rowFactsOf(known);
    const version = known?.configVersion ?? tables.tombstones.get(change.triggerId) ?? -1;
    if (version >= change.configVersion) {
      total.stale += 1;
      continue;
    }
    if (change.op === 'delete') {
      if (remove(context, change.triggerId, change.configVersion)) {
        total.deleted += 1;
        total.fenced += 1;
      }
      seen?.({
        triggerId: change.triggerId,
        op: 'delete',
        fences: known !== undefined,
        lifts: false,
        moves: false,
        asks: 'other',
        before,
        row: undefined,
      });
      continue;
    }
    total.upserted += 1;
    const { row, fences, lifts, moves } =
      known === undefined ? insert(context, change, spread) : update(context, change, known);
    if (fences) total.fenced += 1;
    for (const shard of tables.timerShards.values()) {
      const isSooner = row.nextPollAt !== null && row.nextPollAt < shard.wakeAt;
      if (isSooner && shard.serves.includes(row.shard) && !total.arm.includes(shard.timerShard))
        total.arm.push(shard.timerShard);
    }
    const asks = change.cursor !== undefined ? 'rewind' : change.resume !== undefined ? 'resume' : 'other';
    seen?.({ triggerId: row.triggerId, op: 'upsert', fences, lifts, moves, asks, before, row });
  }
  return total;
}

function fence({ tables }: ModelContext, row: Row, deleted: boolean): void {
  const batch = batchByNo(tables, row.leaseOwner);
  if (batch === undefined || batch.endedAt !== null) return;
  const own = tables.fences.get(batch.batchNo) ?? new Map<string, { shard: number; deleted: boolean }>();
  tables.fences.set(batch.batchNo, own);
  const there = own.get(row.triggerId);
  own.set(row.triggerId, { shard: row.shard, deleted: deleted || there?.deleted === true });
}

/** True when there was one. */
function remove(context: ModelContext, triggerId: string, configVersion: number): boolean {
  const { tables } = context;
  const row = tables.rows.get(triggerId);
  tables.tombstones.set(triggerId, Math.max(configVersion, tables.tombstones.get(triggerId) ?? -1));
  if (row === undefined) return false;
  fence(context, row, true);
  tables.rows.delete(triggerId);
  tables.held.delete(triggerId);
  return true;
}

interface PollState {
  readonly cursor: string;
  readonly seen: string;
  readonly version: string | null;
}

function pollStateOf(text: string | undefined): PollState | undefined {
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(Buffer.from(text, 'base64').toString('utf8')) as Record<string, unknown>;
    if (value.v !== 1 || typeof value.seen !== 'string') return undefined;
    const bytes = Buffer.from(value.seen, 'base64').byteLength;
    if (bytes % 8 !== 0 || bytes > SEEN_KEYS_MAX * 8) return undefined;
    const version = typeof value.version === 'string' ? value.version : null;
    return { cursor: JSON.stringify(value.cursor ?? null), seen: value.seen, version };
  } catch {
    return undefined;
  }
}

const phaseOf = ({ triggerId, intervalSeconds }: Upsert): number =>
  Number.parseInt(triggerId.replaceAll('-', '').slice(-12), 16) % intervalSeconds;

const cursorOf = (text: string | undefined): string | null =>
  text === undefined || text === 'null' ? null : jsonbText(text);

const bytesOf = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, 'base64'));

function insert(context: ModelContext, change: Upsert, spread: boolean) {
  const now = context.now();
  const state = pollStateOf(change.pollState);
  const rewinds = change.cursor !== undefined;
  const fromStart = rewinds && change.cursor === 'null';
  const isLost = change.primed && state === undefined && !rewinds;
  const restores = change.primed && state !== undefined;
  const config = jsonbText(change.config);
  const phaseS = phaseOf(change);
  const due = spread ? nextSlot(now, change.intervalSeconds, phaseS) : now;
  const row: Row = {
    shard: storageShardOf(change.triggerId),
    triggerId: change.triggerId,
    configVersion: change.configVersion,
    createdAt: Date.parse(change.createdAt),
    since: change.since === undefined ? null : Date.parse(change.since),
    tenantId: change.tenantId,
    toolkit: change.toolkit,
    slug: change.slug,
    versionWanted: change.version,
    connectionId: change.connectionId,
    pollPolicy: change.poll,
    config,
    enabled: change.enabled,
    intervalS: change.intervalSeconds,
    phaseS,
    defBytes: Buffer.byteLength(config) + 300,
    nextPollAt: !change.enabled || isLost ? null : due,
    leaseEpoch: 0,
    lastCommittedEpoch: 0,
    leaseOwner: null,
    lastPolledAt: null,
    lastOkAt: null,
    quietSince: null,
    quietPolls: 0,
    failureCount: 0,
    poisonCount: 0,
    lastCode: null,
    primed: rewinds ? !fromStart : restores,
    haltedProbe: false,
    haltedCode: isLost ? 'cursor_lost' : null,
    haltedAt: isLost ? now : null,
    stateBytes:
      state === undefined ? 0 : Math.floor((state.seen.length * 3) / 4) + Buffer.byteLength(jsonbText(state.cursor)),
    lastEventAt: null,
    pollRequestedAt: null,
    versionUsed: state?.version ?? null,
    cursor: rewinds ? cursorOf(change.cursor) : restores ? cursorOf(state.cursor) : null,
    seen: !rewinds && restores ? bytesOf(state.seen) : new Uint8Array(0),
  };
  context.tables.rows.set(row.triggerId, row);
  const { triggerId, configVersion } = row;
  if (isLost) addOutbox(context, { triggerId, configVersion, state: 'halted', code: 'cursor_lost' });
  return { row, fences: false, lifts: false, moves: true };
}

function update(context: ModelContext, change: Upsert, row: Row) {
  const now = context.now();
  const state = pollStateOf(change.pollState);
  const config = jsonbText(change.config);
  const rewinds = change.cursor !== undefined;
  const fromStart = rewinds && change.cursor === 'null';
  const isOther = change.connectionId !== row.connectionId || config !== row.config;
  const fences =
    rewinds ||
    change.enabled !== row.enabled ||
    isOther ||
    change.version !== row.versionWanted ||
    change.resume !== undefined;
  const isLost = row.haltedCode === 'cursor_lost';
  const lifts =
    row.haltedCode !== null &&
    change.enabled &&
    (isLost
      ? change.resume !== undefined || rewinds || state !== undefined
      : change.resume !== undefined ||
        rewinds ||
        !row.enabled ||
        isOther ||
        (change.liftedVersion ?? -1) > row.configVersion);
  const restores = isLost && state !== undefined && !rewinds;
  const reprimes = change.resume === 'now' || fromStart;
  if (fences) {
    fence(context, row, false);
    row.leaseEpoch += 1;
    row.leaseOwner = null;
  }
  const phaseS = phaseOf(change);
  if (!change.enabled) row.nextPollAt = null;
  else if (row.haltedCode !== null && !lifts) {
    // Stays as it is: the time of its probe, or never.
  } else if (fences || lifts || change.pollNow || row.nextPollAt === null) row.nextPollAt = now;
  else if (change.intervalSeconds !== row.intervalS)
    row.nextPollAt = Math.min(row.nextPollAt, nextSlot(now, change.intervalSeconds, phaseS));
  if (lifts) {
    row.haltedCode = null;
    row.haltedAt = null;
    row.haltedProbe = false;
  }
  if (change.pollNow) row.pollRequestedAt = now;
  if (lifts || rewinds) {
    row.failureCount = 0;
    row.poisonCount = 0;
  }
  if (reprimes) row.primed = false;
  else if (rewinds || restores) row.primed = true;
  const since = change.since === undefined ? null : Date.parse(change.since);
  const beganLater = row.since === null && row.createdAt > Date.parse(change.createdAt);
  row.since = !fromStart && (change.resume === 'now' || beganLater) ? null : since;
  if (fromStart && since !== null) row.createdAt = since;
  else if (change.resume === 'now') row.createdAt = now;
  if (rewinds || reprimes || restores) {
    if (reprimes) row.cursor = null;
    else row.cursor = restores ? cursorOf(state.cursor) : cursorOf(change.cursor);
    row.seen = restores && !reprimes ? bytesOf(state.seen) : new Uint8Array(0);
  }
  row.enabled = change.enabled;
  row.intervalS = change.intervalSeconds;
  row.phaseS = phaseS;
  row.tenantId = change.tenantId;
  row.toolkit = change.toolkit;
  row.slug = change.slug;
  row.versionWanted = change.version;
  row.connectionId = change.connectionId;
  row.pollPolicy = change.poll;
  row.config = config;
  row.defBytes = Buffer.byteLength(config) + 300;
  row.configVersion = change.configVersion;
  const { triggerId, configVersion } = row;
  if (lifts) addOutbox(context, { triggerId, configVersion, state: 'resumed', code: 'ok' });
  return { row, fences, lifts, moves: rewinds || reprimes || restores };
}

/** Deletes what a finished resync did not name, unless that is too much. */
export function finishResync(
  context: ModelContext,
  input: { readonly token: string; readonly confirmMassDelete: boolean },
): { deleted: number; refused: number } {
  const { tables } = context;
  if (tables.feed.token !== input.token) return { deleted: 0, refused: 0 };
  const unseen = [...tables.rows.values()].filter(({ triggerId }) => !tables.marks.has(triggerId));
  if (unseen.length > Math.max(50, tables.rows.size * 0.05) && !input.confirmMassDelete) {
    tables.feed.startedAt = null;
    return { deleted: 0, refused: unseen.length };
  }
  for (const row of unseen) remove(context, row.triggerId, row.configVersion);
  tables.marks.clear();
  tables.feed.token = null;
  return { deleted: unseen.length, refused: 0 };
}

const isPolled = (row: Row): boolean => row.enabled && row.haltedCode === null;

export function makeDue({ tables, now }: ModelContext, triggerId: string): boolean {
  const row = tables.rows.get(triggerId);
  if (row === undefined || !isPolled(row)) return false;
  row.pollRequestedAt = now();
  row.nextPollAt = Math.min(row.nextPollAt ?? Number.POSITIVE_INFINITY, now());
  return true;
}

export function makeAllDue(context: ModelContext): number {
  const due = [...context.tables.rows.values()].filter(isPolled);
  for (const { triggerId } of due) makeDue(context, triggerId);
  return due.length;
}

export function clearHalts(context: ModelContext, code: string): number {
  const { tables, now, random } = context;
  let count = 0;
  for (const row of tables.rows.values()) {
    if (row.haltedCode !== code) continue;
    count += 1;
    row.haltedCode = null;
    row.haltedAt = null;
    row.haltedProbe = false;
    row.failureCount = 0;
    row.poisonCount = 0;
    row.nextPollAt = row.enabled ? now() + random() * Math.min(row.intervalS, 300) * 1000 : null;
    const { triggerId, configVersion } = row;
    addOutbox(context, { triggerId, configVersion, state: 'resumed', code: 'ok' });
  }
  if (code === 'receiver_gone') tables.fleet = { ...tables.fleet, braked: false, brakeResetAt: now() };
  return count;
}
