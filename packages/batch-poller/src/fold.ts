/**
 * The state of every entry, read back from the batch's immutable objects (design section 6). Pure.
 *
 * A trigger may have several chains of pages: attempts and hops overlap when a worker is lost. The chain whose page was
 * first recorded as delivered is its result; without a delivered record the first chain in (hop, attempt, n) that is a
 * result counts. A verdict that is tried again in the next hop is no result once that hop has begun.
 */
import {
  type ClaimedTrigger,
  type EntryStateName,
  isVerdictCode,
  type StoredEvent,
  type VerdictCode,
  verdictOf,
} from '@milkrun/core';
import {
  type DeliveredRecord,
  HELD_REF,
  type ResultRecord,
  type Stored,
  type VerdictRecord,
} from './snapshot/records.ts';

export interface FoldedPage {
  readonly at: { readonly object: string; readonly line: number };
  readonly record: ResultRecord;
  /** `whole`: every event was accepted or dead-lettered. A set: only these were. */
  delivered: 'whole' | ReadonlySet<string> | 'none';
}

interface Chain {
  readonly hop: number;
  readonly attempt: number;
  readonly pages: readonly FoldedPage[];
  /** The provider asked to be polled later where the next page should have come. */
  readonly limited?: ResultRecord;
}

interface Common {
  readonly trigger: ClaimedTrigger;
  /** Hops of this epoch in which the provider refused the auth. */
  readonly authRejections: number;
  /** Events of a source that cannot be asked again on pages that do not count: another chain's, or behind a lost page. */
  readonly strays: readonly StoredEvent[];
}

interface PolledEntry extends Common {
  readonly state: 'polled';
  readonly chain: Chain;
  readonly gone: boolean;
  readonly deadLetters: readonly DeliveredRecord[];
  /** Ids of held events that were taken. */
  readonly heldTaken: readonly string[];
}

interface FailedEntry extends Common {
  readonly state: 'failed';
  readonly code: VerdictCode;
  readonly reason: string;
  readonly retryAfterSeconds?: number;
  readonly pollMs: number;
}

export type FoldedEntry =
  /** No result: to be polled, once authorized. */
  (Common & { readonly state: 'claimed' }) | PolledEntry | FailedEntry;

export interface FoldInput {
  readonly entries: readonly ClaimedTrigger[];
  readonly verdicts: readonly VerdictRecord[];
  readonly results: readonly Stored<ResultRecord>[];
  readonly delivered: readonly DeliveredRecord[];
  /** The present hop: verdicts of earlier hops that are tried again are forgotten. */
  readonly hop: number;
}

function isTriedAgain(code: string): boolean {
  return isVerdictCode(code) && verdictOf(code).inBatch === 'next_hop';
}

/** Whether a record ends its trigger's polling in this batch. */
function isResult(record: ResultRecord): boolean {
  return record.code === 'ok' || (isVerdictCode(record.code) && verdictOf(record.code).inBatch === 'stop');
}

interface ByTrigger {
  readonly results: Stored<ResultRecord>[];
  delivered: DeliveredRecord[] | undefined;
  verdict: VerdictRecord | undefined;
}

const NONE: readonly never[] = Object.freeze([]);

/** Folds all objects into one state per entry, in the order of the entries. */
export function foldEntries(input: FoldInput): FoldedEntry[] {
  const byTrigger = new Map<string, ByTrigger>();
  const of = (triggerId: string): ByTrigger => {
    let found = byTrigger.get(triggerId);
    if (found === undefined) {
      found = { results: [], delivered: undefined, verdict: undefined };
      byTrigger.set(triggerId, found);
    }
    return found;
  };
  for (const stored of input.results) of(stored.record.triggerId).results.push(stored);
  for (const record of input.delivered) {
    const found = of(record.triggerId);
    if (found.delivered === undefined) found.delivered = [record];
    else found.delivered.push(record);
  }
  for (const record of input.verdicts) {
    if (isTriedAgain(record.code) && record.hop < input.hop) continue;
    of(record.triggerId).verdict ??= record;
  }
  return input.entries.map((trigger) => foldOne(trigger, byTrigger.get(trigger.triggerId), input.hop));
}

function foldOne(trigger: ClaimedTrigger, found: ByTrigger | undefined, hop: number): FoldedEntry {
  if (found === undefined) return { state: 'claimed', trigger, authRejections: 0, strays: [] };
  const plain = plainPage(trigger, found);
  if (plain !== undefined) return plain;
  // A record of another epoch is another batch's and is never used.
  const results = found.results.filter((stored) => stored.record.leaseEpoch === trigger.leaseEpoch);
  const ofEpoch = (found.delivered ?? NONE).filter((record) => record.leaseEpoch === trigger.leaseEpoch);
  const delivered = ofEpoch.filter((record) => record.result.object !== HELD_REF.object);
  const heldTaken = ofEpoch
    .filter((record) => record.result.object === HELD_REF.object)
    .flatMap((record) => record.eventIds ?? []);
  // By hops: two attempts that overlap are refused with the same credentials.
  const refusedIn = results.filter((stored) => stored.record.code === 'poll.auth_rejected');
  const authRejections = new Set(refusedIn.map((stored) => stored.record.hop)).size;
  // More keys than can be remembered: no page of such a chain may be told, or the next poll would tell it again.
  const tooLarge =
    delivered.length === 0 ? results.find((stored) => stored.record.code === 'poll.listing_too_large') : undefined;
  const without = (chain?: Chain) => ({ trigger, authRejections, strays: straysOf(trigger, results, chain) });
  if (tooLarge !== undefined) return failedBy(without(), tooLarge.record);
  const chain = chooseChain(results, delivered);
  if (chain !== undefined) {
    return {
      state: 'polled',
      ...without(chain),
      chain,
      gone: ofEpoch.some((record) => record.status === 'gone'),
      deadLetters: ofEpoch.filter((record) => record.deadLetters !== undefined),
      heldTaken,
    };
  }
  const stopped = results.find((stored) => stored.record.code !== 'ok' && isResult(stored.record))?.record;
  if (stopped !== undefined) return failedBy(without(), stopped);
  if (authRejections >= 2) {
    const last = results.findLast((stored) => stored.record.code === 'poll.auth_rejected');
    if (last !== undefined) return failedBy(without(), last.record);
  }
  // Platform verdicts of the present hop wait for the next one.
  const waitingResult = results.find((stored) => stored.record.hop >= hop && stored.record.code !== 'ok')?.record;
  if (waitingResult !== undefined) return failedBy(without(), waitingResult);
  if (found.verdict !== undefined && found.verdict.leaseEpoch === trigger.leaseEpoch) {
    const { code, reason, retryAfterSeconds } = found.verdict;
    if (isVerdictCode(code)) {
      return {
        state: 'failed',
        ...without(),
        code,
        reason,
        pollMs: 0,
        ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
      };
    }
  }
  return { state: 'claimed', ...without() };
}

/** What a source that cannot be asked again gave on pages outside the chain that counts. */
function straysOf(
  { pollPolicy }: ClaimedTrigger,
  results: readonly Stored<ResultRecord>[],
  chain: Chain | undefined,
): readonly StoredEvent[] {
  if (pollPolicy.repeatable) return [];
  const told = new Set((chain?.pages ?? []).flatMap((page) => page.record.events.map(({ eventId }) => eventId)));
  return results.flatMap(({ record }) => record.events.filter(({ eventId }) => !told.has(eventId)));
}

/** Hot path: one good page and nothing else, as nearly every poll leaves; what the general way makes of it, for a fifth. */
function plainPage(trigger: ClaimedTrigger, found: ByTrigger): FoldedEntry | undefined {
  const [only, second] = found.results;
  if (only === undefined || second !== undefined || found.delivered !== undefined) return undefined;
  const { at, record } = only;
  if (record.code !== 'ok' || record.page !== 0 || record.leaseEpoch !== trigger.leaseEpoch) return undefined;
  return {
    state: 'polled',
    trigger,
    chain: { hop: record.hop, attempt: record.attempt, pages: [{ at, record, delivered: 'none' }] },
    authRejections: 0,
    gone: false,
    deadLetters: NONE,
    heldTaken: NONE,
    strays: NONE,
  };
}

function failedBy(common: Common, record: ResultRecord): FoldedEntry {
  const code: VerdictCode = isVerdictCode(record.code) ? record.code : 'poll.response_invalid';
  return {
    state: 'failed',
    ...common,
    code,
    reason: record.reason ?? '',
    pollMs: record.pollMs,
    ...(record.retryAfterSeconds === undefined ? {} : { retryAfterSeconds: record.retryAfterSeconds }),
  };
}

function chooseChain(
  results: readonly Stored<ResultRecord>[],
  delivered: readonly DeliveredRecord[],
): Chain | undefined {
  const pages = results.filter((stored) => stored.record.code === 'ok');
  const firstDelivered = delivered.find((record) => record.status !== 'parked');
  const anchor =
    firstDelivered === undefined
      ? pages[0]
      : (pages.find(
          (stored) =>
            stored.at.object === firstDelivered.result.object && stored.at.line === firstDelivered.result.line,
        ) ??
        pages.find(
          (stored) => stored.record.hop === firstDelivered.hop && stored.record.attempt === firstDelivered.attempt,
        ));
  if (anchor === undefined) return undefined;
  // Without a delivered record the first *result* counts: a stop verdict that came before the first good page wins.
  if (firstDelivered === undefined) {
    const first = results.find((stored) => isResult(stored.record));
    if (first !== undefined && first.record.code !== 'ok' && !sameChain(first.record, anchor.record)) return undefined;
  }
  const own = pages
    .filter((stored) => sameChain(stored.record, anchor.record))
    .sort((a, b) => a.record.page - b.record.page);
  const contiguous: FoldedPage[] = [];
  for (const stored of own) {
    // A page whose predecessor was lost is not used: its cursor would pass events nobody saw.
    if (stored.record.page !== contiguous.length) break;
    contiguous.push({ at: stored.at, record: stored.record, delivered: deliveryOf(stored, delivered) });
  }
  if (contiguous.length === 0) return undefined;
  const limited = results.find(
    ({ record }) =>
      record.code === 'poll.rate_limited' &&
      sameChain(record, anchor.record) &&
      record.page === contiguous.length &&
      contiguous.at(-1)?.record.more === true,
  )?.record;
  const { hop, attempt } = anchor.record;
  return { hop, attempt, pages: contiguous, ...(limited === undefined ? {} : { limited }) };
}

function sameChain(a: ResultRecord, b: ResultRecord): boolean {
  return a.hop === b.hop && a.attempt === b.attempt;
}

function deliveryOf(stored: Stored<ResultRecord>, delivered: readonly DeliveredRecord[]): FoldedPage['delivered'] {
  const parts = new Set<string>();
  let any = false;
  for (const record of delivered) {
    if (record.result.object !== stored.at.object || record.result.line !== stored.at.line) continue;
    if (record.status !== 'accepted' && record.status !== 'refused') continue;
    any = true;
    if (record.eventIds === undefined) return 'whole';
    for (const eventId of record.eventIds) parts.add(eventId);
  }
  if (!any) return 'none';
  return stored.record.events.every((event) => parts.has(event.eventId)) ? 'whole' : parts;
}

/** Events of a page that nobody has taken yet, in connector order. */
export function undelivered(page: FoldedPage): ResultRecord['events'] {
  const { delivered } = page;
  if (delivered === 'whole') return [];
  if (delivered === 'none') return page.record.events;
  return page.record.events.filter((event) => !delivered.has(event.eventId));
}

/** Whether nothing of the entry remains to be sent: all events taken, and a finished prime has been told. */
export function isDelivered(entry: Extract<FoldedEntry, { state: 'polled' }>): boolean {
  return entry.chain.pages.every(
    (page) => page.delivered === 'whole' || (page.record.events.length === 0 && page.record.primeDone !== true),
  );
}

/** The state machine's name of an entry's state; a verdict that halts is told apart where the row is decided. */
export function stateNameOf(entry: FoldedEntry): EntryStateName {
  if (entry.state !== 'polled') return entry.state;
  if (entry.gone) return 'halted';
  return isDelivered(entry) ? 'delivered' : 'polled';
}
