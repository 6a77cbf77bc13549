/**
 * Dedupe: what of one page is new (design section 3). Pure; the engine's job, never a connector's.
 *
 * A page's items become: events (new and to be told), quiet keys (new, remembered, not told: primes and bad items), or
 * nothing (known). Keys are remembered exactly when the events that carry them are delivered, so they travel together.
 */

import { canonicalJson } from './canonical-json.ts';
import { cloudEventJson, type EventItem, type EventSource, hasUncleanText } from './event.ts';
import { eventIdOf, keyHashOf } from './ids.ts';
import type { DeadLetter, PollPolicy } from './ports/batch-store.ts';
import { KEY_BYTES, SEEN_KEYS_MAX, type SeenIndex } from './seen.ts';

const KEY_TEXT_BYTES_MAX = 512;
/** An event must fit a `/state` chunk of 1 MiB with its envelope. */
export const EVENT_BYTES_MAX = 960 * 1024;

export interface PageEvent {
  readonly eventId: string;
  /** Base64 of the 8-byte key hash. */
  readonly key: string;
  readonly json: string;
}

export interface Prime {
  readonly createdAtMs: number;
  readonly sinceMs: number | null;
}

/** What one chain has seen so far, page over page. */
export interface ChainState {
  /** Hashes remembered before the chain. */
  readonly known: SeenIndex;
  /** Hashes met in this chain, as base64. */
  readonly met: Set<string>;
  /** Every key of the listing, in order. */
  listing: string[];
  /** occurredAt of the listing's items in ms, for the overlap window; null where undated. */
  times: (number | null)[];
}

export interface PageInput {
  readonly source: EventSource;
  readonly epoch: number;
  readonly page: number;
  readonly items: readonly unknown[];
  readonly more: boolean;
  readonly eventsMax: number;
  readonly policy: PollPolicy;
  /** Set while the trigger primes. */
  readonly prime: Prime | null;
  readonly chain: ChainState;
}

export type PageOutcome =
  | {
      readonly code: 'ok';
      readonly events: readonly PageEvent[];
      /** Base64 hashes remembered without an event. */
      readonly quietKeys: readonly string[];
      readonly deadLetters: readonly DeadLetter[];
      readonly deduplicated: number;
      readonly gapSuspected: boolean;
    }
  | { readonly code: 'poll.response_invalid' | 'poll.listing_too_large'; readonly message: string };

export function newChain(known: SeenIndex): ChainState {
  return { known, met: new Set(), listing: [], times: [] };
}

interface ReadItem {
  readonly key?: string;
  readonly occurredAt?: string;
  readonly occurredAtMs: number | null;
  readonly data: unknown;
  readonly problem?: string;
}

function readItem(item: unknown): ReadItem {
  if (item === null || typeof item !== 'object' || Array.isArray(item)) {
    return { occurredAtMs: null, data: item, problem: 'an item must be an object with data' };
  }
  const { key, occurredAt, data } = item as { key?: unknown; occurredAt?: unknown; data?: unknown };
  let problem: string | undefined;
  if (!Object.hasOwn(item, 'data')) problem = 'the item has no data';
  if (key !== undefined && (typeof key !== 'string' || key === '')) problem = 'key must be a non-empty string';
  if (typeof key === 'string' && Buffer.byteLength(key) > KEY_TEXT_BYTES_MAX) problem = 'key is longer than 512 bytes';
  const time = typeof occurredAt === 'string' ? Date.parse(occurredAt) : Number.NaN;
  if (occurredAt !== undefined && occurredAt !== null && Number.isNaN(time))
    problem = 'occurredAt is not an RFC 3339 time';
  return {
    ...(typeof key === 'string' && problem === undefined ? { key } : {}),
    ...(Number.isNaN(time) ? {} : { occurredAt: new Date(time).toISOString() }),
    occurredAtMs: Number.isNaN(time) ? null : time,
    data: problem === undefined ? data : item,
    ...(problem === undefined ? {} : { problem }),
  };
}

function told(prime: Prime | null, occurredAtMs: number | null): boolean {
  if (prime === null) return true;
  if (occurredAtMs === null) return false;
  return occurredAtMs >= prime.createdAtMs || (prime.sinceMs !== null && occurredAtMs >= prime.sinceMs);
}

/** Keys of the chain that lie inside the overlap window of its newest item. */
function keysInWindow(chain: ChainState, overlapSeconds: number): number {
  let newest = Number.NEGATIVE_INFINITY;
  for (const time of chain.times) if (time !== null && time > newest) newest = time;
  const from = newest - overlapSeconds * 1000;
  let count = 0;
  for (const time of chain.times) if (time === null || time >= from) count += 1;
  return count;
}

/** Decides one page. Adds the page's keys to `chain`. Never throws for what a provider can send. */
export function decidePage(input: PageInput): PageOutcome {
  const { chain, prime, source } = input;
  const events: PageEvent[] = [];
  const quietKeys: string[] = [];
  const deadLetters: DeadLetter[] = [];
  let deduplicated = 0;
  let knownItems = 0;
  for (let index = 0; index < input.items.length; index += 1) {
    const item = readItem(input.items[index]);
    if (item.key !== undefined && hasUncleanText(item.key)) {
      return { code: 'poll.response_invalid', message: `item ${index}: key holds NUL or a lone surrogate` };
    }
    const key = item.key ?? canonicalJson(item.data);
    const bytes = keyHashOf(key);
    const hash = Buffer.from(bytes.buffer, bytes.byteOffset, KEY_BYTES).toString('base64');
    if (chain.met.has(hash)) {
      deduplicated += 1;
      continue;
    }
    chain.met.add(hash);
    chain.listing.push(hash);
    chain.times.push(item.occurredAtMs);
    if (chain.known.has(bytes)) {
      deduplicated += 1;
      knownItems += 1;
      continue;
    }
    if (item.problem !== undefined) {
      quietKeys.push(hash);
      deadLetters.push(deadLetter('poll.item_invalid', item.problem, input.items[index]));
      continue;
    }
    if (!told(prime, item.occurredAtMs)) {
      quietKeys.push(hash);
      continue;
    }
    const eventId = eventIdOf(source.triggerId, key);
    const json = printed(source, {
      eventId,
      ...(item.occurredAt === undefined ? {} : { occurredAt: item.occurredAt }),
      data: item.data,
      epoch: input.epoch,
      page: input.page,
      index,
    });
    if (json === undefined) {
      quietKeys.push(hash);
      deadLetters.push({ ...deadLetter('poll.item_invalid', 'the item nests too deeply', item.data), eventId });
      continue;
    }
    if (Buffer.byteLength(json) > EVENT_BYTES_MAX) {
      quietKeys.push(hash);
      deadLetters.push({
        ...deadLetter('poll.item_too_large', `the event exceeds ${EVENT_BYTES_MAX} bytes`, item.data),
        eventId,
      });
      continue;
    }
    events.push({ eventId, key: hash, json });
  }
  if (chain.listing.length > SEEN_KEYS_MAX) {
    const window =
      input.policy.dedupe === 'watermark'
        ? keysInWindow(chain, input.policy.overlapSeconds ?? 0)
        : chain.listing.length;
    if (window > SEEN_KEYS_MAX) {
      return {
        code: 'poll.listing_too_large',
        message: `${window} keys must be remembered, at most ${SEEN_KEYS_MAX} can be; dedupe strategy ${input.policy.dedupe}`,
      };
    }
  }
  return {
    code: 'ok',
    events,
    quietKeys,
    deadLetters,
    deduplicated,
    gapSuspected:
      prime === null &&
      !input.more &&
      input.items.length >= input.eventsMax &&
      knownItems === 0 &&
      chain.known.size > 0,
  };
}

/** Undefined for data that nests deeper than the stack: no receiver could read it either. */
function printed(source: EventSource, item: EventItem): string | undefined {
  try {
    return cloudEventJson(source, item);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** As it came, in the order it came; only what cannot be printed so is printed in canonical order. */
function textOf(raw: unknown): string {
  try {
    return JSON.stringify(raw) ?? 'null';
  } catch {
    return canonicalJson(raw);
  }
}

const DEAD_LETTER_BYTES_MAX = 256 * 1024;

function deadLetter(code: string, reason: string, raw: unknown): DeadLetter {
  const bytes = Buffer.from(textOf(raw), 'utf8');
  return { stage: 'poll', code, reason, raw: bytes.subarray(0, DEAD_LETTER_BYTES_MAX) };
}
