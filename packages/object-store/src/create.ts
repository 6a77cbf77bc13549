/** Opens the store that the OBJECT_STORE setting names. */
import { type Clock, type ObjectStore, type Rng, systemClock, systemRng } from '@milkrun/core';
import { createFsObjectStore, type FsObjectStore } from './fs.ts';
import { createMemoryObjectStore } from './memory.ts';
import { createS3ObjectStore } from './s3.ts';
import { parseObjectStoreSetting } from './setting.ts';

export interface ObjectStoreOptions {
  /** Back-off of repeated calls. Default: the machine's clock and randomness. */
  readonly clock?: Clock;
  readonly rng?: Rng;
  /** Connections to a bucket, so calls at once; default 64. */
  readonly socketsMax?: number;
  /** Milliseconds one attempt of a call to a bucket may take; default 30,000. A call makes at most four. */
  readonly attemptMs?: number;
  /** Default: the standard chain of AWS (environment, profile, role). */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

/** A store as opened; only `fs` keeps objects until it is told to `sweep`, a bucket has its lifecycle rule. */
export type OpenedObjectStore = ObjectStore & Partial<Pick<FsObjectStore, 'sweep'>>;

/**
 * Opens `fs:PATH`, `memory:` or `s3://bucket/prefix?endpoint=…&region=…&pathStyle=…&checksums=…`. Touches nothing yet:
 * call `probe()` at start. Throws InvalidObjectStoreSetting, naming the accepted forms.
 */
export function createObjectStore(url: string, options: ObjectStoreOptions = {}): OpenedObjectStore {
  const setting = parseObjectStoreSetting(url);
  switch (setting.kind) {
    case 'memory':
      return createMemoryObjectStore();
    case 'fs':
      return createFsObjectStore(setting.path);
    case 's3':
      return createS3ObjectStore({
        setting,
        text: url,
        clock: options.clock ?? systemClock,
        rng: options.rng ?? systemRng,
        socketsMax: options.socketsMax ?? 64,
        attemptMs: options.attemptMs ?? 30_000,
        ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
      });
  }
}
