/** Every `--help` page as it is shown, and what holds for all commands of the tree. */
import type { Command } from 'commander';
import { expect, test } from 'vitest';
import { createProgram } from '../src/index.ts';
import { run } from './helpers.ts';

const io = { env: {}, out: () => {}, err: () => {}, isTty: false, readStdin: async () => '' };

/** Words that lead to each command people see. */
function pathsOf(command: Command, path: readonly string[] = []): string[][] {
  const verbs = command.createHelp().visibleCommands(command);
  const below = verbs.filter((verb) => verb.name() !== 'help');
  return [[...path], ...below.flatMap((verb) => pathsOf(verb, [...path, verb.name()]))];
}

const paths = pathsOf(createProgram(io));

test.each(paths.map((path) => ({ name: ['milkrun', ...path].join(' '), path })))('$name --help', async ({ path }) => {
  const { code, out, err } = await run([...path, '--help']);
  expect([code, err]).toEqual([0, '']);
  expect(out).toMatchSnapshot();
  expect(out).toContain('--json');
});

test('the contract’s verbs are there', () => {
  const groups = new Set(paths.map(([group]) => group));
  const wanted = ['dev', 'triggers', 'connections', 'events', 'activities', 'runs', 'tasks', 'migrate', 'shards'];
  for (const verb of [...wanted, 'batches', 'doctor', 'connector', 'import']) expect(groups).toContain(verb);
});

test.each([
  [['batches', 'edn', 'x'], 'end'],
  [['shards', 'sett', '3'], 'set'],
  [['triggers', 'list', '--state', 'activ'], 'active'],
  [['completion', 'bsh'], 'bash'],
  [['connector', 'tset', 'x'], 'test'],
  [['import', 'x', '--dryrun'], '--dry-run'],
])('%j is answered with the nearest word', async (args, meant) => {
  const { code, err } = await run(args);
  expect([code, err]).toEqual([2, expect.stringContaining(`Did you mean ${meant}?`)]);
});

test('what is near to nothing is refused without a guess', async () => {
  expect((await run(['batches', 'quuxify'])).err).not.toContain('Did you mean');
  expect((await run(['triggers', 'list', '--state', 'quuxify'])).err).not.toContain('Did you mean');
});
