/** Names of a batch's objects: made and read side by side. */
import type { Purpose } from './seal.ts';

/** Which step attempt wrote an object, and which of its objects it is. */
export interface ObjectPosition {
  readonly hop: number;
  readonly attempt: number;
  readonly n: number;
}

export const ENTRIES = 'entries';

const BATCH_ID = /^[\w.:-]{1,200}$/;
const NAME = /^(auth|verdicts|results|delivered)\/(\d{1,9})\.(\d{1,9})(?:-(\d{1,9}))?$/;

/** Prefix of all keys of a batch. Throws on an id that could lead out of it. */
export function batchPrefixOf(batchId: string): string {
  if (!BATCH_ID.test(batchId)) throw new TypeError(`"${batchId.slice(0, 200)}" is no batch id`);
  return `batches/${batchId}/`;
}

/** `results/0.1-3`: written by hop 0, attempt 1, as its fourth. The first `auth` object has no number. */
export function objectNameOf(purpose: Exclude<Purpose, 'entries'>, { hop, attempt, n }: ObjectPosition): string {
  for (const number of [hop, attempt, n]) {
    if (!Number.isSafeInteger(number) || number < 0 || number > 999_999_999) {
      throw new TypeError(`hop ${hop}, attempt ${attempt}, number ${n} is no position`);
    }
  }
  return `${purpose}/${hop}.${attempt}${purpose === 'auth' && n === 0 ? '' : `-${n}`}`;
}

/** The position a name stands for, or undefined when it is none of ours. */
export function positionOf(name: string): ObjectPosition | undefined {
  const [, , hop, attempt, n = '0'] = NAME.exec(name) ?? [];
  if (hop === undefined || attempt === undefined) return undefined;
  return { hop: Number(hop), attempt: Number(attempt), n: Number(n) };
}

/** Order in which objects count: (hop, attempt, n). */
export function comparePositions(a: ObjectPosition, b: ObjectPosition): number {
  return a.hop - b.hop || a.attempt - b.attempt || a.n - b.n;
}
