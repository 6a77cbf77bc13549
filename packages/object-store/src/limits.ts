import { ObjectTooLarge } from '@milkrun/core';

/** What `get` reads at most when the caller names no bound; bytes. */
export const GET_BYTES_MAX = 64 * 1024 * 1024;

/** Throws ObjectTooLarge when `bytes` is above the bound. */
export function assertWithin(key: string, bytes: number, bytesMax: number): void {
  if (bytes > bytesMax) throw new ObjectTooLarge(`object ${key} has ${bytes} bytes or more, the bound is ${bytesMax}`);
}
