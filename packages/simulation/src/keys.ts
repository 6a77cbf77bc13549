/** A KeyProvider of the simulation's own: as many random bytes as a real one takes, and no cipher to wrap a data key in. */
import type { KeyProvider } from '@milkrun/core';
import type { Random } from './random.ts';

const KEY_BYTES = 32;
const IV_BYTES = 12;
const KEY_ID = 'simulation';

/**
 * The data key is masked, not sealed: a damaged one opens nothing, since the object's own tag covers what it was wrapped
 * in. That saves two ciphers an object, a twentieth of a run.
 */
export function createSimulatedKeys(blobKey: Uint8Array, random: Random): KeyProvider {
  const masked = (bytes: Uint8Array): Uint8Array => bytes.map((byte, at) => byte ^ (blobKey[at] as number));
  return {
    async generate() {
      const plain = random.bytes(KEY_BYTES);
      random.bytes(IV_BYTES);
      return { keyId: KEY_ID, plain, wrapped: masked(plain) };
    },
    async unwrap(keyId, wrapped) {
      if (keyId !== KEY_ID || wrapped.byteLength !== KEY_BYTES) throw new Error('it is no key of this run');
      return masked(wrapped);
    },
  };
}
