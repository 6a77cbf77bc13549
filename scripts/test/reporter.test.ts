import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Last two lines and exit status of a real vitest run over one test file. */
function outcome(text: string): { lines: string[]; code: number } {
  // Inside the repository, so that the file finds vitest.
  const dir = mkdtempSync(join(root, 'node_modules/.reporter-'));
  writeFileSync(join(dir, 'a.test.ts'), `import { beforeAll, describe, expect, test } from 'vitest';\n${text}`);
  writeFileSync(join(dir, 'vitest.config.ts'), `export default { test: { include: ['*.test.ts'], exclude: [] } };`);
  const args = ['run', '--root', dir, '--reporter=dot', `--reporter=${join(root, 'scripts/reporter.ts')}`];
  try {
    const command = [join(root, 'node_modules/vitest/vitest.mjs'), ...args];
    const output = execFileSync(process.execPath, command, { encoding: 'utf8', stdio: 'pipe', env: outerEnv() });
    return { lines: output.trimEnd().split('\n').slice(-2), code: 0 };
  } catch (error) {
    const { stdout, status } = error as { stdout: string; status: number };
    return { lines: stdout.trimEnd().split('\n').slice(-2), code: status };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Our environment without what marks a process as a vitest worker. */
function outerEnv(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('VITEST')));
}

test('passes alone give one plain closing line', () => {
  const { lines, code } = outcome(`test('a', () => {}); test('b', () => {});`);
  expect([lines.at(-1), code]).toEqual(['2 passed, 0 failed', 0]);
});

test('failures, a broken hook and skips are counted apart', () => {
  const { lines, code } = outcome(`
    test('a', () => expect(1).toBe(2)); test('b', () => {}); test.skip('c', () => {});
    describe('d', () => { beforeAll(() => { throw new Error('no'); }); test('e', () => {}); });`);
  expect([lines, code]).toEqual([['2 skipped', '1 passed, 2 failed'], 1]);
});

test('a file that does not load is a failure', () => {
  const { lines, code } = outcome(`import './absent.ts';`);
  expect([lines.at(-1), code]).toEqual(['0 passed, 1 failed', 1]);
});
