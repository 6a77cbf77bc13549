/**
 * Sealing of credentials: AES-256-GCM under a key derived for this purpose alone, bound to tenant and connection, so a
 * sealed value copied to another row does not open.
 *
 * Layout: version (1), key id (4), IV (12), tag (16), ciphertext.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync } from 'node:crypto';
import type { Rng } from '@milkrun/core';

const VERSION = 1;
const HEAD = 5;
const IV = 12;
const TAG = 16;

export interface Sealer {
  seal(plain: string, boundTo: readonly string[]): Uint8Array;
  /** Throws when the key is another one, the value was changed, or it was sealed for something else. */
  open(sealed: Uint8Array, boundTo: readonly string[]): string;
}

/** A key of 32 bytes for one purpose, derived from the master key. */
export function deriveKey(masterKey: Uint8Array, purpose: string): Buffer {
  if (masterKey.byteLength < 32) throw new TypeError('the master key must have at least 32 bytes');
  return Buffer.from(hkdfSync('sha256', masterKey, new Uint8Array(0), `milkrun registrydb ${purpose}`, 32));
}

export function createSealer(masterKey: Uint8Array, rng: Rng): Sealer {
  const key = deriveKey(masterKey, 'credentials');
  const keyId = createHash('sha256').update(key).digest().subarray(0, 4);
  const head = Buffer.concat([Uint8Array.of(VERSION), keyId]);
  const aad = (boundTo: readonly string[]): Buffer => Buffer.concat([head, Buffer.from(JSON.stringify(boundTo))]);
  return {
    seal(plain, boundTo) {
      const iv = rng.bytes(IV);
      const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(aad(boundTo));
      const body = Buffer.concat([cipher.update(plain, 'utf8'), cipher.final()]);
      return Buffer.concat([head, iv, cipher.getAuthTag(), body]);
    },
    open(sealed, boundTo) {
      const bytes = Buffer.from(sealed);
      if (!bytes.subarray(0, HEAD).equals(head)) throw new Error('sealed with another key');
      const iv = bytes.subarray(HEAD, HEAD + IV);
      const tag = bytes.subarray(HEAD + IV, HEAD + IV + TAG);
      const decipher = createDecipheriv('aes-256-gcm', key, iv).setAAD(aad(boundTo)).setAuthTag(tag);
      return Buffer.concat([decipher.update(bytes.subarray(HEAD + IV + TAG)), decipher.final()]).toString('utf8');
    },
  };
}
