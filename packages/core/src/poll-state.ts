/**
 * What a trigger remembers, as one opaque text the control plane keeps for it: what workerdb needs to go on after it was
 * rebuilt from the feed. Base64 of JSON `{ v, cursor, seen, version }`, ≤ 96 KiB.
 */
import { hasUncleanText } from './event.ts';
import { KEY_BYTES, SEEN_KEYS_MAX } from './seen.ts';
import { hasUnstorableJson } from './unstorable.ts';

export interface Memory {
  /** JSON text or null. */
  readonly cursor: string | null;
  readonly seen: Uint8Array;
  readonly version: string | null;
}

const POLL_STATE_BYTES_MAX = 96 * 1024;

/** The poll state of a memory, or undefined when it would not fit. */
export function encodePollState(memory: Memory): string | undefined {
  const json = `{"v":1,"cursor":${memory.cursor ?? 'null'},"seen":"${Buffer.from(memory.seen).toString('base64')}","version":${JSON.stringify(memory.version)}}`;
  const text = Buffer.from(json, 'utf8').toString('base64');
  return text.length > POLL_STATE_BYTES_MAX ? undefined : text;
}

export interface MemoryText {
  /** JSON text. */
  readonly cursor: string;
  /** Base64 of 8-byte hashes, newest last. */
  readonly seen: string;
  readonly version: string | null;
}

/** The memory that `encodePollState` once gave away; undefined for anything else. */
export function decodePollState(text: string | undefined): MemoryText | undefined {
  if (text === undefined) return undefined;
  try {
    const json = Buffer.from(text, 'base64').toString('utf8');
    const value = JSON.parse(json) as { v?: unknown; cursor?: unknown; seen?: unknown; version?: unknown };
    if (value.v !== 1 || typeof value.seen !== 'string' || !/^[A-Za-z0-9+/=]*$/.test(value.seen)) return undefined;
    const bytes = Buffer.from(value.seen, 'base64').byteLength;
    if (bytes % KEY_BYTES !== 0 || bytes > SEEN_KEYS_MAX * KEY_BYTES) return undefined;
    const cursor = JSON.stringify(value.cursor ?? null);
    const version = typeof value.version === 'string' ? value.version : null;
    if (hasUnstorableJson(cursor) || (version !== null && hasUncleanText(version))) return undefined;
    return { cursor, seen: value.seen, version };
  } catch {
    return undefined;
  }
}
