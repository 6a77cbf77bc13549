/** Everything a run has beside its workers: the world, the models, and the facts that are noted down. */

import type { Fact } from './history.ts';
import type { ModelControlPlane } from './model/control-plane.ts';
import type { ModelObjects } from './model/objects.ts';
import type { Source } from './model/source.ts';
import type { ModelTemporal } from './model/temporal.ts';
import type { ModelWorkerDb } from './model/workerdb.ts';
import type { Surroundings } from './process.ts';
import type { Random } from './random.ts';

export interface Settings {
  readonly leaseSeconds: number;
  readonly maxHops: number;
  readonly batchSize: number;
  readonly tickMs: number;
  readonly pollWidth: number;
  /** Milliseconds a source takes for an answer. */
  readonly pollMs: number;
  readonly chunkEventsMax: number;
  readonly pagesMax: number;
}

type Untimed<T> = T extends unknown ? Omit<T, 'at'> : never;

export interface Universe extends Surroundings {
  readonly settings: Settings;
  readonly db: ModelWorkerDb;
  readonly objects: ModelObjects;
  readonly controlPlane: ModelControlPlane;
  readonly sources: Map<string, Source>;
  readonly temporal: ModelTemporal;
  /** For what the engine itself draws: ids, jitter, keys. */
  readonly engineRandom: Random;
  readonly blobKey: Uint8Array;
  readonly facts: Fact[];
  note(fact: Untimed<Fact>): void;
}
