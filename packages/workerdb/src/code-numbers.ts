/** The numbers under which rows keep their codes. A number once given is never given again. */
import type { Code } from '@milkrun/core';

export const CODE_NUMBERS: Readonly<Record<Code, number>> = Object.freeze({
  ok: 1,
  cursor_lost: 2,
  receiver_gone: 3,
  quarantined: 4,
  gap_suspected: 5,
  source_down: 6,
  fenced: 7,
  'auth.expired': 20,
  'auth.revoked': 21,
  'auth.not_found': 22,
  'auth.payload_too_large': 23,
  'auth.missing': 24,
  'auth.unavailable': 25,
  'auth.refresh_failed': 26,
  'poll.rate_limited': 40,
  'poll.auth_rejected': 41,
  'poll.connector_error': 42,
  'poll.timeout': 43,
  'poll.throttled': 44,
  'poll.unavailable': 45,
  'poll.response_invalid': 46,
  'poll.too_large': 47,
  'poll.listing_too_large': 48,
  'poll.permanent': 49,
  'broadcast.gone': 60,
  'broadcast.event_refused': 61,
  'broadcast.unavailable': 62,
  'broadcast.misconfigured': 63,
});

/** The number of a code; throws on a code this program does not know, which is a mistake of ours. */
export function codeNumberOf(code: Code): number {
  const no = CODE_NUMBERS[code];
  if (no === undefined) throw new Error(`code "${code}" has no number`);
  return no;
}
