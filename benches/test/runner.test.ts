import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { runBench } from '@milkrun/drills';
import { expect, test } from 'vitest';

async function run(args: string[]) {
  let [out, err] = ['', ''];
  const folder = new URL('./fixtures/', import.meta.url);
  const code = await runBench({ args, folder, out: (text) => (out += text), err: (text) => (err += text) });
  return { code, out, err };
}

test('a bench prints its figures, JSON last', async () => {
  const { code, out } = await run(['ratio']);
  expect(code).toBe(0);
  expect(out).toContain('fast                     {"ratio":0.8}');
  const line = JSON.parse(out.trimEnd().split('\n').at(-1) as string);
  expect(line).toEqual({ bench: 'ratio', fast: { ratio: 0.8 }, seconds: expect.any(Number) });
});

test.each([
  ['--miss', 'fast.ratio 0.8 < 0.9'],
  ['--fail', 'it broke'],
])('%s fails with 1', async (flag, reason) => {
  const { code, out, err } = await run(['ratio', '--json', flag]);
  expect([code, err]).toEqual([1, expect.stringContaining(reason)]);
  expect(JSON.parse(out)).toMatchObject({ bench: 'ratio' });
});

test.each([
  [['ratoi'], 'Did you mean ratio?'],
  [['ratio', '--mis'], 'did you mean --miss?'],
])('%j is refused with 2', async (args, message) => {
  expect(await run(args)).toMatchObject({ code: 2, err: expect.stringContaining(message) });
});

test('every bench of this folder loads and keeps to the form', () => {
  const main = fileURLToPath(new URL('../run.ts', import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, '--help'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([0, '']);
  expect(stdout).toContain('npm run bench -- NAME');
});
