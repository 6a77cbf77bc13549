/** The rows A01 to A89 of the activities' list, each with the tests that carry its number in their titles, run. */
import { globSync, readFileSync } from 'node:fs';
import type { Drill } from './lib/index.ts';
import { checkRows } from './lib/numbered-tests.ts';

const ROOT = new URL('..', import.meta.url);
const rows = readFileSync(new URL('lib/activity-rows.txt', import.meta.url), 'utf8')
  .split('\n')
  .flatMap((line) => /^A\d\d(?= )/.exec(line) ?? []);

export const drill: Drill = {
  name: 'rows',
  about: 'Every row of the activities’ list has tests that carry its number, and they pass.',
  defaults: { count: rows.length },
  run: ({ log }) => checkRows({ rows, files: filesWithNumbers(), log }),
};

/** Test files with a title that begins with a number, so that the others are not run. */
function filesWithNumbers(): string[] {
  const files = globSync(['{apps,packages}/*/test/**/*.test.ts', '{drills,scripts}/test/**/*.test.ts'], { cwd: ROOT });
  return files.filter((file) => /['"`]A\d\d\b/.test(readFileSync(new URL(file, ROOT), 'utf8'))).toSorted();
}
