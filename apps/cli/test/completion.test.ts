/** Completion in the shells themselves: bash everywhere, zsh and fish where they are installed. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run, temporaryFolder } from './helpers.ts';

async function scriptOf(shell: string): Promise<string> {
  const { code, out } = await run(['completion', shell]);
  expect(code).toBe(0);
  const file = join(temporaryFolder(), `milkrun.${shell}`);
  writeFileSync(file, out);
  return file;
}

const isThere = (shell: string): boolean => spawnSync(shell, ['-c', 'exit 0']).status === 0;

/** What the shell offers for a line, whose last word is being typed. */
const OFFERS: Readonly<Record<string, (file: string, line: readonly string[]) => string>> = {
  bash: (file, line) => {
    const words = line.map((word) => `'${word}'`).join(' ');
    const script = `source ${file}; COMP_WORDS=(${words}); COMP_CWORD=${line.length - 1}; _milkrun; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return spawnSync('bash', ['--norc', '-c', script], { encoding: 'utf8' }).stdout;
  },
  fish: (file, line) => {
    const script = `source ${file}; complete -C '${line.join(' ')}' | string split -f 1 \\t`;
    return spawnSync('fish', ['--no-config', '-c', script], { encoding: 'utf8' }).stdout;
  },
};

const LINES: [string[], string[]][] = [
  [['milkrun', 'migr'], ['migrate']],
  [
    ['milkrun', 'migrate', 'to'],
    ['to-legacy', 'to-v2'],
  ],
  [
    ['milkrun', '--json', 'connector', ''],
    ['new', 'test'],
  ],
  [
    ['milkrun', 'triggers', 'list', '--state', ''],
    ['active', 'disabled', 'halted'],
  ],
  [['milkrun', 'triggers', 'list', '--state', 'active', '--li'], ['--limit']],
  [['milkrun', 'triggers', 'show', '--js'], ['--json']],
  [
    ['milkrun', 'completion', ''],
    ['bash', 'fish', 'zsh'],
  ],
];

for (const shell of Object.keys(OFFERS).filter((name) => name === 'bash' || isThere(name))) {
  test.each(LINES)(`${shell} completes %j with %j`, async (line, wanted) => {
    const offer = OFFERS[shell] as (typeof OFFERS)[string];
    const offered = offer(await scriptOf(shell), line)
      .split('\n')
      .filter(Boolean);
    expect(offered.sort()).toEqual(wanted);
  });
}

test('a hidden verb is not offered, and every shell reads its script', async () => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { out } = await run(['completion', shell]);
    for (const verb of ['migrate', 'import', 'connector']) expect(out).toContain(verb);
    expect(out).not.toContain('dev-servers');
    if (!isThere(shell)) continue;
    expect(spawnSync(shell, ['-n', await scriptOf(shell)], { encoding: 'utf8' })).toMatchObject({
      status: 0,
      stderr: '',
    });
  }
});

test('with --json the script is a text of a record', async () => {
  const { out } = await run(['completion', 'bash', '--json']);
  expect(JSON.parse(out)).toEqual({ shell: 'bash', script: expect.stringContaining('complete -o default') });
});
