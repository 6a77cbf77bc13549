/** Start-up probe: does the store do what immutable objects need? Asked of the running store, never of its name. */
import { randomUUID } from 'node:crypto';
import type { ObjectStore } from '@milkrun/core';

/** The store works but must not be used: it would lose or keep what it should not. */
export class UnsafeObjectStore extends Error {
  override readonly name = 'UnsafeObjectStore';
}

/** A refusal in one shape: setting, value, what is wrong, what to do. */
export function unsafe(setting: string, problem: string, remedy: string): UnsafeObjectStore {
  return new UnsafeObjectStore(`OBJECT_STORE is "${setting}", and that store ${problem}. ${remedy}`);
}

/**
 * Writes one object twice, reads, lists and removes it.
 * Throws UnsafeObjectStore when the second write was not refused or reading and listing are not consistent with it.
 */
export async function probeStore(store: ObjectStore, setting: string): Promise<void> {
  const key = `probe/${randomUUID()}`;
  const [first, second] = [Buffer.from('first'), Buffer.from('second')];
  try {
    const created = await store.putIfAbsent(key, first);
    const repeated = await store.putIfAbsent(key, second);
    const body = await store.get(key);
    if (created !== 'created' || repeated !== 'exists' || body === undefined || !first.equals(body)) {
      throw unsafe(
        setting,
        'overwrites an object although it was asked to write only a new one (If-None-Match: *)',
        'Accepted are stores that honour conditional writes, such as Amazon S3, versitygw or fs:PATH.',
      );
    }
    if (!(await store.list('probe/')).includes(key)) {
      throw unsafe(
        setting,
        'does not list an object that has just been written',
        'Accepted are stores whose listing is strongly consistent, such as Amazon S3, versitygw or fs:PATH.',
      );
    }
  } finally {
    await store.delete(key);
  }
  if ((await store.get(key)) !== undefined) {
    throw unsafe(setting, 'still returns an object that was removed', 'Use a store with consistent reads.');
  }
}
