import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const DRILLS = 'echo 2 passed, 0 failed';

/** Last line and exit status of the gate when `npm test`, `npm run check` and `npm run drill` do as told (shell text). */
function gate(tests: string, checks: string, drills = DRILLS): { last: string | undefined; code: number | null } {
  const dir = mkdtempSync(join(tmpdir(), 'gate-'));
  try {
    mkdirSync(join(dir, '.ci'));
    mkdirSync(join(dir, 'bin'));
    copyFileSync(fileURLToPath(new URL('../../.ci/run', import.meta.url)), join(dir, '.ci/run'));
    writeFileSync(
      join(dir, 'bin/npm'),
      `#!/bin/sh\nif [ "$1" = test ]; then ${tests}; elif [ "$2" = drill ]; then ${drills}; else ${checks}; fi\n`,
    );
    chmodSync(join(dir, 'bin/npm'), 0o755);
    const { stdout, status } = spawnSync('bash', [join(dir, '.ci/run')], {
      encoding: 'utf8',
      env: { ...process.env, PATH: join(dir, 'bin') + delimiter + process.env.PATH },
    });
    return { last: stdout.trimEnd().split('\n').at(-1), code: status };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test.each([
  ['all pass', 'echo 5 passed, 0 failed', 'echo 6 passed, 0 failed', '13 passed, 0 failed', 0],
  [
    'a test fails, checks still run',
    'echo 4 passed, 1 failed; exit 1',
    'echo 6 passed, 0 failed',
    '12 passed, 1 failed',
    1,
  ],
  ['a check fails', 'echo 5 passed, 0 failed', 'echo 5 passed, 1 failed; exit 1', '12 passed, 1 failed', 1],
  ['skipped tests', 'echo 2 skipped; echo 5 passed, 0 failed', 'echo 6 passed, 0 failed', '13 passed, 2 failed', 1],
  ['no closing line', 'echo crashed; exit 3', 'echo 6 passed, 0 failed', '8 passed, 1 failed', 1],
  [
    'a status without a failure',
    'echo 5 passed, 0 failed; exit 1',
    'echo 6 passed, 0 failed',
    '13 passed, 1 failed',
    1,
  ],
  ['nothing ran', 'echo 0 passed, 0 failed', 'echo 6 passed, 0 failed', '8 passed, 1 failed', 1],
])('%s', (_, tests, checks, last, code) => {
  expect(gate(tests, checks)).toEqual({ last, code });
});

test('a drill that fails turns the gate red, and so does a gate without drills', () => {
  const [tests, checks] = ['echo 5 passed, 0 failed', 'echo 6 passed, 0 failed'];
  expect(gate(tests, checks, 'echo 1 passed, 1 failed; exit 1')).toEqual({ last: '12 passed, 1 failed', code: 1 });
  expect(gate(tests, checks, 'echo 0 passed, 0 failed').code).toBe(1);
});
