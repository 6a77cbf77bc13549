/**
 * Finds secrets in bytes, whatever was made of them on the way: as they are, in base64 or hex, and inside zstd frames. The
 * canaries' own form finds those of every number; other secrets are looked for one by one.
 */
import { randomBytes } from 'node:crypto';
import { zstdDecompressSync } from 'node:zlib';

const FORM = /cnry[0-9a-f]{32}/g;
const BASE64_RUN = /[A-Za-z0-9+/_-]{24,}/g;
const HEX_RUN = /[0-9a-f]{48,}/gi;
const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
const DEPTH_MAX = 3;
const UNPACKED_BYTES_MAX = 64 * 1024 * 1024;

/** A secret no other text looks like. */
export function newCanary(): string {
  return `cnry${randomBytes(16).toString('hex')}`;
}

/** Which of the secrets stand in the bytes. */
export function findSecrets(bytes: Buffer, others: readonly string[]): ReadonlySet<string> {
  const found = new Set<string>();
  search(bytes, others, found, 0);
  return found;
}

function search(bytes: Buffer, others: readonly string[], found: Set<string>, depth: number): void {
  // Each byte is one character, so that positions and lengths are those of the bytes.
  const text = bytes.toString('latin1');
  for (const [canary] of text.matchAll(FORM)) found.add(canary);
  for (const other of others) if (text.includes(other)) found.add(other);
  if (depth >= DEPTH_MAX) return;
  for (const [run] of text.matchAll(HEX_RUN)) deeper(Buffer.from(run.slice(run.length % 2), 'hex'), others, found);
  for (const [run] of text.matchAll(BASE64_RUN)) {
    // A run may begin anywhere in a group of four.
    for (let skip = 0; skip < 4; skip += 1) deeper(Buffer.from(run.slice(skip), 'base64'), others, found);
  }
  for (let at = bytes.indexOf(ZSTD_MAGIC); at !== -1; at = bytes.indexOf(ZSTD_MAGIC, at + 1)) {
    let unpacked: Buffer;
    try {
      unpacked = zstdDecompressSync(bytes.subarray(at), { maxOutputLength: UNPACKED_BYTES_MAX });
    } catch {
      continue;
    }
    search(unpacked, others, found, depth + 1);
  }
}

/** Decoded runs are looked at once: nothing writes base64 of base64. */
function deeper(bytes: Buffer, others: readonly string[], found: Set<string>): void {
  const text = bytes.toString('latin1');
  for (const [canary] of text.matchAll(FORM)) found.add(canary);
  for (const other of others) if (text.includes(other)) found.add(other);
}
