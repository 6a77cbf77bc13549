/**
 * Seen keys: 8-byte hashes in one byte array, newest last, at most 5,000 a trigger.
 *
 * Hot path: a listing of 1,000 keys is compared with 1,000 remembered ones at every poll. A hash table in one reused
 * Int32Array does it without allocation; `benches/seen.ts` measures it beside a Set of strings.
 */

export const SEEN_KEYS_MAX = 5_000;
export const KEY_BYTES = 8;

/** A lookup over one byte array of hashes; reused between polls, because `load` clears only what it used. */
export class SeenIndex {
  private table = new Int32Array(1 << 14);
  private hashes: Uint8Array = new Uint8Array(0);
  private view: DataView = new DataView(new ArrayBuffer(0));
  private mask = (1 << 14) - 1;

  /** Points the index at `seen`; O(keys). */
  load(seen: Uint8Array): void {
    const count = Math.floor(seen.byteLength / KEY_BYTES);
    let size = 1 << 10;
    while (size < count * 2) size <<= 1;
    if (size > this.table.length) this.table = new Int32Array(size);
    this.mask = size - 1;
    this.table.fill(0, 0, size);
    this.hashes = seen;
    this.view = new DataView(seen.buffer, seen.byteOffset, count * KEY_BYTES);
    for (let at = 0; at < count; at += 1) {
      const high = this.view.getUint32(at * KEY_BYTES);
      const low = this.view.getUint32(at * KEY_BYTES + 4);
      let slot = (high ^ low) & this.mask;
      while (this.table[slot] !== 0) slot = (slot + 1) & this.mask;
      this.table[slot] = at + 1;
    }
  }

  /** Whether the 8-byte hash is remembered. */
  has(hash: Uint8Array): boolean {
    const wanted = new DataView(hash.buffer, hash.byteOffset, KEY_BYTES);
    const high = wanted.getUint32(0);
    const low = wanted.getUint32(4);
    let slot = (high ^ low) & this.mask;
    for (;;) {
      const at = this.table[slot] ?? 0;
      if (at === 0) return false;
      const offset = (at - 1) * KEY_BYTES;
      if (this.view.getUint32(offset) === high && this.view.getUint32(offset + 4) === low) return true;
      slot = (slot + 1) & this.mask;
    }
  }

  /** Number of hashes loaded. */
  get size(): number {
    return Math.floor(this.hashes.byteLength / KEY_BYTES);
  }
}

/**
 * The remembered keys after a poll: what was there plus `fresh`, newest last. Above the limit the oldest key that the
 * last listing did not name goes first; only when all are listed the oldest goes.
 */
export function rememberKeys(seen: Uint8Array, fresh: Uint8Array, listing?: Uint8Array): Uint8Array {
  const joined = new Uint8Array(seen.byteLength + fresh.byteLength);
  joined.set(seen, 0);
  joined.set(fresh, seen.byteLength);
  let excess = joined.byteLength / KEY_BYTES - SEEN_KEYS_MAX;
  if (excess <= 0) return joined;
  const listed = new SeenIndex();
  listed.load(listing ?? fresh);
  const kept = new Uint8Array(SEEN_KEYS_MAX * KEY_BYTES);
  const count = joined.byteLength / KEY_BYTES;
  const evicted = new Uint8Array(count);
  for (const mustBeUnlisted of [true, false]) {
    for (let at = 0; at < count && excess > 0; at += 1) {
      if (evicted[at] === 1) continue;
      if (mustBeUnlisted && listed.has(joined.subarray(at * KEY_BYTES, (at + 1) * KEY_BYTES))) continue;
      evicted[at] = 1;
      excess -= 1;
    }
  }
  let to = 0;
  for (let at = 0; at < count; at += 1) {
    if (evicted[at] === 1) continue;
    kept.set(joined.subarray(at * KEY_BYTES, (at + 1) * KEY_BYTES), to);
    to += KEY_BYTES;
  }
  return kept;
}
