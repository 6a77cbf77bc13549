/**
 * One poll of one trigger: a chain of pages, each saved with its events or not at all.
 *
 * The chain ends at a page without `more`, at 20 pages, at the step's budget or with its attempt; what is saved is the
 * result. Hot path: an empty first page costs one call, one parse and one line of text.
 */
import {
  type ClaimedTrigger,
  decidePage,
  KEY_BYTES,
  newChain,
  type PollReply,
  type Prime,
  SEEN_KEYS_MAX,
  SeenIndex,
  secretsOf,
  type TriggerState,
  type VerdictCode,
  withoutSecrets,
} from '@milkrun/core';
import type { PollDeps } from './deps.ts';
import { isSameCursor } from './same-cursor.ts';
import { deadLetterRecordOf, type ResultRecord } from './snapshot/records.ts';
import type { ResultWriter } from './snapshot/snapshot.ts';

export interface ChainInput {
  readonly batchId: string;
  readonly hop: number;
  readonly attempt: number;
  readonly trigger: ClaimedTrigger;
  readonly state: TriggerState | undefined;
  /** JSON text. */
  readonly auth: string;
  readonly signal: AbortSignal;
  readonly budgetEnd: number;
  /** Whether another page may be asked for: not of a trigger that was taken from the batch meanwhile. */
  readonly mayGoOn: () => boolean | Promise<boolean>;
  readonly writer: ResultWriter;
}

export interface ChainOutcome {
  /** A result was saved: the entry needs no other poll in this hop. */
  readonly saved: boolean;
  readonly askedSeconds: number;
  /** The connector failed, or did not answer in time. */
  readonly failed?: boolean;
}

const NOTHING = new Uint8Array(0);
const REASON_CHARS_MAX = 500;
const SKIPPED_SECONDS_MAX = 60;
/** Loaded and used without a wait between; a chain of several pages has an index of its own. */
const shared = new SeenIndex();

function requestBody(deps: PollDeps, input: ChainInput, cursor: string | null, deadlineMs: number): string {
  const { trigger } = input;
  const since = trigger.primed || trigger.since === null ? '' : `,"since":${JSON.stringify(trigger.since)}`;
  return (
    `{"trigger":{"id":"${trigger.triggerId}","slug":${JSON.stringify(trigger.slug)},"version":${JSON.stringify(trigger.versionWanted)}` +
    `,"config":${trigger.config}},"auth":${input.auth},"cursor":${cursor ?? 'null'}${since}` +
    `,"limits":{"deadlineMs":${Math.floor(deadlineMs)},"eventsMax":${deps.limits.eventsMax}}}`
  );
}

export async function pollChain(deps: PollDeps, input: ChainInput): Promise<ChainOutcome> {
  const { trigger, state } = input;
  let cursor = state?.cursor ?? null;
  let seen: Uint8Array = state?.seen ?? NOTHING;
  let chain: ReturnType<typeof newChain> | undefined;
  let askedSeconds = 0;
  let saved = false;
  let rekeyed = false;
  /** Keys the chain has added so far: a page that adds none may still list what must not be forgotten for them. */
  let fresh = 0;
  for (let page = 0; page < deps.limits.pagesMax; page += 1) {
    const left = input.budgetEnd - deps.clock.monotonic();
    if (page > 0 && (left <= 0 || input.signal.aborted || !(await input.mayGoOn()))) break;
    const heldSeconds = deps.holds?.secondsLeft(trigger);
    if (heldSeconds !== undefined) {
      // Another poll of its connection was told to stay away: this one is not made.
      deps.metrics.count('polling.poll.held');
      await append(input, failure(input, page, 'poll.rate_limited', 'its connection is limited', 0, heldSeconds));
      if (page > 0) break;
      return { saved: true, askedSeconds };
    }
    const started = deps.clock.monotonic();
    const deadlineMs = deps.limits.pollDeadlineMs;
    const reply = await deps.runner.poll({
      toolkit: trigger.toolkit,
      body: requestBody(deps, input, cursor, deadlineMs),
      deadlineMs,
      signal: input.signal,
    });
    if (reply.code === 'aborted') break;
    const pollMs = Math.round(deps.clock.monotonic() - started);
    if (reply.code !== 'ok') {
      askedSeconds = Math.max(askedSeconds, noteFailure(deps, reply));
      if (reply.code === 'poll.rate_limited') {
        const { toolkit, tenantId, connectionId, intervalSeconds } = trigger;
        deps.holds?.limited({ toolkit, tenantId, connectionId, seconds: reply.retryAfterSeconds ?? intervalSeconds });
      }
      // A connector may repeat what it was given, and the reason is kept for people to read.
      const message = withoutSecrets(reply.message, secretsOf(input.auth));
      // Pages already saved stand; a later page's failure only ends the chain, and how long to stay away is kept.
      if (page > 0) {
        if (reply.code === 'poll.rate_limited')
          await append(input, failure(input, page, reply.code, message, pollMs, reply.retryAfterSeconds));
        break;
      }
      await append(input, failure(input, page, reply.code, message, pollMs, reply.retryAfterSeconds));
      return {
        saved:
          reply.code !== 'poll.throttled' && reply.code !== 'poll.unavailable' && reply.code !== 'poll.auth_rejected',
        askedSeconds,
        failed: reply.code === 'poll.timeout' || reply.code === 'poll.connector_error',
      };
    }
    deps.slots.answered();
    deps.metrics.count('polling.poll.pages');
    const answer = reply.page;
    if (answer.rekeys === true && answer.version === undefined) {
      // Without a name it could never be told whether the keys have changed yet, and every poll would prime.
      if (page > 0) break;
      await append(input, failure(input, page, 'poll.response_invalid', 'rekeys without version', pollMs, undefined));
      return { saved: true, askedSeconds };
    }
    if (!rekeyed && changesKeys(trigger, answer)) {
      // Nothing remembered counts, and the trigger primes again: from a first page, or what was read would be mixed.
      if (page > 0) break;
      rekeyed = true;
      seen = NOTHING;
    }
    const priming = !trigger.primed || rekeyed;
    // A queue may have no cursor to move, but then it brings something new; otherwise the next page would be this one again.
    const isStill = answer.more && isSameCursor(cursor, answer.cursor);
    if (answer.items.length === 0 && page === 0) {
      const last = isStill ? { ...answer, more: false } : answer;
      await append(input, emptyPage(input, last, pollMs, priming, rekeyed));
      saved = true;
      cursor = answer.cursor;
      if (!last.more) break;
      continue;
    }
    if (chain === undefined) {
      const known = answer.more || page > 0 ? new SeenIndex() : shared;
      known.load(seen);
      chain = newChain(known);
    }
    const outcome = decidePage({
      source: {
        triggerId: trigger.triggerId,
        toolkit: trigger.toolkit,
        slug: trigger.slug,
        triggerVersion: answer.version ?? trigger.versionWanted,
        batchId: input.batchId,
      },
      epoch: trigger.leaseEpoch,
      page,
      items: answer.items,
      more: answer.more,
      eventsMax: deps.limits.eventsMax,
      policy: trigger.pollPolicy,
      prime: priming ? primeOf(trigger) : null,
      chain,
    });
    if (outcome.code !== 'ok') {
      deps.metrics.count('polling.poll.polls', 1, { code: outcome.code });
      if (page > 0 && outcome.code === 'poll.response_invalid') break;
      await append(input, failure(input, page, outcome.code, outcome.message, pollMs, undefined));
      return { saved: true, askedSeconds };
    }
    const added = outcome.events.length + outcome.quietKeys.length;
    fresh += added;
    const more = answer.more && !(isStill && added === 0);
    const overflows = seen.byteLength / KEY_BYTES + chain.listing.length > SEEN_KEYS_MAX;
    await append(input, {
      ...frame(input, page, 'ok', pollMs),
      events: outcome.events.map(({ eventId, json }) => ({ eventId, json })),
      ...(outcome.events.length === 0 || trigger.pollPolicy.repeatable ? {} : { once: true }),
      newKeys: outcome.events.length === 0 ? '' : joined(outcome.events.map((event) => event.key)),
      ...(outcome.quietKeys.length === 0 ? {} : { quietKeys: joined(outcome.quietKeys) }),
      ...(fresh > 0 && overflows ? { keys: joined(chain.listing) } : {}),
      ...cursorPart(input, answer, priming || more || added > 0 || !trigger.pollPolicy.repeatable),
      more,
      deduplicated: outcome.deduplicated,
      ...(outcome.deadLetters.length === 0 ? {} : { deadLetters: outcome.deadLetters.map(deadLetterRecordOf) }),
      ...(priming && !more ? { primeDone: true } : {}),
      ...(rekeyed ? { rekeys: true } : {}),
      ...(outcome.gapSuspected ? { gap: true } : {}),
      ...versionAndPace(answer),
    });
    deps.metrics.count('polling.poll.events_found', outcome.events.length);
    deps.metrics.count('polling.poll.events_deduplicated', outcome.deduplicated);
    if (outcome.gapSuspected) deps.metrics.count('polling.poll.gaps_suspected');
    if (outcome.deadLetters.length > 0) deps.metrics.count('polling.poll.bad_items', outcome.deadLetters.length);
    saved = true;
    cursor = answer.cursor;
    if (!more) break;
  }
  if (saved) deps.metrics.count('polling.poll.polls', 1, { code: 'ok' });
  return { saved, askedSeconds };
}

/** Records a poll that is not made because most polls of its toolkit fail in this very step: it is charged nothing. */
export async function skipPoll(deps: PollDeps, input: ChainInput): Promise<ChainOutcome> {
  deps.metrics.count('polling.poll.held');
  const seconds = Math.min(SKIPPED_SECONDS_MAX, input.trigger.intervalSeconds);
  await append(input, failure(input, 0, 'poll.rate_limited', 'not made: most polls of its toolkit fail', 0, seconds));
  return { saved: true, askedSeconds: 0 };
}

/** Whether a connector's new version names items otherwise than the version that was used before, which may have had no name. */
function changesKeys(trigger: ClaimedTrigger, answer: Answer): boolean {
  const wasPolled = trigger.primed || trigger.versionUsed !== null;
  return answer.rekeys === true && wasPolled && answer.version !== trigger.versionUsed;
}

/**
 * From when on a prime tells. One that follows a change of keys tells nothing the last good poll could have found: under
 * its old name that was told already.
 */
function primeOf(trigger: ClaimedTrigger): Prime {
  const { primed, createdAt, since, lastOkAt } = trigger;
  if (primed && lastOkAt !== null) return { createdAtMs: Date.parse(lastOkAt), sinceMs: null };
  return { createdAtMs: Date.parse(createdAt), sinceMs: since === null ? null : Date.parse(since) };
}

function noteFailure(deps: PollDeps, reply: Extract<PollReply, { message: string }>): number {
  deps.metrics.count('polling.poll.polls', 1, { code: reply.code });
  if (reply.code === 'poll.throttled') {
    deps.slots.throttled();
    deps.metrics.count('polling.trigger.platform_error', 1, { reason: 'throttled' });
    return reply.retryAfterSeconds ?? 0;
  }
  if (reply.code === 'poll.unavailable') {
    deps.metrics.count('polling.trigger.platform_error', 1, { reason: 'unavailable' });
    return reply.retryAfterSeconds ?? 0;
  }
  return 0;
}

/** `append` waits only when more than the writer may hold is waiting to be stored. */
async function append(input: ChainInput, record: ResultRecord): Promise<void> {
  const wait = input.writer.append(record);
  if (wait !== undefined) await wait;
}

function frame(input: ChainInput, page: number, code: 'ok' | VerdictCode, pollMs: number) {
  const { triggerId, leaseEpoch } = input.trigger;
  return { triggerId, leaseEpoch, hop: input.hop, attempt: input.attempt, page, code, pollMs };
}

function failure(
  input: ChainInput,
  page: number,
  code: VerdictCode,
  message: string,
  pollMs: number,
  retryAfterSeconds: number | undefined,
): ResultRecord {
  return {
    ...frame(input, page, code, pollMs),
    events: [],
    newKeys: '',
    cursorAfter: null,
    more: false,
    deduplicated: 0,
    reason: message.slice(0, REASON_CHARS_MAX),
    ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
  };
}

type Answer = Extract<PollReply, { code: 'ok' }>['page'];

function emptyPage(
  input: ChainInput,
  answer: Answer,
  pollMs: number,
  priming: boolean,
  rekeyed: boolean,
): ResultRecord {
  return {
    ...frame(input, 0, 'ok', pollMs),
    events: [],
    newKeys: '',
    ...cursorPart(input, answer, priming || answer.more || !input.trigger.pollPolicy.repeatable),
    more: answer.more,
    deduplicated: 0,
    ...(priming && !answer.more ? { primeDone: true } : {}),
    ...(rekeyed ? { rekeys: true } : {}),
    ...versionAndPace(answer),
  };
}

/** `isTold`: the page may be told to the control plane, with its cursor. Else an unchanged one need not be kept. */
function cursorPart({ state }: ChainInput, { cursor }: Answer, isTold: boolean) {
  const isSame = state !== undefined && isSameCursor(state.cursor, cursor);
  return isSame ? { cursorAfter: isTold ? cursor : null, sameCursor: true } : { cursorAfter: cursor };
}

function versionAndPace(answer: Answer) {
  return {
    ...(answer.version === undefined ? {} : { versionUsed: answer.version }),
    ...(answer.retryAfterSeconds === undefined ? {} : { retryAfterSeconds: answer.retryAfterSeconds }),
  };
}

function joined(hashes: readonly string[]): string {
  return Buffer.concat(hashes.map((hash) => Buffer.from(hash, 'base64'))).toString('base64');
}
