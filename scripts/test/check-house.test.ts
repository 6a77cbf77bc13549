import { expect, test } from 'vitest';
import { houseViolations } from '../check-house.ts';

const messages = (path: string, text: string): string[] =>
  houseViolations([{ path, text }]).map(({ line, message }) => `${line} ${message}`);

test.each([
  ['const t = Date.now();', 'Date.now() reads'],
  ['const f = Date.now;', 'Date.now() reads'],
  ['const d = new Date();', 'new Date() reads'],
  ['const s = Date();', 'Date() reads'],
  ['const r = Math.random();', 'Math.random() cannot be replayed'],
  ['setTimeout(flush, 5);', 'setTimeout() waits by the machine'],
  ['const late = AbortSignal.timeout(5);', 'AbortSignal.timeout waits by the machine'],
])('engine and core take time and randomness as arguments: %s', (code, message) => {
  for (const folder of ['core', 'batch-poller', 'dispatch']) {
    expect(messages(`packages/${folder}/src/a/b.ts`, `\n${code}`)).toEqual([expect.stringContaining(`2 ${message}`)]);
  }
  expect(messages('packages/core/src/clock.ts', code)).toEqual([]);
  expect(messages('packages/core/src/system-rng.ts', code)).toEqual([]);
  expect(messages('packages/telemetry/src/a.ts', code)).toEqual([]);
});

test('dates from a value, and the words in comments and strings, pass', () => {
  expect(
    messages('packages/core/src/a.ts', `new Date(now); Date.parse('x'); // Date.now()\nconst s = 'Math.random()';`),
  ).toEqual([]);
});

test.each([
  'it.only("a", f)',
  'test.skip("a", f)',
  'describe.concurrent.only("a", f)',
  'test.skip.each([])("a", f)',
  'test.todo("a")',
])('no test is left out: %s', (code) => {
  expect(messages('packages/core/test/a.test.ts', code)).toEqual([expect.stringContaining('every test runs, always')]);
});

test.each([
  ['packages/core/test/a.test.ts', 'test("a", { retry: 2 }, f)', 1],
  ['packages/core/test/a.test.ts', 'vi.setConfig({ retry: 2 })', 1],
  ['vitest.config.ts', 'export default defineConfig({ test: { retry: 2 } })', 1],
  [
    'packages/core/test/a.test.ts',
    'proxyActivities({ retry: { maximumAttempts: 1 } }); list.only(); test.skipIf(x)("a", f)',
    0,
  ],
] as const)('%s: %s', (path, code, count) => {
  expect(messages(path, code)).toHaveLength(count);
});

test('H29: a child workflow is started with a word on what becomes of it when its parent closes', () => {
  const path = 'packages/activity-core/src/workflow.ts';
  const imported = `import * as wf from '@temporalio/workflow';\n`;
  expect(messages(path, `${imported}await startChild(Task, { args: [] });`)).toEqual([
    expect.stringContaining('parentClosePolicy'),
  ]);
  expect(messages(path, `${imported}await wf.startChild(Task);`)).toHaveLength(1);
  expect(
    messages(path, `${imported}await startChild(Task, { parentClosePolicy: 'ABANDON' }); await executeChild(Task);`),
  ).toEqual([]);
});

test('paths of one machine are refused outside tests, unless a comment says why', () => {
  const path = '/' + 'root/.cache';
  expect(messages('docs/a.md', `see ${path}`)).toEqual([expect.stringContaining('1 machine path')]);
  expect(messages('a.yml', `dir: "/${'tmp'}/x"`)).toHaveLength(1);
  expect(messages('packages/core/test/a.test.ts', `const p = '${path}';`)).toEqual([]);
  expect(messages('infra/Dockerfile', `# allow-path: inside the image\nWORKDIR ${path}`)).toEqual([]);
  expect(messages('docs/a.md', `https://example.com${path} and ./work/a and a/tmp/b`)).toEqual([]);
});

test('unfinished work is refused', () => {
  expect(messages('packages/core/src/a.ts', '// TODO: later')).toEqual([expect.stringContaining('left behind')]);
  expect(messages('packages/core/src/a.ts', 'const TODOS = 1;')).toEqual([]);
});
