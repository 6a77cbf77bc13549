import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { drillsInGate, runGate } from '../lib/gate.ts';
import { runDrill } from '../lib/index.ts';
import { record, renderScoreboard } from '../lib/scoreboard.ts';

const FIXTURES = new URL('./fixtures/', import.meta.url);
const empty = mkdtempSync(join(tmpdir(), 'milkrun-drills-'));
afterAll(() => rmSync(empty, { recursive: true }));

async function run(args: string[], folder = FIXTURES, recordTo?: { results: URL; page: URL }) {
  let [out, err] = ['', ''];
  const says = { out: (text: string) => (out += text), err: (text: string) => (err += text) };
  const code = await runDrill({ args, folder, ...says, ...(recordTo === undefined ? {} : { recordTo }) });
  return { code, out, err, last: out.trimEnd().split('\n').at(-1) ?? '' };
}

test('a drill that holds exits with 0, and its last line is its figures', async () => {
  const { code, last, err } = await run(['sum', '--count', '5', '--seed', '7']);
  expect(code).toBe(0);
  const line = JSON.parse(last);
  expect(line).toEqual({ drill: 'sum', tried: 5, violations: 0, sum: 12, seed: 7, seconds: expect.any(Number) });
  expect(Object.keys(line).slice(0, 3)).toEqual(['drill', 'tried', 'violations']);
  expect(err).toContain('seed 7');
});

test('with --json the figures are all of standard output', async () => {
  const { out } = await run(['sum', '--json']);
  expect(JSON.parse(out)).toMatchObject({ drill: 'sum', tried: 3 });
  expect(out.trimEnd()).not.toContain('\n');
});

test('without a seed one is drawn and told, and it repeats the run', async () => {
  const first = JSON.parse((await run(['sum', '--json'])).out);
  const again = JSON.parse((await run(['sum', '--json', `--seed=${first.seed}`])).out);
  expect(again.sum).toBe(first.sum);
});

test.each([
  [['--violations', '2'], '2 violations'],
  [['--count', '999'], 'nothing was tried'],
  [['--faults', '0'], 'no fault was fired'],
  [['--fail'], 'it broke'],
])('%j fails with 1 and still prints its line', async (flags, reason) => {
  const { code, last, err } = await run(['sum', ...flags]);
  expect([code, err]).toEqual([1, expect.stringContaining(reason)]);
  expect(JSON.parse(last)).toMatchObject({ drill: 'sum', seed: expect.any(Number) });
});

test.each([
  [['smu'], 'Did you mean sum? There are: sum, wrong'],
  [['sum', '--violation', '1'], 'did you mean --violations?'],
  [['sum', '--count', '0'], 'at least 1'],
  [['sum', '--count'], 'at least 1'],
  [['sum', '--count', '1', '--count', '2'], 'twice'],
  [['sum', 'extra'], 'unexpected argument'],
  [['../run'], 'there is no drill'],
  [['run'], 'there is no drill'],
])('%j is refused with 2', async (args, message) => {
  const { code, out, err } = await run(args);
  expect([code, out, err]).toEqual([2, '', expect.stringContaining(message)]);
});

test('a file that does not export its drill is an error of ours', async () => {
  await expect(run(['wrong'])).rejects.toThrow('must export drill with name "wrong"');
});

test('help lists drills with their promise, and the flags of one', async () => {
  const all = await run(['--help'], pathToFileURL(`${empty}/`));
  expect([all.code, all.out]).toEqual([0, expect.stringContaining('--seed S')]);
  const one = await run(['sum', '--help']);
  expect([one.code, one.out]).toEqual([0, expect.stringMatching(/Adding gives the sum[\s\S]*--violations/)]);
  expect((await run([], pathToFileURL(`${empty}/`))).code).toBe(2);
});

test('every drill of this folder loads and keeps to the form', () => {
  const main = fileURLToPath(new URL('../run.ts', import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, '--help'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([0, '']);
  expect(stdout).toContain('npm run drill -- NAME');
});

test('the gate runs each quick drill with its small count and counts those that fail', async () => {
  const folder = new URL('./fixtures/gate/', import.meta.url);
  let [out, err] = ['', ''];
  const quick = drillsInGate([
    { name: 'holds', about: '', defaults: { count: 9 }, ciCount: 2, run: () => Promise.reject(new Error('not here')) },
    { name: 'slow', about: '', defaults: { count: 9 }, run: () => Promise.reject(new Error('not here')) },
    { name: 'breaks', about: '', defaults: { count: 9 }, ciCount: 3, run: () => Promise.reject(new Error('not here')) },
  ]);
  const code = await runGate(quick, { folder, out: (text) => (out += text), err: (text) => (err += text) });
  expect(code).toBe(1);
  expect(out.trimEnd().split('\n')).toEqual([
    'ok     holds {"args":["holds","--count","2","--seed","1","--json"]}',
    'FAILED breaks {"args":["breaks","--count","3","--seed","1","--json"]}',
    '1 passed, 1 failed',
  ]);
  expect(err).toContain('broken on purpose');
});

test('--record saves the line and puts it on the page, missed ones too', async () => {
  const place = mkdtempSync(join(tmpdir(), 'milkrun-scoreboard-'));
  try {
    const to = { results: pathToFileURL(`${place}/results/`), page: pathToFileURL(`${place}/scoreboard.md`) };
    await run(['sum', '--count', '1200', '--seed', '7', '--record', '--json'], FIXTURES, to);
    const held = readFileSync(to.page, 'utf8');
    expect(held).toMatch(
      /\| sum \| yes \| 1,200 \| 0 \| sum 1,207; seed 7; seconds [\d.]+; cores \d+ \| `npm run drill -- sum --count 1200 --seed 7` \|/,
    );
    await run(['sum', '--violations', '2', '--record'], FIXTURES, to);
    expect(readFileSync(to.page, 'utf8')).toContain('| sum | **missed** | 3 | 2 |');
    record(to, {
      kind: 'bench',
      args: ['r', '--x'],
      figures: { bench: 'r', fast: { ratio: 0.5 }, missed: ['a|b'] },
      met: false,
    });
    expect(readFileSync(to.page, 'utf8')).toContain('| r | **missed** | fast {"ratio":0.5}; missed ["a\\|b"];');
  } finally {
    rmSync(place, { recursive: true });
  }
});

test('the scoreboard is what the recorded runs make of it', () => {
  const page = readFileSync(new URL('../../docs/scoreboard.md', import.meta.url), 'utf8');
  expect(page).toBe(renderScoreboard(new URL('../results/', import.meta.url)));
});
