/**
 * The closed list of error codes and the verdict table (design section 5): code → what happens.
 *
 * `classOf` says whose fault it is, `inBatch` what this batch does with the entry, `atCommit` what the row becomes.
 * The table is data; every decision of the engine reads it and nothing else maps a code to an outcome.
 */

export type VerdictClass = 'credential' | 'permanent' | 'platform' | 'source' | 'connector' | 'data' | 'receiver';

/**
 * - `stop`: nothing more in this batch, straight to commit.
 * - `next_hop`: tried again by the next hop; on the last hop committed by force.
 * - `fresh_auth`: once per epoch auth is fetched again in the next hop, then it stops.
 * - `park`: polled but not delivered; stays polled, the next hop delivers.
 * - `continue`: only the event concerned leaves; the entry goes on.
 */
export type InBatch = 'stop' | 'next_hop' | 'fresh_auth' | 'park' | 'continue';

/**
 * - `halt`: the trigger stops with the code until something lifts it.
 * - `halt_after_3` / `quarantine_after_5`: back-off, and a halt once failure_count / poison_count reaches the number.
 * - `backoff`: failure + 1 and full-jitter back-off.
 * - `rate_limited`: next poll at Retry-After, counters unchanged.
 * - `release`: nothing is charged to the trigger; the row stays due.
 * - `advance`: the cursor moves on.
 */
export type AtCommit =
  | 'halt'
  | 'halt_after_3'
  | 'quarantine_after_5'
  | 'backoff'
  | 'rate_limited'
  | 'release'
  | 'advance';

export interface Verdict {
  readonly class: VerdictClass;
  readonly inBatch: InBatch;
  readonly atCommit: AtCommit;
  /** What a person should read, one sentence. */
  readonly meaning: string;
}

export const VERDICTS = {
  'auth.expired': {
    class: 'credential',
    inBatch: 'stop',
    atCommit: 'halt',
    meaning: 'The connection’s credentials have expired and could not be refreshed.',
  },
  'auth.revoked': {
    class: 'credential',
    inBatch: 'stop',
    atCommit: 'halt',
    meaning: 'The user or the provider has revoked the connection.',
  },
  'auth.not_found': {
    class: 'credential',
    inBatch: 'stop',
    atCommit: 'halt',
    meaning: 'The control plane knows no such connection of this tenant.',
  },
  'auth.payload_too_large': {
    class: 'permanent',
    inBatch: 'stop',
    atCommit: 'backoff',
    meaning: 'The connection’s auth is too large even when asked for alone.',
  },
  'auth.missing': {
    class: 'platform',
    inBatch: 'next_hop',
    atCommit: 'release',
    meaning: 'The control plane’s answer left the connection out, named it twice, or was not usable for it.',
  },
  'auth.unavailable': {
    class: 'platform',
    inBatch: 'next_hop',
    atCommit: 'release',
    meaning: 'The control plane could not be reached or failed.',
  },
  'auth.refresh_failed': {
    class: 'platform',
    inBatch: 'next_hop',
    atCommit: 'release',
    meaning: 'The control plane could not refresh the credentials this time.',
  },
  'poll.rate_limited': {
    class: 'source',
    inBatch: 'stop',
    atCommit: 'rate_limited',
    meaning: 'The provider asks to be polled later.',
  },
  'poll.auth_rejected': {
    class: 'credential',
    inBatch: 'fresh_auth',
    atCommit: 'halt',
    meaning: 'The provider refused the credentials twice, the second time with fresh ones.',
  },
  'poll.connector_error': {
    class: 'connector',
    inBatch: 'stop',
    atCommit: 'backoff',
    meaning: 'The connector failed.',
  },
  'poll.timeout': {
    class: 'connector',
    inBatch: 'stop',
    atCommit: 'backoff',
    meaning: 'The poll function did not answer within the deadline.',
  },
  'poll.throttled': {
    class: 'platform',
    inBatch: 'next_hop',
    atCommit: 'release',
    meaning: 'The poll function’s platform throttled the call.',
  },
  'poll.unavailable': {
    class: 'platform',
    inBatch: 'next_hop',
    atCommit: 'release',
    meaning: 'The poll function’s platform failed or could not be reached.',
  },
  'poll.response_invalid': {
    class: 'data',
    inBatch: 'stop',
    atCommit: 'quarantine_after_5',
    meaning: 'The poll function’s answer does not follow the poll contract.',
  },
  'poll.too_large': {
    class: 'data',
    inBatch: 'stop',
    atCommit: 'quarantine_after_5',
    meaning: 'The poll function’s answer is larger than the answer limit.',
  },
  'poll.listing_too_large': {
    class: 'data',
    inBatch: 'stop',
    atCommit: 'quarantine_after_5',
    meaning: 'The listing has more keys than can be remembered; use the watermark strategy.',
  },
  'poll.permanent': {
    class: 'permanent',
    inBatch: 'stop',
    atCommit: 'halt_after_3',
    meaning: 'The connector says that this trigger cannot work as configured.',
  },
  'broadcast.gone': {
    class: 'receiver',
    inBatch: 'stop',
    atCommit: 'halt',
    meaning: 'The receiver says that nobody wants this trigger’s events any more.',
  },
  'broadcast.event_refused': {
    class: 'data',
    inBatch: 'continue',
    atCommit: 'advance',
    meaning: 'The receiver refused one event for good; it lies in dead letters.',
  },
  'broadcast.unavailable': {
    class: 'platform',
    inBatch: 'park',
    atCommit: 'release',
    meaning: 'The receiver could not take the events this time.',
  },
  'broadcast.misconfigured': {
    class: 'platform',
    inBatch: 'park',
    atCommit: 'release',
    meaning: 'The receiver refuses the engine itself: check CONTROL_PLANE_URL and CONTROL_PLANE_KEY.',
  },
} as const satisfies Record<string, Verdict>;

export type VerdictCode = keyof typeof VERDICTS;

/** Codes a row may show that are not verdicts of a poll: success, and halts decided outside a batch. */
export const OTHER_CODES = {
  ok: 'The last poll succeeded.',
  cursor_lost: 'The row was rebuilt from the feed without the state it had; it needs a rewind or a resume.',
  receiver_gone: 'The receiver answered that nobody wants this trigger’s events any more.',
  quarantined: 'Five polls in a row gave data that cannot be used.',
  gap_suspected: 'A full page held no known key: items may lie between the last poll and this one.',
  source_down: 'Most polls of this toolkit fail at present; one probe a minute finds out when it is back.',
  fenced: 'The row was taken from its batch by a change; the batch’s result was dropped.',
} as const;

export type Code = VerdictCode | keyof typeof OTHER_CODES;

/** The verdict of a code; the only reader of the table. */
export function verdictOf(code: VerdictCode): Verdict {
  return VERDICTS[code];
}

export function isVerdictCode(text: string): text is VerdictCode {
  return Object.hasOwn(VERDICTS, text);
}

/** The code under which a row is halted: `receiver_gone` and `quarantined` are the halts' own names. */
export function haltCodeOf(code: VerdictCode): Code {
  if (code === 'broadcast.gone') return 'receiver_gone';
  if (verdictOf(code).atCommit === 'quarantine_after_5') return 'quarantined';
  if (code === 'poll.auth_rejected') return 'auth.expired';
  return code;
}
