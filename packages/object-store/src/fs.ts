/**
 * Objects as files of one directory: the default on one machine.
 *
 * A write goes to a temporary file, is synced, and gets its name by link(2), which fails when the name exists: so a
 * name is taken once, by one of all processes on the machine, and never stands for half an object. The directory is
 * synced before a write is answered. A crash leaves at most a temporary file, which `sweep` removes.
 */
import { randomUUID } from 'node:crypto';
import { type FileHandle, link, mkdir, open, readdir, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { type Clock, type ObjectStore, ObjectStoreUnavailable, ObjectTooLarge } from '@milkrun/core';
import { InvalidObjectKey, nameOf, segmentOf, segmentsOf, sortKeys } from './keys.ts';
import { assertWithin, GET_BYTES_MAX } from './limits.ts';
import { probeStore } from './probe.ts';

export interface SweepResult {
  /** Objects removed, temporary files included. */
  readonly removed: number;
  /** Their bytes. */
  readonly bytes: number;
}

export interface FsObjectStore extends ObjectStore {
  /** Removes objects written more than `olderThanMs` ago, what crashes left behind, and empty directories. */
  sweep(olderThanMs: number, clock: Clock): Promise<SweepResult>;
}

/** Ends the names of object files, so that the keys `a` and `a/b` can both exist. `~` is encoded in names. */
const FILE_MARK = '~';
const TEMPORARY = '~tmp';
/** A write in flight is younger than this. */
const TEMPORARY_AGE_MS = 3_600_000;
/** A sweep may remove a directory while it is made, or before the link; more often than this in a row is a fault. */
const LINK_ATTEMPTS = 5;
const SYNCED_DIRECTORIES_MAX = 4_096;

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';

/** Opens a store in a directory, which is made when it is first written to; `path` may be relative. */
export function createFsObjectStore(path: string): FsObjectStore {
  const root = resolve(path);
  const temporary = join(root, TEMPORARY);
  /** Directories whose own entry is known to be on disk. */
  const synced = new Set<string>();

  const fileOf = (key: string): string => join(root, ...segmentsOf(key).map(nameOf)) + FILE_MARK;

  async function makeDirectory(directory: string): Promise<void> {
    const first = await mkdir(directory, { recursive: true, mode: 0o700 });
    const top = first !== undefined && root.startsWith(first) ? first : root;
    for (let at = directory; !synced.has(at); at = dirname(at)) {
      await syncDirectory(dirname(at));
      if (synced.size >= SYNCED_DIRECTORIES_MAX) synced.clear();
      synced.add(at);
      if (at === top) break;
    }
  }

  async function writeTemporary(body: Uint8Array): Promise<string> {
    const file = join(temporary, randomUUID());
    const handle = await open(file, 'wx', 0o600).catch(async (error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
      await mkdir(temporary, { recursive: true, mode: 0o700 });
      return await open(file, 'wx', 0o600);
    });
    try {
      await handle.writeFile(body);
      await handle.sync();
    } finally {
      await handle.close();
    }
    return file;
  }

  async function linkOnce(from: string, to: string): Promise<'created' | 'exists'> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await makeDirectory(dirname(to));
        await link(from, to);
        return 'created';
      } catch (error) {
        if (codeOf(error) === 'EEXIST') return 'exists';
        // mkdir itself says either when a parent goes away under it.
        if (!['ENOENT', 'ENOTDIR'].includes(codeOf(error)) || attempt === LINK_ATTEMPTS) throw error;
        synced.clear();
      }
    }
  }

  const store: FsObjectStore = {
    async putIfAbsent(key, body) {
      const file = fileOf(key);
      return await orUnavailable(`write of ${key} under ${root}`, async () => {
        const draft = await writeTemporary(body);
        try {
          const outcome = await linkOnce(draft, file);
          // Also when it exists: whoever hears so may rely on it, and its writer may not have come to this line yet.
          await syncDirectory(dirname(file));
          return outcome;
        } finally {
          await unlink(draft).catch(ignoreMissing);
        }
      });
    },

    async get(key, bytesMax = GET_BYTES_MAX) {
      const file = fileOf(key);
      return await orUnavailable(`read of ${key} under ${root}`, async () => {
        const handle = await open(file, 'r').catch(ignoreMissing);
        if (handle === undefined) return undefined;
        try {
          const { size } = await handle.stat();
          assertWithin(key, size, bytesMax);
          return await readWhole(handle, size);
        } finally {
          await handle.close();
        }
      });
    },

    async list(prefix) {
      const above = prefix.split('/').slice(0, -1);
      if (above.length > 0 && !isKey(above.join('/'))) return [];
      const base = join(root, ...above.map(nameOf));
      const start = above.map((segment) => `${segment}/`).join('');
      const keys: string[] = [];
      await orUnavailable(`list of ${prefix} under ${root}`, () => collect(base, start, prefix, keys));
      return sortKeys(keys);
    },

    async delete(key) {
      const file = fileOf(key);
      await orUnavailable(`removal of ${key} under ${root}`, async () => {
        try {
          await unlink(file);
        } catch (error) {
          ignoreMissing(error);
          return;
        }
        await syncDirectory(dirname(file));
      });
    },

    async sweep(olderThanMs, clock) {
      const now = clock.now();
      const result = { removed: 0, bytes: 0 };
      await sweepDirectory(temporary, now - Math.max(olderThanMs, TEMPORARY_AGE_MS), result, () => true);
      await sweepDirectory(root, now - olderThanMs, result, (name) => name.endsWith(FILE_MARK));
      synced.clear();
      return result;
    },

    async probe() {
      try {
        await probeStore(store, `fs:${path}`);
      } catch (error) {
        if (!(error instanceof ObjectStoreUnavailable)) throw error;
        throw new ObjectStoreUnavailable(
          `OBJECT_STORE is "fs:${path}", and no object can be kept there (${error.message}). ` +
            'Accepted is a directory this process may write, on a file system with hard links.',
          { cause: error },
        );
      }
    },

    async close() {},
  };
  return store;
}

function isKey(key: string): boolean {
  try {
    segmentsOf(key);
    return true;
  } catch (error) {
    if (error instanceof InvalidObjectKey) return false;
    throw error;
  }
}

async function collect(directory: string, start: string, prefix: string, keys: string[]): Promise<void> {
  const entries = (await readdir(directory, { withFileTypes: true }).catch(ignoreMissing)) ?? [];
  for (const entry of entries) {
    const isObject = entry.isFile() && entry.name.endsWith(FILE_MARK);
    const segment = segmentOf(isObject ? entry.name.slice(0, -FILE_MARK.length) : entry.name);
    if (segment === undefined) continue;
    const key = start + segment;
    if (isObject && key.startsWith(prefix)) keys.push(key);
    if (!entry.isDirectory()) continue;
    const below = `${key}/`;
    if (below.startsWith(prefix) || prefix.startsWith(below)) {
      await collect(join(directory, entry.name), below, prefix, keys);
    }
  }
}

async function sweepDirectory(
  directory: string,
  before: number,
  result: { removed: number; bytes: number },
  wanted: (name: string) => boolean,
): Promise<void> {
  const entries = (await readdir(directory, { withFileTypes: true }).catch(ignoreMissing)) ?? [];
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isDirectory() && segmentOf(entry.name) !== undefined) {
      await sweepDirectory(path, before, result, wanted);
      await rmdir(path).catch(ignoreMissing);
    } else if (entry.isFile() && wanted(entry.name)) {
      const found = await stat(path).catch(ignoreMissing);
      if (found === undefined || found.mtimeMs >= before) continue;
      await unlink(path).catch(ignoreMissing);
      result.removed += 1;
      result.bytes += found.size;
    }
  }
}

async function readWhole(handle: FileHandle, size: number): Promise<Uint8Array> {
  const body = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const { bytesRead } = await handle.read(body, at, size - at, at);
    if (bytesRead === 0) throw new Error(`the file ended after ${at} of ${size} bytes`);
    at += bytesRead;
  }
  return body;
}

/** Windows can not open a directory; its file systems journal names themselves. */
async function syncDirectory(directory: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await open(directory, 'r').catch(ignoreMissing);
  if (handle === undefined) return;
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Absent is what others may make it at any time; a directory that is not empty stays. */
function ignoreMissing(error: unknown): undefined {
  if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(codeOf(error))) throw error;
  return undefined;
}

async function orUnavailable<T>(what: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof ObjectTooLarge) throw error;
    throw new ObjectStoreUnavailable(`${what} failed: ${(error as Error).message}`, { cause: error });
  }
}
