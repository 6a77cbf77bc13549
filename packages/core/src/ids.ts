/**
 * Identities: made and parsed side by side.
 *
 * Nothing here carries a secret or personal data. Ids are stable: the same provider item has the same event id for
 * ever, over retries, re-polls, hops, pipelines and versions (invariant S7).
 */
import { hash } from 'node:crypto';

/** Number of storage shards; fixed for ever, because a row's partition is derived from it. */
export const STORAGE_SHARDS = 64;

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
const EVENT_ID_CHARS = 26;

/** Lower-case RFC 4648 base32 without padding, cut at `chars` characters. */
function base32(bytes: Uint8Array, chars: number): string {
  let out = '';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xffff;
    bits += 8;
    while (bits >= 5 && out.length < chars) {
      bits -= 5;
      out += BASE32[(value >>> bits) & 31];
    }
    if (out.length >= chars) break;
  }
  return out;
}

/** The storage shard of a trigger: the first two bytes of sha256(trigger id), big endian, mod 64. */
export function storageShardOf(triggerId: string): number {
  return hash('sha256', triggerId.toLowerCase(), 'buffer').readUInt16BE(0) % STORAGE_SHARDS;
}

/**
 * The id of the event that `key` of `triggerId` stands for: `evt_` + 26 base32 characters of
 * sha256(u32be length ‖ triggerId ‖ u32be length ‖ key). Lengths are in UTF-8 bytes, so no two pairs collide by
 * concatenation.
 */
export function eventIdOf(triggerId: string, key: string): string {
  const id = Buffer.from(triggerId, 'utf8');
  const item = Buffer.from(key, 'utf8');
  const framed = Buffer.allocUnsafe(8 + id.length + item.length);
  framed.writeUInt32BE(id.length, 0);
  id.copy(framed, 4);
  framed.writeUInt32BE(item.length, 4 + id.length);
  item.copy(framed, 8 + id.length);
  return `evt_${base32(hash('sha256', framed, 'buffer'), EVENT_ID_CHARS)}`;
}

/** The 8 bytes under which a dedupe key is remembered: the first 8 of sha256(key, UTF-8). */
export function keyHashOf(key: string): Uint8Array {
  return hash('sha256', key, 'buffer').subarray(0, 8);
}
