/** KeyProvider: wraps the data key of each sealed object (envelope encryption). */
export interface KeyProvider {
  /** A fresh 32-byte data key, and the same key wrapped with the provider's current key, bound to `aad`. */
  generate(
    aad: Uint8Array,
  ): Promise<{ readonly keyId: string; readonly plain: Uint8Array; readonly wrapped: Uint8Array }>;
  /** The data key again; throws when the key id is unknown or the wrapping does not verify. */
  unwrap(keyId: string, wrapped: Uint8Array, aad: Uint8Array): Promise<Uint8Array>;
}
