/** The model's commit: one row after the other what the statement does to all of them at once. */
import { createHash } from 'node:crypto';
import type { CommitException, CommitInput, CommitResult, CommitRow } from '@milkrun/core';
import {
  type Batch,
  byKey,
  connectionKeyOf,
  isLive,
  jsonbText,
  limitKeyOf,
  type ModelContext,
  nextSlot,
  type OutboxRow,
  type Row,
} from './tables.ts';

const SECOND = 1_000;
const HOUR = 3_600_000;
const PROBE_MS = 6 * HOUR;
const BRAKE_RETRY_SECONDS = 60;
const SOURCE_CODES = new Set(['poll.connector_error', 'poll.timeout']);
const CREDENTIAL_HALTS = new Set(['auth.expired', 'auth.revoked', 'auth.not_found']);
const COUNT_MAX = 32_000;
/** Polls a minute of a source that recovers, at the most; then it has recovered. */
const RAMP_MAX = 1_000;

type Mine = { readonly input: CommitRow; readonly row: Row };

export function commit(context: ModelContext, input: CommitInput): CommitResult {
  const { tables } = context;
  const now = context.now();
  const found = tables.batches.get(input.batchId);
  const me = isLive(found, now) ? found : undefined;
  const { chosen, exceptions } = braked(context, me, input.rows);
  const mine: Mine[] = [];
  const gone: CommitException[] = [];
  for (const one of [...chosen].sort(byKey)) {
    const row = tables.rows.get(one.triggerId);
    const key = { shard: one.shard, triggerId: one.triggerId, leaseEpoch: one.leaseEpoch };
    if (row === undefined) gone.push({ ...key, status: 'fenced' });
    else if (me !== undefined && row.leaseOwner === me.batchNo && row.leaseEpoch === one.leaseEpoch && row.enabled)
      mine.push({ input: one, row });
    else gone.push({ ...key, status: row.lastCommittedEpoch >= one.leaseEpoch ? 'already' : 'fenced' });
  }
  exceptions.push(...gone);
  const down = downToolkits(context, chosen, mine);
  let nextDue: number | null = null;
  const halted: Record<string, number> = {};
  const committed: { readonly input: CommitRow; readonly row: Row; readonly isDown: boolean }[] = [];
  for (const { input: one, row } of mine) {
    const isDown = one.outcome === 'backoff' && SOURCE_CODES.has(one.code) && down.has(row.toolkit);
    const halt = haltOf(one, row);
    const was = { halt: row.haltedCode };
    applyRow(context, me as Batch, one, row, halt, isDown);
    committed.push({ input: one, row, isDown });
    if (row.nextPollAt !== null) nextDue = Math.min(nextDue ?? Number.POSITIVE_INFINITY, row.nextPollAt);
    if (halt !== null && halt !== was.halt) halted[halt] = (halted[halt] ?? 0) + 1;
    outboxOf(context, one, row, halt, was.halt);
  }
  const isStepped = afterRows(context, me, committed, down);
  keepHeld(context, chosen);
  for (const { input: one, row } of committed) {
    const taken = new Set(one.heldDelivered ?? []);
    const kept = (tables.held.get(row.triggerId) ?? []).filter(({ eventId }) => !taken.has(eventId));
    if (taken.size > 0) tables.held.set(row.triggerId, kept);
    for (const letter of one.deadLetters ?? []) {
      const raw = Buffer.from(letter.raw).toString('base64');
      const digest = `${row.triggerId}:${letter.stage}:${letter.eventId ?? ''}:${raw}`;
      const key = createHash('sha256').update(digest).digest('hex');
      if (tables.letters.has(key)) continue;
      const { stage, code } = letter;
      tables.letters.set(key, { triggerId: row.triggerId, stage, code, eventId: letter.eventId ?? null, raw });
    }
  }
  const shard = me === undefined ? undefined : tables.timerShards.get(me.timerShard);
  const wasOpen = me?.open ?? 0;
  const isShort = shard !== undefined && shard.tickedAt !== null && shard.wakeAt <= shard.tickedAt;
  const armed =
    isStepped || shard === undefined || nextDue === null || nextDue < shard.wakeAt || (isShort && wasOpen > input.open);
  if (me !== undefined) finish(context, me, input);
  return {
    committed: committed.length,
    exceptions,
    nextDueInMs: nextDue === null ? null : nextDue - now,
    arm: (armed && committed.length > 0) || exceptions.some(({ status }) => status === 'already'),
    halted,
  };
}

/** Above max(50, 5 % of the polled triggers) halts an hour nobody is halted any more; what a lost lease says counts for nothing. */
function braked({ tables, now }: ModelContext, me: Batch | undefined, rows: readonly CommitRow[]) {
  const exceptions: CommitException[] = [];
  const held = new Set(
    rows.filter(({ haltCode, triggerId, leaseEpoch }) => {
      const row = tables.rows.get(triggerId);
      if (haltCode !== 'receiver_gone' || me === undefined || row === undefined) return false;
      return row.leaseOwner === me.batchNo && row.leaseEpoch === leaseEpoch && row.enabled;
    }),
  );
  if (held.size === 0) return { chosen: rows, exceptions };
  const { fleet } = tables;
  const since = Math.max(now() - HOUR, fleet.brakeResetAt);
  const counted = tables.outbox.filter(
    ({ state, code, at }) => state === 'halted' && code === 'receiver_gone' && at > since,
  ).length;
  let room = Math.max(50, Math.ceil(fleet.polled * 0.05)) - counted;
  const chosen = rows.map((row): CommitRow => {
    if (!held.has(row)) return row;
    room -= 1;
    if (room >= 0) return row;
    const { shard, triggerId, leaseEpoch } = row;
    exceptions.push({ shard, triggerId, leaseEpoch, status: 'braked' });
    const { haltCode: _, ...rest } = row;
    return { ...rest, outcome: 'release', code: 'broadcast.gone', retryAfterSeconds: BRAKE_RETRY_SECONDS };
  });
  if (room <= 0) fleet.braked = true;
  return { chosen, exceptions };
}

/** Toolkits most of whose polls failed in the last minute, this commit's among them. */
function downToolkits({ tables, now }: ModelContext, chosen: readonly CommitRow[], mine: readonly Mine[]): Set<string> {
  const sums = new Map<string, { polls: number; failures: number; own: number; ownFailures: number }>();
  const add = (toolkit: string, polls: number, failures: number, isOwn: boolean): void => {
    const sum = sums.get(toolkit) ?? { polls: 0, failures: 0, own: 0, ownFailures: 0 };
    sum.polls += polls;
    sum.failures += failures;
    if (isOwn) sum.own += polls;
    if (isOwn) sum.ownFailures += failures;
    sums.set(toolkit, sum);
  };
  const known = chosen.filter(({ triggerId }) => tables.rows.has(triggerId));
  if (known.some(({ code }) => SOURCE_CODES.has(code))) {
    for (const [toolkit, slots] of tables.health) {
      for (const [slot, { polls, failures }] of slots)
        if (slot > Math.floor(now() / 10_000) - 6) add(toolkit, polls, failures, false);
    }
  }
  for (const { input, row } of mine) {
    const isCounted = input.outcome !== 'release' && input.outcome !== 'rate_limited';
    if (isCounted) add(row.toolkit, 1, SOURCE_CODES.has(input.code) ? 1 : 0, true);
  }
  // Of a source that is down already one probe says it.
  const isDown = (toolkit: string): boolean => tables.limits.get(limitKeyOf(toolkit, ''))?.reason === 'source_down';
  return new Set(
    [...sums]
      .filter(
        ([toolkit, { polls, failures, own, ownFailures }]) =>
          (own >= 20 && ownFailures * 2 > own) || (failures * 2 > polls && (polls >= 20 || isDown(toolkit))),
      )
      .map(([toolkit]) => toolkit),
  );
}

function haltOf(input: CommitRow, row: Row): string | null {
  if (input.outcome === 'halt') return input.haltCode ?? null;
  if (input.outcome !== 'backoff' || input.haltAfter === undefined) return null;
  // Failures of the same code in a row; unusable answers of any.
  const failures = input.code === row.lastCode ? row.failureCount : 0;
  const count = input.charge === 'poison' ? row.poisonCount : failures;
  return count + 1 >= input.haltAfter ? (input.haltCode ?? null) : null;
}

function nextPollOf(
  { now, random }: ModelContext,
  me: Batch,
  input: CommitRow,
  row: Row,
  halt: string | null,
  isDown: boolean,
): number | null {
  const at = now();
  const asked = input.retryAfterSeconds === undefined ? null : Math.ceil(input.retryAfterSeconds) * SECOND;
  const { outcome } = input;
  if (halt !== null) return CREDENTIAL_HALTS.has(halt) ? at + PROBE_MS : null;
  if (outcome === 'release')
    return asked === null ? row.nextPollAt : Math.max(row.nextPollAt ?? Number.NEGATIVE_INFINITY, at + asked);
  if (row.haltedCode !== null && (outcome === 'backoff' || outcome === 'rate_limited')) return at + PROBE_MS;
  if ((row.pollRequestedAt !== null && row.pollRequestedAt > (me.claimedAt as number)) || outcome === 'more') return at;
  if (isDown) return at;
  if (outcome === 'rate_limited') return at + Math.max(SECOND, asked ?? row.intervalS * SECOND);
  if (outcome === 'backoff') {
    const tries = Math.min(Math.max(row.failureCount, row.poisonCount), 20);
    const most = Math.min(21_600, Math.max(8 * row.intervalS, 900));
    const seconds = (0.5 + 0.5 * random()) * Math.min(Math.max(row.intervalS, 30) * 2 ** tries, most);
    return Math.max(at + (asked ?? 0), at + seconds * SECOND);
  }
  return Math.max(at + (asked ?? 0), nextSlot(at, row.intervalS, row.phaseS));
}

function applyRow(
  context: ModelContext,
  me: Batch,
  input: CommitRow,
  row: Row,
  halt: string | null,
  isDown: boolean,
): void {
  const now = context.now();
  const { outcome } = input;
  const isGood = outcome === 'success' || outcome === 'more';
  const logs =
    input.events > 0 ||
    outcome !== 'success' ||
    input.code !== row.lastCode ||
    (row.quietSince !== null && row.quietSince < now - HOUR);
  row.nextPollAt = nextPollOf(context, me, input, row, halt, isDown);
  row.leaseOwner = null;
  row.lastCommittedEpoch = input.leaseEpoch;
  if (outcome !== 'release' || input.polled === true) row.lastPolledAt = now;
  if (input.polled === true || isGood) row.lastOkAt = now;
  row.quietPolls = logs ? 0 : row.quietPolls + 1;
  row.quietSince = logs ? null : (row.quietSince ?? now);
  const charged = outcome === 'backoff' ? input.charge : undefined;
  if (input.polled === true || isGood) row.failureCount = 0;
  else if (charged === 'failure' && !isDown) {
    const isOther = input.haltAfter !== undefined && input.code !== row.lastCode;
    row.failureCount = isOther ? 1 : Math.min(row.failureCount + 1, COUNT_MAX);
  }
  if (isGood) row.poisonCount = 0;
  else if (charged === 'poison') row.poisonCount = Math.min(row.poisonCount + 1, COUNT_MAX);
  row.lastCode = isDown ? 'source_down' : input.code;
  if (input.rekeyed === true && input.primed !== true) row.primed = false;
  else row.primed = input.primed ?? row.primed;
  if (halt !== null) {
    row.haltedProbe = CREDENTIAL_HALTS.has(halt);
    row.haltedAt = row.haltedCode === halt ? row.haltedAt : now;
    row.haltedCode = halt;
  } else if (isGood) {
    row.haltedProbe = false;
    row.haltedCode = null;
    row.haltedAt = null;
  }
  const isNull = input.cursor === 'null';
  const cursor = input.cursor === undefined || isNull ? undefined : jsonbText(input.cursor);
  if (input.seen !== undefined) {
    row.stateBytes = input.seen.byteLength + (cursor === undefined ? 512 : Buffer.byteLength(cursor));
  } else if (cursor !== undefined) row.stateBytes = Math.max(row.stateBytes, Buffer.byteLength(cursor));
  if (input.events > 0) row.lastEventAt = now;
  row.versionUsed = input.versionUsed ?? row.versionUsed;
  if (isNull) row.cursor = null;
  else if (cursor !== undefined) row.cursor = cursor;
  if (input.seen !== undefined) row.seen = Uint8Array.from(input.seen);
}

export function addOutbox(
  { tables, now }: ModelContext,
  record: Pick<OutboxRow, 'triggerId' | 'configVersion' | 'state' | 'code'>,
): void {
  const { triggerId, configVersion, state, code } = record;
  tables.outbox.push({
    id: tables.nextOutboxId,
    triggerId,
    configVersion,
    state,
    code,
    at: now(),
    offeredUntil: Number.NEGATIVE_INFINITY,
    acknowledgedAt: null,
  });
  tables.nextOutboxId += 1;
}

function outboxOf(
  context: ModelContext,
  input: CommitRow,
  row: Row,
  halt: string | null,
  wasHalt: string | null,
): void {
  const { triggerId, configVersion } = row;
  const isGood = input.outcome === 'success' || input.outcome === 'more';
  if (halt !== null && halt !== wasHalt) addOutbox(context, { triggerId, configVersion, state: 'halted', code: halt });
  if (wasHalt !== null && isGood) addOutbox(context, { triggerId, configVersion, state: 'resumed', code: 'ok' });
  if (halt !== null) return;
  for (const code of input.warnings ?? []) addOutbox(context, { triggerId, configVersion, state: 'warning', code });
}

/** Limits and the health of sources, which several rows share. Answers whether a source that was down lets more through. */
function afterRows(
  { tables, now }: ModelContext,
  me: Batch | undefined,
  committed: readonly { readonly input: CommitRow; readonly row: Row; readonly isDown: boolean }[],
  down: ReadonlySet<string>,
): boolean {
  const at = now();
  const asked = ({ input }: (typeof committed)[number]): number => input.retryAfterSeconds ?? -1;
  const limited = committed.filter(({ input }) => input.outcome === 'rate_limited').sort((a, b) => asked(b) - asked(a));
  const longest = new Map(
    limited.toReversed().map(({ input, row }) => [limitKeyOf(row.toolkit, connectionKeyOf(row)), { input, row }]),
  );
  for (const [key, { input, row }] of longest) {
    const seconds = input.retryAfterSeconds === undefined ? row.intervalS : Math.ceil(input.retryAfterSeconds);
    const notBefore = at + Math.max(1, seconds) * SECOND;
    const there = tables.limits.get(key);
    if (there !== undefined) there.notBefore = Math.max(there.notBefore, notBefore);
    else {
      const { toolkit } = row;
      const connection = connectionKeyOf(row);
      const reason = 'rate_limited';
      const steppedAt = Number.NEGATIVE_INFINITY;
      tables.limits.set(key, { toolkit, connection, perMinute: null, notBefore, madeAt: at, steppedAt, reason });
    }
  }
  for (const { input, row } of committed) {
    if (input.outcome !== 'release' && input.outcome !== 'rate_limited') {
      const slots = tables.health.get(row.toolkit) ?? new Map<number, { polls: number; failures: number }>();
      tables.health.set(row.toolkit, slots);
      const slot = Math.floor(at / 10_000);
      const sum = slots.get(slot) ?? { polls: 0, failures: 0 };
      slots.set(slot, {
        polls: sum.polls + 1,
        failures: sum.failures + (SOURCE_CODES.has(input.code) ? 1 : 0),
      });
    }
  }
  const isGood = (input: CommitRow): boolean => input.outcome === 'success' || input.outcome === 'more';
  const recovering = new Set(
    committed.filter(({ input, row }) => isGood(input) && !down.has(row.toolkit)).map(({ row }) => row.toolkit),
  );
  let isStepped = false;
  for (const [key, limit] of tables.limits) {
    if (limit.reason !== 'source_down' || limit.connection !== '' || !recovering.has(limit.toolkit)) continue;
    if (me?.claimedAt == null || Math.max(limit.madeAt, limit.steppedAt) >= me.claimedAt) continue;
    isStepped = true;
    if ((limit.perMinute ?? 0) >= RAMP_MAX) tables.limits.delete(key);
    else {
      limit.perMinute = (limit.perMinute ?? 0) * 10;
      limit.notBefore = at;
      limit.steppedAt = at;
    }
  }
  for (const toolkit of new Set(committed.filter(({ isDown }) => isDown).map(({ row }) => row.toolkit))) {
    const key = limitKeyOf(toolkit, '');
    const there = tables.limits.get(key);
    const notBefore = at + 60_000;
    if (there === undefined)
      tables.limits.set(key, {
        toolkit,
        connection: '',
        perMinute: 1,
        notBefore,
        madeAt: at,
        steppedAt: Number.NEGATIVE_INFINITY,
        reason: 'source_down',
      });
    else if (there.reason === 'source_down') Object.assign(there, { perMinute: 1, notBefore, steppedAt: at });
  }
  return isStepped;
}

/** Of fenced rows too: what cannot be asked again is kept, unless the trigger is gone. Delivered ones leave. */
function keepHeld({ tables }: ModelContext, rows: readonly CommitRow[]): void {
  for (const { shard, triggerId, held } of [...rows].sort(byKey)) {
    if (held === undefined || !tables.rows.has(triggerId)) continue;
    const own = tables.held.get(triggerId) ?? [];
    tables.held.set(triggerId, own);
    for (const { eventId, json } of held)
      if (!own.some((event) => event.eventId === eventId)) own.push({ shard, triggerId, eventId, json });
  }
}

function finish({ tables, now }: ModelContext, me: Batch, input: CommitInput): void {
  const at = now();
  me.step = 'commit';
  me.open = input.open;
  me.expiresAt = Math.max(me.expiresAt as number, at + (input.end ? 0 : (input.extendSeconds ?? 0)) * SECOND);
  if (!input.end) return;
  me.endedAt = at;
  me.keys = null;
  tables.fences.delete(me.batchNo);
  const shard = tables.timerShards.get(me.timerShard);
  if (shard === undefined || !(input.forced || shard.backoffLevel > 0)) return;
  shard.backoffUntil = input.forced ? at + Math.min(300, 30 * 2 ** shard.backoffLevel) * SECOND : null;
  shard.backoffLevel = input.forced ? Math.min(shard.backoffLevel + 1, 4) : 0;
}
