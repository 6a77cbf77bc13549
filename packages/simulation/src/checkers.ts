/**
 * The invariants of docs/state-machine.md as functions over a history: what happened outside the engine, never what the
 * engine says of itself. Each is proved to find what it looks for by histories that were forged to break it.
 */
import { eventIdOf } from '@milkrun/core';
import type { Fact, History, Item, RowFacts, TriggerFacts } from './history.ts';

export interface Finding {
  /** The invariant's number, such as `S5`. */
  readonly checker: string;
  readonly message: string;
}

type Of<K extends Fact['kind']> = Extract<Fact, { kind: K }>;
type CommittedRow = Of<'committed'>['rows'][number];

export type Checker = (history: History) => Generator<string>;

/** Milliseconds after a fencing change was applied from which no poll of the old lease may start. */
const OFF_MS = 10_000;
/** From the commit's answer to the call that arms, in a process that nothing holds up. */
const ARM_MS = 500;
/** A call's own way. */
const TRAVEL_MS = 20;
const HOP_BACKOFF_MS_MAX = 60_000;

function* factsOf<K extends Fact['kind']>({ facts }: History, kind: K): Generator<Of<K>> {
  for (const fact of facts) if (fact.kind === kind) yield fact as Of<K>;
}

const seconds = ({ at }: { readonly at: number }): string => `${(at / 1000).toFixed(1)} s`;
const short = (triggerId: string): string => triggerId.slice(-4);

/** Rows that a commit really wrote. */
function* written(history: History): Generator<{ readonly fact: Of<'committed'>; readonly row: CommittedRow }> {
  for (const fact of factsOf(history, 'committed')) {
    const refused = new Set(
      fact.exceptions.filter(({ status }) => status !== 'braked' && status !== 'quarantined').map((e) => e.triggerId),
    );
    for (const row of fact.rows) if (!refused.has(row.input.triggerId)) yield { fact, row };
  }
}

/** S1: one live lease a row, never more rows than planned, epochs only rise. */
function* oneLease(history: History): Generator<string> {
  const epochs = new Map<string, number>();
  for (const fact of history.facts) {
    if (fact.kind === 'claimed') {
      if (fact.rows.length > fact.planned)
        yield `${seconds(fact)}: ${fact.rows.length} claimed of ${fact.planned} planned`;
      for (const { triggerId, epoch, takenFrom } of fact.rows) {
        if (takenFrom === 'live') yield `${seconds(fact)}: ${short(triggerId)} was taken from a live batch`;
        const last = epochs.get(triggerId) ?? -1;
        if (epoch <= last) yield `${seconds(fact)}: ${short(triggerId)} claimed at epoch ${epoch} after ${last}`;
        epochs.set(triggerId, epoch);
      }
    } else if (fact.kind === 'fed') {
      if (fact.op === 'delete') epochs.delete(fact.triggerId);
      else if (fact.after !== undefined) {
        const last = epochs.get(fact.triggerId) ?? -1;
        if (fact.before !== undefined && fact.after.epoch < last)
          yield `${seconds(fact)}: a change lowered the epoch of ${short(fact.triggerId)}`;
        epochs.set(fact.triggerId, fact.after.epoch);
      }
    }
  }
}

/** S2: nothing is written for a lease that is not the row's, or whose batch is over; an expired lease stays so. */
function* fence(history: History): Generator<string> {
  for (const { fact, row } of written(history)) {
    if (!row.owned || !fact.wasLive)
      yield `${seconds(fact)}: ${fact.batchId} wrote ${short(row.input.triggerId)} at epoch ${row.input.leaseEpoch}, which is not its own`;
  }
  for (const fact of factsOf(history, 'committed')) {
    const refused = new Set(fact.exceptions.filter(({ status }) => status !== 'braked').map((e) => e.triggerId));
    for (const { input, before, after } of fact.rows) {
      if (refused.has(input.triggerId) && JSON.stringify(before) !== JSON.stringify(after))
        yield `${seconds(fact)}: ${short(input.triggerId)} was refused and changed all the same`;
    }
  }
  for (const fact of factsOf(history, 'extended')) {
    if (fact.live && !fact.wasLive) yield `${seconds(fact)}: the expired lease of ${fact.batchId} was revived`;
  }
}

/** S3: no entry moves along an edge that is not in the table. */
function* edges(history: History): Generator<string> {
  for (const fact of factsOf(history, 'logged')) {
    if (fact.event === 'entry.impossible_transition')
      yield `${seconds(fact)}: ${fact.batchId} met an impossible transition`;
  }
  const over = new Set<string>();
  for (const fact of factsOf(history, 'committed')) {
    if (over.has(fact.batchId) && fact.wasLive) yield `${seconds(fact)}: ${fact.batchId} committed after its end`;
    if (fact.end && fact.wasLive) over.add(fact.batchId);
  }
}

/** S4: an epoch is committed once. */
function* commitOnce(history: History): Generator<string> {
  const seen = new Set<string>();
  const born = bornAt(history);
  for (const { fact, row } of written(history)) {
    const { triggerId, leaseEpoch } = row.input;
    const key = `${triggerId} ${born(triggerId, fact.at)} ${leaseEpoch}`;
    if (seen.has(key)) yield `${seconds(fact)}: epoch ${leaseEpoch} of ${short(triggerId)} was committed twice`;
    seen.add(key);
  }
}

/** Which life of a trigger a time falls into: a deleted id may come back, and starts from epoch 0. */
function bornAt(history: History): (triggerId: string, at: number) => number {
  const deleted = Map.groupBy(
    [...factsOf(history, 'fed')].filter(({ op }) => op === 'delete'),
    ({ triggerId }) => triggerId,
  );
  return (triggerId, at) => (deleted.get(triggerId) ?? []).filter((fact) => fact.at <= at).length;
}

/** Whether a prime keeps quiet about an item. */
function isQuiet(item: Item, { createdAt, since }: Pick<RowFacts, 'createdAt' | 'since'>): boolean {
  const at = Date.parse(item.occurredAt);
  return at < Math.floor(createdAt) && (since === null || at < since);
}

const isBad = (item: Item): boolean => item.key.startsWith('bad');

/** What was accepted or given up so far, by trigger. */
class Accounted {
  private readonly ids = new Set<string>();
  private readonly bad = new Set<string>();

  told(fact: Of<'told'>): void {
    if (fact.status !== 200) return;
    for (const { status, events } of fact.results)
      if (status === 'accepted') for (const { id } of events) this.ids.add(id);
  }

  committed({ input }: CommittedRow): void {
    for (const { eventId, raw } of input.deadLetters ?? []) {
      if (eventId !== undefined) this.ids.add(eventId);
      else this.bad.add(`${input.triggerId} ${/"key":"([^"]+)"/.exec(Buffer.from(raw).toString())?.[1]}`);
    }
    for (const { eventId } of input.held ?? []) this.ids.add(eventId);
  }

  has(triggerId: string, item: Item): boolean {
    return isBad(item) ? this.bad.has(`${triggerId} ${item.key}`) : this.ids.has(eventIdOf(triggerId, item.key));
  }

  hasId(id: string): boolean {
    return this.ids.has(id);
  }
}

const positionOf = (cursor: string | null | undefined): number =>
  cursor === null || cursor === undefined || cursor === 'null' ? 0 : Number(cursor);

/** S5: the cursor never goes back, and never passes an event that was not accepted, given up for good, or held. */
function* cursorWaits(history: History): Generator<string> {
  const triggers = new Map(history.triggers.map((trigger) => [trigger.triggerId, trigger]));
  const accounted = new Accounted();
  const claims = new Map<string, Of<'claimed'>['rows'][number]>();
  for (const fact of history.facts) {
    if (fact.kind === 'told') accounted.told(fact);
    if (fact.kind === 'claimed') for (const row of fact.rows) claims.set(`${fact.batchId} ${row.triggerId}`, row);
    if (fact.kind !== 'committed') continue;
    const refused = new Set(fact.exceptions.filter(({ status }) => status !== 'braked').map((e) => e.triggerId));
    for (const row of fact.rows) {
      const { input, before } = row;
      const trigger = triggers.get(input.triggerId);
      if (refused.has(input.triggerId) || trigger === undefined || before === undefined) continue;
      accounted.committed(row);
      if (input.cursor === undefined || trigger.kind !== 'log') continue;
      const [from, to] = [positionOf(before.cursor), positionOf(input.cursor)];
      if (to < from) yield `${seconds(fact)}: the cursor of ${short(input.triggerId)} went back from ${from} to ${to}`;
      for (let n = from; n < to; n += 1) {
        const item = trigger.items[n] as Item;
        const claim = claims.get(`${fact.batchId} ${input.triggerId}`);
        if (accounted.has(input.triggerId, item) || (claim?.primed === false && isQuiet(item, claim))) continue;
        yield `${seconds(fact)}: the cursor of ${short(input.triggerId)} went from ${from} to ${to} past ${item.key}, which nobody took`;
      }
    }
  }
}

/** S6: what was saved ends accepted, held or in dead letters; once at rest, so does all that a source has. */
function* nothingLost(history: History): Generator<string> {
  const { ending } = history;
  const accounted = new Accounted();
  for (const fact of factsOf(history, 'told')) accounted.told(fact);
  const kept = (triggerId: string, id: string): boolean =>
    accounted.hasId(id) ||
    (ending.held[triggerId] ?? []).includes(id) ||
    (ending.letters[triggerId] ?? []).includes(id);
  const triggers = new Map(history.triggers.map((trigger) => [trigger.triggerId, trigger]));
  // Said aloud, and a limit: a batch whose objects could not be read for as long as it was tried.
  const unread = new Set(
    [...factsOf(history, 'logged')]
      .filter(({ event }) => event === 'commit.snapshot_unread')
      .map((fact) => fact.batchId),
  );
  for (const { batchId, triggerId, eventIds } of ending.saved) {
    if (triggers.get(triggerId)?.kind !== 'queue' || unread.has(batchId)) continue;
    for (const id of eventIds)
      if (!kept(triggerId, id)) yield `${id} of ${short(triggerId)} was saved by ${batchId} and is nowhere`;
  }
  if (!ending.rested) return;
  for (const row of ending.rows) {
    const trigger = triggers.get(row.triggerId);
    if (trigger === undefined || !row.enabled || trigger.kind === 'queue') continue;
    yield* leftBehind(trigger, row, (item) =>
      isBad(item)
        ? (ending.badItems[row.triggerId] ?? []).includes(item.key)
        : kept(row.triggerId, eventIdOf(row.triggerId, item.key)),
    );
  }
}

function* leftBehind(trigger: TriggerFacts, row: RowFacts, isKept: (item: Item) => boolean): Generator<string> {
  const { items, kind, triggerId } = trigger;
  if (kind === 'log' && positionOf(row.cursor) < items.length)
    yield `${short(triggerId)} is at rest at ${positionOf(row.cursor)} of ${items.length} items`;
  if (kind !== 'listing') return;
  for (const item of items.slice(-trigger.pageItems)) {
    if (!isKept(item) && !isQuiet(item, row))
      yield `${item.key} of ${short(triggerId)} lies in the listing and nobody has it`;
  }
}

/** S7: equal item, equal id; and with no fault and no change of mind each event is told once. */
function* equalIds(history: History): Generator<string> {
  const keys = new Map(
    history.triggers.map(({ triggerId, items }) => [triggerId, new Set(items.map(({ key }) => key))]),
  );
  const counts = new Map<string, number>();
  for (const fact of factsOf(history, 'told')) {
    for (const { triggerId, events, status } of fact.results) {
      for (const { id, key } of events) {
        if (keys.get(triggerId)?.has(key) !== true)
          yield `${seconds(fact)}: an event of ${short(triggerId)} is no item of its source`;
        else if (id !== eventIdOf(triggerId, key))
          yield `${seconds(fact)}: ${key} of ${short(triggerId)} was told as ${id}`;
        if (status === 'accepted') counts.set(id, (counts.get(id) ?? 0) + 1);
      }
    }
  }
  const isDisturbed =
    history.ending.faults > 0 ||
    [...factsOf(history, 'fed')].some(({ fences, moves, before }) => before !== undefined && (fences || moves));
  if (isDisturbed) return;
  for (const [id, count] of counts) if (count > 1) yield `${id} was told ${count} times though nothing went wrong`;
}

/** S8: a lease ends: bounded extensions, a bounded number of hops, and a last hop that leaves nothing. */
function* leasesEnd(history: History): Generator<string> {
  const leaseMs = history.leaseSeconds * 1000;
  for (const fact of factsOf(history, 'extended')) {
    if (fact.live && fact.leaseMs > leaseMs + HOP_BACKOFF_MS_MAX + TRAVEL_MS)
      yield `${seconds(fact)}: the lease of ${fact.batchId} runs for ${Math.round(fact.leaseMs / 1000)} s`;
  }
  const forced = new Set<string>();
  const begun = new Set<string>();
  for (const fact of history.facts) {
    if (fact.kind === 'hop') {
      const run = `${fact.batchId} ${fact.hop}`;
      if (begun.has(run)) yield `${seconds(fact)}: ${fact.batchId} began run ${fact.hop} a second time`;
      begun.add(run);
    }
    if (fact.kind === 'hop' && fact.hop > history.maxHops)
      yield `${seconds(fact)}: ${fact.batchId} began run ${fact.hop} of ${history.maxHops}`;
    // Whose every row was committed before is the late attempt of an earlier hop.
    const isLate = fact.kind === 'committed' && fact.rows.length > 0 && fact.exceptions.length === fact.rows.length;
    if (fact.kind === 'committed' && fact.hop >= history.maxHops && fact.wasLive && !fact.end && !isLate)
      yield `${seconds(fact)}: the last hop of ${fact.batchId} committed without ending it`;
    if ((fact.kind === 'ended' || (fact.kind === 'committed' && fact.end)) && !forced.has(fact.batchId))
      forced.add(fact.batchId);
    if (
      fact.kind === 'batch_over' &&
      (fact.status === 'forced' || fact.status === 'committed') &&
      !forced.has(fact.batchId)
    )
      yield `${seconds(fact)}: ${fact.batchId} is over as ${fact.status} and was never ended`;
  }
}

/** What must have happened to the very trigger before a commit may say so of it; undefined: anything goes. */
const EVIDENCE: Readonly<Record<string, readonly string[]>> = {
  ok: ['ok'],
  'poll.rate_limited': ['poll.rate_limited'],
  'poll.auth_rejected': ['poll.auth_rejected'],
  'poll.connector_error': ['poll.connector_error'],
  'poll.response_invalid': ['poll.response_invalid'],
  'poll.too_large': ['poll.too_large'],
  'poll.permanent': ['poll.permanent'],
  'poll.throttled': ['poll.throttled'],
  'broadcast.unavailable': ['ok'],
};

/** S9: each entry for itself: once in a commit, of its own batch, and with a verdict that its own calls justify. */
function* eachForItself(history: History): Generator<string> {
  const claims = new Map<string, { at: number; rows: Map<string, number> }>();
  const polls = new Map<string, Of<'polled'>[]>();
  const gone = new Map<string, number[]>();
  for (const fact of history.facts) {
    if (fact.kind === 'claimed')
      claims.set(fact.batchId, { at: fact.at, rows: new Map(fact.rows.map((row) => [row.triggerId, row.epoch])) });
    else if (fact.kind === 'polled') polls.set(fact.triggerId, [...(polls.get(fact.triggerId) ?? []), fact]);
    else if (fact.kind === 'told') {
      for (const { triggerId, status } of fact.results)
        if (status === 'gone') gone.set(triggerId, [...(gone.get(triggerId) ?? []), fact.at]);
    } else if (fact.kind === 'committed') {
      const claim = claims.get(fact.batchId);
      const once = new Set<string>();
      for (const { input } of fact.rows) {
        const { triggerId, code } = input;
        if (once.has(triggerId)) yield `${seconds(fact)}: ${short(triggerId)} stands twice in one commit`;
        once.add(triggerId);
        if (claim?.rows.get(triggerId) !== input.leaseEpoch) {
          yield `${seconds(fact)}: ${fact.batchId} commits ${short(triggerId)} at an epoch it has not claimed`;
          continue;
        }
        const own = (polls.get(triggerId) ?? []).filter(({ at }) => at >= claim.at);
        const wanted = EVIDENCE[code];
        if (wanted !== undefined && !own.some((poll) => wanted.includes(poll.code)))
          yield `${seconds(fact)}: ${short(triggerId)} ends as ${code}, which none of its own polls came to`;
        if (code === 'broadcast.gone' && !(gone.get(triggerId) ?? []).some((at) => at >= claim.at))
          yield `${seconds(fact)}: ${short(triggerId)} ends as gone, which the receiver never said of it`;
      }
    }
  }
}

/** S10: off is off: no poll of the old lease starts later than ten seconds after a fencing change. */
function* offIsOff(history: History): Generator<string> {
  const fenced = new Map<string, number>();
  for (const fact of history.facts) {
    if (fact.kind === 'fed' && fact.fences) fenced.set(fact.triggerId, fact.at);
    else if (fact.kind === 'claimed') for (const { triggerId } of fact.rows) fenced.delete(triggerId);
    else if (fact.kind === 'polled') {
      const since = fenced.get(fact.triggerId);
      if (since !== undefined && fact.at - since > OFF_MS + TRAVEL_MS)
        yield `${seconds(fact)}: ${short(fact.triggerId)} was polled by ${fact.process} ${((fact.at - since) / 1000).toFixed(1)} s after it was fenced`;
    }
  }
  for (const { fact, row } of written(history)) {
    if (row.before?.enabled === false) yield `${seconds(fact)}: ${short(row.input.triggerId)} is off and was committed`;
  }
}

/** Faults that say something of what was asked, and none that keep a process from clearing up. */
const HARMLESS = new Set(['verdict', 'throttle', 'scramble', 'refuse', 'stale', 'clock_jump', 'gone']);

/** S11: only what was really answered is used, and no credential lies open, or lies about when the batch is over. */
function* onlyItsOwn(history: History): Generator<string> {
  const answered = new Map<string, Set<string>>();
  for (const fact of history.facts) {
    if (fact.kind === 'stored' && fact.leaks) yield `${seconds(fact)}: ${fact.key} shows a credential`;
    if (fact.kind === 'polled' && fact.cursorAfter !== null)
      answered.set(fact.triggerId, (answered.get(fact.triggerId) ?? new Set()).add(fact.cursorAfter));
    if (fact.kind !== 'committed') continue;
    for (const { input } of fact.rows) {
      const { cursor, triggerId } = input;
      if (cursor !== undefined && cursor !== 'null' && answered.get(triggerId)?.has(cursor) !== true)
        yield `${seconds(fact)}: ${short(triggerId)} commits the cursor ${cursor}, which its source never gave`;
    }
  }
  const { ending } = history;
  if (ending.rested && ending.faultKinds.every((kind) => HARMLESS.has(kind)))
    for (const key of ending.authObjects) yield `${key} is still there though its batch is over`;
}

/** S16: tenants are apart: no credential and no event of one reaches what belongs to another. */
function* tenantsApart(history: History): Generator<string> {
  const triggers = new Map(history.triggers.map((trigger) => [trigger.triggerId, trigger]));
  const pairs = new Set(
    history.triggers.flatMap(({ tenantId, connections }) => connections.map((id) => `${tenantId} ${id}`)),
  );
  for (const fact of history.facts) {
    if (fact.kind === 'polled') {
      const trigger = triggers.get(fact.triggerId);
      const { tenantId, connectionId } = fact.auth;
      if (trigger?.tenantId !== tenantId || !trigger.connections.includes(connectionId))
        yield `${seconds(fact)}: ${short(fact.triggerId)} was polled with ${connectionId} of ${tenantId}`;
    } else if (fact.kind === 'asked') {
      for (const { tenantId, connectionId } of fact.connections)
        if (!pairs.has(`${tenantId} ${connectionId}`))
          yield `${seconds(fact)}: ${connectionId} was asked for in the name of ${tenantId}`;
    } else if (fact.kind === 'told') {
      for (const { triggerId, events } of fact.results)
        for (const event of events)
          if (event.triggerId !== triggerId)
            yield `${seconds(fact)}: an event of ${short(event.triggerId)} was told as one of ${short(triggerId)}`;
    }
  }
}

/** L1: once faults stop, every lease of before ends: four runs, their waits and their steps' time-outs at the most. */
function* leasesAreFreed(history: History): Generator<string> {
  const { faultsOffAt, liveBatches, rested } = history.ending;
  const before = new Set([...factsOf(history, 'claimed')].filter(({ at }) => at <= faultsOffAt).map((f) => f.batchId));
  for (const fact of factsOf(history, 'extended')) {
    if (fact.live && before.has(fact.batchId) && fact.at > faultsOffAt + 15 * 60_000)
      yield `${seconds(fact)}: ${fact.batchId} still holds its lease`;
  }
  if (rested) for (const batchId of liveBatches) yield `${batchId} is live at rest`;
}

/** L2: once faults stop, every polled trigger is polled, and whoever commits something due arms the timer after it. */
function* allArePolled(history: History): Generator<string> {
  const { ending } = history;
  if (!ending.rested) {
    const late = ending.rows.filter(
      ({ enabled, halted, lastOkAt }) =>
        enabled && (halted !== null || lastOkAt === null || lastOkAt < ending.faultsOffAt),
    );
    const names = late.map(({ triggerId, halted }) => `${short(triggerId)} ${halted ?? 'not polled'}`).join(', ');
    yield `nothing came to rest: ${names || 'every row was polled'}; live ${ending.liveBatches.length}, lifecycle unsent ${ending.unsentLifecycle}`;
  }
  const quietAt = ending.faultsOffAt + 110_000;
  const waiting = new Map<string, Of<'committed'>>();
  for (const fact of history.facts) {
    if (fact.at < quietAt) continue;
    if (fact.kind === 'committed' && fact.arm) waiting.set(fact.process, fact);
    else if (fact.kind === 'armed' && fact.by === 'commit') waiting.delete(fact.process);
    for (const [process, since] of waiting) {
      if (fact.at - since.at < ARM_MS) continue;
      waiting.delete(process);
      yield `${seconds(since)}: ${since.batchId} wrote something due and nobody armed the timer after it`;
    }
  }
}

/** Times the same request may be made by one process within so many milliseconds. */
const REPEATS = { '/state': { most: 1, withinMs: 900 }, '/conn/batch': { most: 6, withinMs: 3_000 } } as const;

/** L3: an outage is not hammered: one layer repeats a call, at its own pace; and in peace nothing is told twice. */
function* notHammered(history: History): Generator<string> {
  const isDraining = history.ending.faultKinds.includes('drain');
  const calls = new Map<string, number[]>();
  for (const fact of factsOf(history, 'called')) {
    const { most, withinMs } = REPEATS[fact.path];
    if (isDraining && fact.path === '/state') continue;
    const key = `${fact.process} ${fact.path} ${fact.digest}`;
    const times = [...(calls.get(key) ?? []).filter((at) => fact.at - at < withinMs), fact.at];
    calls.set(key, times);
    if (times.length > most)
      yield `${seconds(fact)}: ${fact.process} made the same call to ${fact.path} ${times.length} times within ${withinMs} ms`;
  }
  const told = new Map<string, number>();
  for (const fact of factsOf(history, 'told')) {
    if (fact.at < history.ending.faultsOffAt + 110_000) continue;
    for (const { events, status } of fact.results)
      for (const { id } of status === 'accepted' ? events : []) {
        const key = `${fact.batchId} ${id}`;
        told.set(key, (told.get(key) ?? 0) + 1);
        if (told.get(key) === 2)
          yield `${seconds(fact)}: ${id} was told twice by ${fact.batchId} though nothing failed`;
      }
  }
}

/** L4: one tenant's load does not make another's wait: rows are taken by their rank within their tenant. */
function* fairShares(history: History): Generator<string> {
  for (const { at, ready, planned } of factsOf(history, 'ticked')) {
    const taken = new Set(planned.flatMap(({ triggerIds }) => triggerIds));
    const last = Math.max(0, ...ready.filter(({ triggerId }) => taken.has(triggerId)).map(({ rank }) => rank));
    const counts = Map.groupBy(ready, ({ tenantId }) => tenantId);
    // Who has over a quarter of what is due waits for whole batches of its own.
    const isMany = (tenantId: string): boolean => (counts.get(tenantId)?.length ?? 0) * 4 > ready.length;
    for (const { triggerId, tenantId, rank } of ready)
      if (!taken.has(triggerId) && rank < last && !isMany(tenantId))
        yield `${seconds({ at })}: ${short(triggerId)}, rank ${rank} of its tenant, was left behind rank ${last} of another's`;
  }
}

/** L5: the run made progress; a run in which nothing happened proves nothing. */
function* progress(history: History): Generator<string> {
  const isWanted = history.ending.rows.some(({ enabled }) => enabled);
  if (isWanted && written(history).next().done === true) yield 'not one row was committed';
}

/** No promise fails unheard: in production the process would end there, and all that it runs with it. */
function* heard(history: History): Generator<string> {
  for (const fact of factsOf(history, 'unheard')) yield `${seconds(fact)}: a promise failed unheard: ${fact.error}`;
}

export const CHECKERS: Readonly<Record<string, Checker>> = Object.freeze({
  S1: oneLease,
  S2: fence,
  S3: edges,
  S4: commitOnce,
  S5: cursorWaits,
  S6: nothingLost,
  S7: equalIds,
  S8: leasesEnd,
  S9: eachForItself,
  S10: offIsOff,
  S11: onlyItsOwn,
  S16: tenantsApart,
  L1: leasesAreFreed,
  L2: allArePolled,
  L3: notHammered,
  L4: fairShares,
  L5: progress,
  process: heard,
});

export function checkHistory(history: History): Finding[] {
  return Object.entries(CHECKERS).flatMap(([checker, check]) =>
    [...check(history)].map((message) => ({ checker, message })),
  );
}
