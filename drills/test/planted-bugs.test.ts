/** Planted bugs follow the code they break: a patch that no longer applies would prove nothing, and only the drill would say so. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { plantedBugs } from '../lib/planted-bugs.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const BUGS = plantedBugs();

test('there are at least 30, and no two break the same rule in the same words', () => {
  expect(BUGS.length).toBeGreaterThanOrEqual(30);
  expect(new Set(BUGS.map(({ rule }) => rule)).size).toBe(BUGS.length);
});

test('each applies to the code as it is', () => {
  const stale = BUGS.flatMap(({ name, patch }) => {
    const { status, stderr } = spawnSync('git', ['apply', '--check', patch], { cwd: ROOT, encoding: 'utf8' });
    return status === 0 ? [] : [`${name}: ${stderr.trim()}`];
  });
  expect(stale).toEqual([]);
});
