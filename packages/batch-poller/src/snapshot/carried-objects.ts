/** What a hand-off carries, as sealed immutable objects beside those of batches: they expire with them. */
import type { CarriedObjects, CarriedTrigger, KeyProvider, ObjectStore } from '@milkrun/core';
import { decodeLines, encodeLines } from './codec.ts';
import { batchPrefixOf } from './names.ts';
import { SnapshotUnreadable, seal, unseal } from './seal.ts';

/** Fifty triggers with the largest cursors and seen keys there can be. */
const BYTES_MAX = 64 * 1024 * 1024;

/** Names are `{hand-off id}/{n}`. */
export function createCarriedObjects(options: {
  readonly objects: ObjectStore;
  readonly keys: KeyProvider;
}): CarriedObjects {
  const { objects, keys } = options;
  const placeOf = (name: string) => {
    const [handOff = '', n = ''] = name.split('/');
    const object = `carried-${n}`;
    return { key: batchPrefixOf(handOff) + object, context: { batchId: handOff, object, purpose: 'carried' } as const };
  };
  async function get(name: string): Promise<readonly CarriedTrigger[]> {
    const { key, context } = placeOf(name);
    const bytes = await objects.get(key, BYTES_MAX);
    if (bytes === undefined) throw new SnapshotUnreadable(key, 'it is not there');
    return (await decodeLines(await unseal(keys, context, key, bytes))) as readonly CarriedTrigger[];
  }
  return {
    get,
    async put(name, carried) {
      const { key, context } = placeOf(name);
      const body = await encodeLines(carried.map((one) => JSON.stringify(one)));
      const done = await objects.putIfAbsent(key, await seal(keys, context, body));
      return done === 'created' ? carried : await get(name);
    },
  };
}
