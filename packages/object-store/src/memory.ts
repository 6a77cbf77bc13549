/** Objects in this process's memory: for tests and simulations. Bodies are copied in and out, so nobody shares bytes. */
import type { ObjectStore } from '@milkrun/core';
import { segmentsOf, sortKeys } from './keys.ts';
import { assertWithin, GET_BYTES_MAX } from './limits.ts';
import { probeStore } from './probe.ts';

export function createMemoryObjectStore(): ObjectStore {
  const objects = new Map<string, Uint8Array>();
  const store: ObjectStore = {
    async putIfAbsent(key, body) {
      segmentsOf(key);
      if (objects.has(key)) return 'exists';
      objects.set(key, Uint8Array.from(body));
      return 'created';
    },
    async get(key, bytesMax = GET_BYTES_MAX) {
      segmentsOf(key);
      const body = objects.get(key);
      if (body === undefined) return undefined;
      assertWithin(key, body.byteLength, bytesMax);
      return Uint8Array.from(body);
    },
    async list(prefix) {
      return sortKeys([...objects.keys()].filter((key) => key.startsWith(prefix)));
    },
    async delete(key) {
      segmentsOf(key);
      objects.delete(key);
    },
    probe: () => probeStore(store, 'memory:'),
    async close() {
      objects.clear();
    },
  };
  return store;
}
