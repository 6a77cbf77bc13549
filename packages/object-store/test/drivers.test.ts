/** The memory and fs drivers sit the exam, and fs what only files can get wrong. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ObjectStoreUnavailable, systemClock } from '@milkrun/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createFsObjectStore, createMemoryObjectStore } from '../src/index.ts';
import { bytesOf, describeObjectStore } from './conformance.ts';

let place: string;
let rounds = 0;
beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'milkrun-objects-'));
});
afterAll(async () => {
  await rm(place, { recursive: true, force: true });
});

const freshDirectory = (): string => {
  rounds += 1;
  return join(place, String(rounds), 'objects');
};

let memory = createMemoryObjectStore();
describeObjectStore('memory', {
  reset: async () => {
    memory = createMemoryObjectStore();
  },
  open: () => memory,
});

let directory = '';
describeObjectStore('fs', {
  reset: async () => {
    directory = freshDirectory();
  },
  open: () => createFsObjectStore(directory),
});

const filesIn = async (root: string): Promise<string[]> =>
  (await readdir(root, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map(({ name }) => name);

/** Writes objects of 1 MiB without end, telling each key once its write was answered. */
const ENDLESS_WRITER = `
  import { createFsObjectStore } from ${JSON.stringify(new URL('../src/index.ts', import.meta.url).href)};
  const store = createFsObjectStore(process.argv[1]);
  for (let at = 0; ; at += 1) {
    const key = 'killed/' + process.pid + '-' + at;
    await store.putIfAbsent(key, Buffer.alloc(1024 * 1024, at % 256));
    process.stdout.write(key + '\\n');
  }`;

describe('object store: fs, beyond the exam', () => {
  it('keeps what was answered and shows no half object after its writer is killed', async () => {
    const root = freshDirectory();
    const answered = new Set<string>();
    for (let round = 0; round < 3; round += 1) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', ENDLESS_WRITER, root], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const closed = once(child, 'close');
      let output = '';
      for await (const chunk of child.stdout) {
        output += String(chunk);
        if (output.split('\n').length > 3 + round) child.kill('SIGKILL');
      }
      await closed;
      for (const key of output.split('\n').slice(0, -1)) answered.add(key);
    }
    const store = createFsObjectStore(root);
    const keys = await store.list('');
    expect([...answered].filter((key) => !keys.includes(key))).toEqual([]);
    for (const key of keys) {
      const at = Number(key.split('-').at(-1));
      expect([key, Buffer.alloc(1024 * 1024, at % 256).equals((await store.get(key)) ?? new Uint8Array())]).toEqual([
        key,
        true,
      ]);
    }
    expect(answered.size).toBeGreaterThanOrEqual(9);
  });

  it('sweeps objects above the age, what crashes left, and empty directories, and nothing else', async () => {
    const root = freshDirectory();
    const store = createFsObjectStore(root);
    await store.putIfAbsent('batches/old/entries', bytesOf(10));
    await store.putIfAbsent('batches/new/entries', bytesOf(20));
    await writeFile(join(root, '~tmp', 'left-by-a-crash'), bytesOf(30));
    await writeFile(join(root, '~tmp', 'in-flight'), bytesOf(40));
    await writeFile(join(root, 'README'), 'not an object');
    const week = 7 * 24 * 3_600_000;
    const now = systemClock.now();
    const old = new Date(now - week - 60_000);
    for (const file of ['batches/old/entries~', '~tmp/left-by-a-crash', 'README'])
      await utimes(join(root, file), old, old);

    expect(await store.sweep(week, { ...systemClock, now: () => now })).toEqual({ removed: 2, bytes: 40 });
    expect(await store.list('')).toEqual(['batches/new/entries']);
    expect((await filesIn(root)).sort()).toEqual(['README', 'entries~', 'in-flight']);
    expect(await readdir(join(root, 'batches'))).toEqual(['new']);
    expect(await store.putIfAbsent('batches/old/entries', bytesOf(1))).toBe('created');
  });

  it('writes while sweeps take empty directories away under it', async () => {
    const store = createFsObjectStore(freshDirectory());
    for (let round = 0; round < 60; round += 1) {
      const sweeps = Array.from({ length: 3 }, () => store.sweep(3_600_000, systemClock));
      const outcomes = await Promise.all(
        Array.from({ length: 8 }, (_, at) => store.putIfAbsent(`a/${round}/${at}`, bytesOf(1))),
      );
      await Promise.all(sweeps);
      expect(outcomes).toEqual(Array.from({ length: 8 }, () => 'created'));
      await Promise.all(Array.from({ length: 8 }, (_, at) => store.delete(`a/${round}/${at}`)));
    }
  });

  it('leaves no temporary file and keeps its files from other users', async () => {
    const root = freshDirectory();
    const store = createFsObjectStore(root);
    await store.putIfAbsent('a/b', bytesOf(10));
    await store.putIfAbsent('a/b', bytesOf(10));
    expect(await filesIn(root)).toEqual(['b~']);
    const { mode } = await stat(join(root, 'a', 'b~'));
    expect(mode & 0o077).toBe(0);
  });

  it('says which setting to change when the directory can not be used', async () => {
    const root = freshDirectory();
    await mkdir(join(root, '..'), { recursive: true });
    await writeFile(root, 'a file where the directory should be');
    const probe = createFsObjectStore(root).probe();
    await expect(probe).rejects.toThrow(ObjectStoreUnavailable);
    await expect(probe).rejects.toThrow(/^OBJECT_STORE is "fs:.*no object can be kept there.*Accepted is a directory/);
  });
});
