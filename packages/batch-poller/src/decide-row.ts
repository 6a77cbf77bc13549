/**
 * What a row becomes: entry state and verdict → commit row. Pure, and the only place where the verdict table meets the
 * commit (S5, S9: each entry alone, the cursor never past an event that was not accepted or kept).
 */
import {
  type ClaimedTrigger,
  type CommitRow,
  type DeadLetter,
  haltCodeOf,
  type StoredEvent,
  type TriggerState,
  verdictOf,
} from '@milkrun/core';
import { type FoldedEntry, type FoldedPage, isDelivered, undelivered } from './fold.ts';
import { addKeys, seenAfter } from './poll-state.ts';
import { deadLetterOf, type ResultRecord } from './snapshot/records.ts';

type Polled = Extract<FoldedEntry, { state: 'polled' }>;
type Failed = Extract<FoldedEntry, { state: 'failed' }>;

const HALT_AFTER_FAILURES = 3;
const QUARANTINE_AFTER_POISONS = 5;
const RETRY_AFTER_SECONDS_MAX = 86_400;

/** `open`: the entry keeps its lease for the next hop. `free`: it has nothing to write; the end of the batch frees it. */
export type RowDecision =
  | { readonly kind: 'row'; readonly row: CommitRow }
  | { readonly kind: 'open' }
  | { readonly kind: 'free' };

/** Whether deciding this entry needs the row's remembered keys. */
export function needsState(entry: FoldedEntry): entry is Polled {
  return (
    entry.state === 'polled' &&
    entry.chain.pages.some((page) => page.record.newKeys !== '' || page.record.quietKeys !== undefined)
  );
}

export function decideRow(entry: FoldedEntry, state: TriggerState | undefined, forced: boolean): RowDecision {
  if (entry.state === 'claimed') return forced ? { kind: 'free' } : { kind: 'open' };
  if (entry.state === 'failed') return decideFailed(entry, forced);
  if (entry.gone)
    return {
      kind: 'row',
      row: {
        ...rowOf(entry.trigger),
        ...deliveredPart(entry, state),
        ...heldPart(entry),
        outcome: 'halt',
        code: 'broadcast.gone',
        haltCode: 'receiver_gone',
        polled: true,
      },
    };
  if (isDelivered(entry)) return { kind: 'row', row: delivered(entry, state) };
  return forced ? { kind: 'row', row: parked(entry, state) } : { kind: 'open' };
}

function rowOf({ shard, triggerId, leaseEpoch }: ClaimedTrigger) {
  return { shard, triggerId, leaseEpoch, events: 0 };
}

function decideFailed(entry: Failed, forced: boolean): RowDecision {
  const { code, reason, trigger } = entry;
  const verdict = verdictOf(code);
  const base = { ...rowOf(trigger), code, reason, pollMs: entry.pollMs };
  const paced =
    entry.retryAfterSeconds === undefined
      ? {}
      : { retryAfterSeconds: Math.min(entry.retryAfterSeconds, RETRY_AFTER_SECONDS_MAX) };
  if (code === 'poll.auth_rejected' && entry.authRejections < 2) {
    // Refused once: fresh auth in the next hop; with no hop left nothing is charged to the trigger.
    return forced ? { kind: 'row', row: { ...base, outcome: 'release' } } : { kind: 'open' };
  }
  switch (verdict.atCommit) {
    case 'release':
      return forced ? { kind: 'row', row: { ...base, outcome: 'release' } } : { kind: 'open' };
    case 'halt':
      return { kind: 'row', row: { ...base, outcome: 'halt', haltCode: haltCodeOf(code) } };
    case 'backoff':
      return { kind: 'row', row: { ...base, ...paced, outcome: 'backoff', charge: 'failure' } };
    case 'halt_after_3':
      return {
        kind: 'row',
        row: {
          ...base,
          ...paced,
          outcome: 'backoff',
          charge: 'failure',
          haltAfter: HALT_AFTER_FAILURES,
          haltCode: code,
          // Only commit knows whether the failures before were of this code; it writes the warning unless it halts.
          warnings: [code],
        },
      };
    case 'quarantine_after_5':
      return {
        kind: 'row',
        row: {
          ...base,
          ...paced,
          outcome: 'backoff',
          charge: 'poison',
          haltAfter: QUARANTINE_AFTER_POISONS,
          haltCode: 'quarantined',
        },
      };
    case 'rate_limited':
      return { kind: 'row', row: { ...base, ...paced, outcome: 'rate_limited' } };
    case 'advance':
      return { kind: 'open' };
  }
}

/** Cursor, keys and version of what was delivered: the cursor of the last page delivered whole, and the keys beyond it. */
function deliveredPart(
  entry: Polled,
  state: TriggerState | undefined,
): Pick<CommitRow, 'cursor' | 'seen' | 'seenAdded' | 'versionUsed' | 'rekeyed' | 'deadLetters' | 'heldDelivered'> {
  const { pages } = entry.chain;
  const whole: FoldedPage[] = [];
  for (const page of pages) {
    if (page.delivered !== 'whole' && page.record.events.length > 0) break;
    whole.push(page);
  }
  const last = whole.at(-1);
  const counted = pages.slice(0, whole.length + 1).filter((page, at) => at < whole.length || page.delivered !== 'none');
  const rekeyed = pages.some((page) => page.record.rekeys === true);
  const letters: DeadLetter[] = [
    ...whole.flatMap((page) => page.record.deadLetters ?? []),
    ...entry.deadLetters.flatMap((record) => record.deadLetters ?? []),
  ].map(deadLetterOf);
  return {
    ...(last !== undefined && last.record.sameCursor !== true ? { cursor: last.record.cursorAfter ?? 'null' } : {}),
    ...(addKeys(counted) || rekeyed ? seenPart(state?.seen, seenAfter(state?.seen, counted, rekeyed)) : {}),
    ...(last?.record.versionUsed === undefined || last.record.versionUsed === entry.trigger.versionUsed
      ? {}
      : { versionUsed: last.record.versionUsed }),
    ...(rekeyed ? { rekeyed: true } : {}),
    ...(letters.length === 0 ? {} : { deadLetters: letters }),
    ...(entry.heldTaken.length === 0 ? {} : { heldDelivered: entry.heldTaken }),
  };
}

function seenPart(before: Uint8Array = new Uint8Array(0), seen: Uint8Array): Pick<CommitRow, 'seen' | 'seenAdded'> {
  const isLonger = before.byteLength > 0 && Buffer.compare(before, seen.subarray(0, before.byteLength)) === 0;
  return { seen, ...(isLonger ? { seenAdded: seen.subarray(before.byteLength) } : {}) };
}

function delivered(entry: Polled, state: TriggerState | undefined): CommitRow {
  const { pages, limited } = entry.chain;
  const [only] = pages;
  if (pages.length === 1 && only !== undefined && limited === undefined && saysNothing(entry, only.record)) {
    const { deduplicated, pollMs } = only.record;
    return {
      ...rowOf(entry.trigger),
      outcome: 'success',
      code: 'ok',
      polled: true,
      deduplicated,
      found: deduplicated,
      pollMs,
    };
  }
  const last = pages.at(-1) as FoldedPage;
  const { retryAfterSeconds } = limited ?? last.record;
  const refused = entry.deadLetters.reduce((sum, record) => sum + (record.deadLetters?.length ?? 0), 0);
  return {
    ...rowOf(entry.trigger),
    ...deliveredPart(entry, state),
    ...(limited === undefined
      ? { outcome: last.record.more ? 'more' : 'success', code: 'ok' }
      : { outcome: 'rate_limited', code: 'poll.rate_limited', reason: limited.reason ?? '' }),
    polled: true,
    events: Math.max(0, pages.reduce((sum, page) => sum + page.record.events.length, 0) - refused),
    deduplicated: pages.reduce((sum, page) => sum + page.record.deduplicated, 0),
    found: foundIn(pages),
    pollMs: pages.reduce((sum, page) => sum + page.record.pollMs, 0),
    ...(last.record.primeDone === true ? { primed: true } : {}),
    ...(retryAfterSeconds === undefined
      ? {}
      : { retryAfterSeconds: Math.min(retryAfterSeconds, RETRY_AFTER_SECONDS_MAX) }),
    ...(pages.some((page) => page.record.gap === true) ? { warnings: ['gap_suspected'] } : {}),
  };
}

/** Hot path: whether a page leaves nothing to commit but that it was polled. */
function saysNothing(entry: Polled, record: ResultRecord): boolean {
  return (
    record.events.length === 0 &&
    record.newKeys === '' &&
    record.quietKeys === undefined &&
    record.sameCursor === true &&
    !record.more &&
    record.rekeys !== true &&
    record.primeDone !== true &&
    record.gap !== true &&
    record.retryAfterSeconds === undefined &&
    record.deadLetters === undefined &&
    (record.versionUsed === undefined || record.versionUsed === entry.trigger.versionUsed) &&
    entry.deadLetters.length === 0 &&
    entry.heldTaken.length === 0
  );
}

/** The last hop's parked entry: what was taken is remembered, the rest is polled again or held. */
function parked(entry: Polled, state: TriggerState | undefined): CommitRow {
  const part = deliveredPart(entry, state);
  return {
    ...rowOf(entry.trigger),
    ...part,
    ...heldPart(entry),
    outcome: 'release',
    code: 'broadcast.unavailable',
    reason: 'the receiver did not take all events in any of the batch’s hops',
    polled: true,
    events: entry.chain.pages.reduce((sum, page) => sum + (page.record.events.length - undelivered(page).length), 0),
    deduplicated: entry.chain.pages.reduce((sum, page) => sum + page.record.deduplicated, 0),
    found: foundIn(entry.chain.pages),
  };
}

const foundIn = (pages: readonly FoldedPage[]): number =>
  pages.reduce((sum, page) => sum + page.record.events.length + page.record.deduplicated, 0);

/** A source that cannot repeat itself is not asked again for what is now held: its cursor moves on. */
function heldPart(entry: Polled): Pick<CommitRow, 'held' | 'cursor'> {
  const held = entry.trigger.pollPolicy.repeatable ? [] : heldOf(entry);
  if (held.length === 0) return {};
  const last = entry.chain.pages.at(-1) as FoldedPage;
  return { held, cursor: last.record.cursorAfter ?? 'null' };
}

/** Events that a fenced entry would lose: what nobody has taken, and what was refused, for its dead letter is not written. */
export function heldOfFenced(entry: Polled): StoredEvent[] {
  const refused = new Set(entry.deadLetters.flatMap((record) => record.eventIds ?? []));
  return entry.chain.pages.flatMap((page) => {
    const open = new Set(undelivered(page).map((event) => event.eventId));
    return page.record.events.filter(({ eventId }) => open.has(eventId) || refused.has(eventId));
  });
}

/** Events of an entry that nobody has taken. */
function heldOf(entry: Polled): StoredEvent[] {
  return entry.chain.pages.flatMap((page) => undelivered(page).map(({ eventId, json }) => ({ eventId, json })));
}
