import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withLock } from '../lib/lock.mjs';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'lock-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

test('is held during the work and free afterwards, also after an error', async () => {
  const path = join(dir, 'a/lock');
  const result = await withLock(
    path,
    () => {},
    async () => {
      expect(readFileSync(path, 'utf8')).toMatch(new RegExp(`^${process.pid} `));
      return 7;
    },
  );
  expect(result).toBe(7);
  await expect(
    withLock(
      path,
      () => {},
      () => Promise.reject(new Error('broken')),
    ),
  ).rejects.toThrow('broken');
  expect(existsSync(path)).toBe(false);
});

test('a dead holder and an unreadable lock are taken over without waiting', async () => {
  const path = join(dir, 'lock');
  const dead = spawnSync(process.execPath, ['-e', '']).pid;
  for (const content of [`${dead} 1\n`, '', 'garbage']) {
    writeFileSync(path, content);
    const waited: number[] = [];
    await withLock(
      path,
      (holder) => waited.push(holder),
      async () => {},
    );
    expect(waited).toEqual([]);
  }
});

test('processes that race for a dead lock work one after another', async () => {
  const path = join(dir, 'lock');
  const log = join(dir, 'log');
  writeFileSync(path, `${spawnSync(process.execPath, ['-e', '']).pid} 1\n`);
  const code = `
    import { appendFileSync } from 'node:fs';
    import { setTimeout } from 'node:timers/promises';
    const { withLock } = await import(${JSON.stringify(new URL('../lib/lock.mjs', import.meta.url).href)});
    await withLock(${JSON.stringify(path)}, () => {}, async () => {
      appendFileSync(${JSON.stringify(log)}, 'in ');
      await setTimeout(20);
      appendFileSync(${JSON.stringify(log)}, 'out ');
    });`;
  const processes = Array.from({ length: 4 }, () =>
    promisify(execFile)(process.execPath, ['--input-type=module', '-e', code]),
  );
  await Promise.all(processes);
  expect(readFileSync(log, 'utf8')).toBe('in out '.repeat(4));
  expect(existsSync(path)).toBe(false);
});
