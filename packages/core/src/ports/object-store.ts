/** ObjectStore: immutable objects under string keys; drivers memory, fs and s3 sit one conformance suite. */

export class ObjectStoreUnavailable extends Error {
  override readonly name = 'ObjectStoreUnavailable';
}

/** The object is larger than the caller's bound; nothing of it is returned. */
export class ObjectTooLarge extends Error {
  override readonly name = 'ObjectTooLarge';
}

export interface ObjectStore {
  /** Writes an object that must not exist. `created`: this call wrote it; `exists`: somebody did before; never overwrites. */
  putIfAbsent(key: string, body: Uint8Array): Promise<'created' | 'exists'>;
  /** The whole object, or undefined when there is none. Throws ObjectStoreUnavailable; ObjectTooLarge above `bytesMax` (64 MiB). */
  get(key: string, bytesMax?: number): Promise<Uint8Array | undefined>;
  /** All keys under the prefix, in ascending byte order. Strongly consistent. */
  list(prefix: string): Promise<readonly string[]>;
  /** Removes an object; absent is success. */
  delete(key: string): Promise<void>;
  /** Start-up probe: conditional writes are honoured, a versioned bucket is refused. Throws with the remedy. */
  probe(): Promise<void>;
  close(): Promise<void>;
}
