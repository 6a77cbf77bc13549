/**
 * A process that writes objects into a directory until it is killed: `node object-writer.ts DIRECTORY PREFIX`. Says each
 * key once its write was answered. The body is the key, repeated to 256 KiB.
 */
import { createObjectStore } from '@milkrun/object-store';

export function bodyOf(key: string): Buffer {
  return Buffer.alloc(256 * 1024, `${key}\n`);
}

if (import.meta.main) {
  const [directory, prefix] = process.argv.slice(2);
  const store = createObjectStore(`fs:${directory}`);
  for (let n = 0; ; n += 1) {
    const key = `${prefix}/${n}`;
    await store.putIfAbsent(key, bodyOf(key));
    process.stdout.write(`${key}\n`);
  }
}
