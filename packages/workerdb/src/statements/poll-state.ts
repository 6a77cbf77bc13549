/** The poll state as the control plane keeps it for the engine. */
import { hasUncleanText, SEEN_KEYS_MAX } from '@milkrun/core';

/** Escapes that jsonb refuses: NUL and surrogates. */
const UNSTORABLE = /\\u0000|\\ud[89a-f]/i;

interface PollStateText {
  readonly cursor: string;
  readonly seen: string;
  readonly version: string | null;
}

/** The poll state the engine once gave away; anything that is not one counts as none. */
export function decodePollState(text: string | undefined): PollStateText | undefined {
  if (text === undefined) return undefined;
  try {
    const json = Buffer.from(text, 'base64').toString('utf8');
    const value = JSON.parse(json) as { v?: unknown; cursor?: unknown; seen?: unknown; version?: unknown };
    if (value.v !== 1 || typeof value.seen !== 'string' || !/^[A-Za-z0-9+/=]*$/.test(value.seen)) return undefined;
    const bytes = Buffer.from(value.seen, 'base64').byteLength;
    if (bytes % 8 !== 0 || bytes > SEEN_KEYS_MAX * 8) return undefined;
    const cursor = JSON.stringify(value.cursor ?? null);
    const version = typeof value.version === 'string' ? value.version : null;
    if (UNSTORABLE.test(cursor) || (version !== null && hasUncleanText(version))) return undefined;
    return { cursor, seen: value.seen, version };
  } catch {
    return undefined;
  }
}
