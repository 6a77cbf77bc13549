/**
 * The tests can fail: Stryker changes the code in one place at a time (a condition turned, a call left out, a bound moved)
 * and runs the tests that reach it. At least 90 % of the changes must be noticed in the pure core and on the commit path:
 * what folds objects into entry states, decides rows, delivers, commits, and wraps the commit statement.
 *
 * It works on a scratch copy. Texts are left as they are: types already refuse a wrong code, and what a message says is no
 * behaviour. With a count below all there are, windows of lines drawn by the seed are changed, and the goal allows for the
 * chance of a sample. `--count` at or above all changes everything.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { UsageError } from './lib/index.ts';
import { type Mutant, mutate } from './lib/mutants.ts';
import { withPostgres } from './lib/parts.ts';
import { randomFrom, shuffled } from './lib/random.ts';
import { withScratchCopy } from './lib/scratch-copy.ts';

const GOAL = 90;
/** More than there are. */
const ALL = 5_000;
const WINDOW_LINES = 6;
/** Changes a line of these files gives, roughly. */
const PER_LINE = 1.1;

interface Group {
  readonly sources: readonly string[];
  /** Globs of the tests that are run against changes of these sources. */
  readonly tests: readonly string[];
}

const CORE = [
  ...['batch-policy', 'canonical-json', 'chunking', 'codes', 'dedupe', 'entry', 'event', 'ids', 'nearest', 'scrub'],
  ...['secret', 'seen', 'uuid', 'workflow-ids'],
];
const STEPS = ['activities/commit', 'decide-row', 'deliver', 'fold', 'poll-state'];

const GROUPS: Readonly<Record<string, Group>> = {
  core: { sources: CORE.map((name) => `packages/core/src/${name}.ts`), tests: ['packages/core/test/**/*.test.ts'] },
  commit: {
    sources: STEPS.map((name) => `packages/batch-poller/src/${name}.ts`),
    tests: ['packages/batch-poller/test/{commit,decide-row,deliver,fold,poll-state}*.test.ts'],
  },
  statement: {
    sources: ['packages/workerdb/src/statements/commit.ts'],
    tests: ['packages/workerdb/test/batch.pg.test.ts'],
  },
};

export const drill: Drill = {
  name: 'mutation',
  about: 'At least 90 % of small changes to the core and the commit path are noticed by the tests.',
  defaults: { count: 40 },
  fullCount: ALL,
  flags: { only: `one of ${Object.keys(GROUPS).join(', ')}; default all` },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const { only } = flags;
    if (only !== undefined && (only === true || !Object.hasOwn(GROUPS, only))) {
      throw new UsageError(`--only takes one of ${Object.keys(GROUPS).join(', ')}`);
    }
    const groups = Object.entries(GROUPS).filter(([name]) => only === undefined || name === only);
    const isWhole = count >= ALL;
    const mutants: Mutant[] = [];
    await withPostgres((pgUrl) =>
      withScratchCopy(async (folder) => {
        const windows = isWhole ? undefined : drawWindows(groups, folder, count, randomFrom(seed));
        for (const [name, { sources, tests }] of groups) {
          const mutated = windows?.get(name) ?? (isWhole ? sources : []);
          if (mutated.length === 0) continue;
          log(`${name}: ${isWhole ? `${mutated.length} files` : `${mutated.length} windows of ${WINDOW_LINES} lines`}`);
          mutants.push(...(await mutate({ folder, mutated, tests, pgUrl })));
        }
      }),
    );
    const killed = mutants.filter(({ status }) => status === 'Killed').length;
    const timedOut = mutants.filter(({ status }) => status === 'Timeout').length;
    const survivors = mutants.filter(({ status }) => status === 'Survived' || status === 'NoCoverage');
    const tried = killed + timedOut + survivors.length;
    for (const { file, line, operator, text, status } of survivors)
      log(`${status}: ${file}:${line} ${operator}: ${text}`);
    const score = tried === 0 ? 0 : (100 * (killed + timedOut)) / tried;
    // Three standard deviations of a sample of that size.
    const allowance = isWhole ? 0 : 3 * Math.sqrt((GOAL * (100 - GOAL)) / Math.max(1, tried));
    const missed = score < GOAL - allowance;
    if (missed) log(`violation: ${score.toFixed(1)} % of ${tried} changes are noticed, the goal is ${GOAL} %`);
    return {
      tried,
      violations: missed ? 1 : 0,
      score: Number(score.toFixed(1)),
      goal: GOAL,
      killed,
      timedOut,
      survived: survivors.length,
      whole: isWhole,
      byFile: scoresByFile(mutants),
    };
  },
};

/** Windows of lines over all files until they give about `count` changes, as Stryker's ranges, by group. */
function drawWindows(
  groups: readonly (readonly [string, Group])[],
  folder: string,
  count: number,
  random: () => number,
): ReadonlyMap<string, readonly string[]> {
  const all = groups.flatMap(([name, { sources }]) =>
    sources.flatMap((source) => {
      const lines = readFileSync(join(folder, source), 'utf8').split('\n').length;
      return Array.from({ length: Math.ceil(lines / WINDOW_LINES) }, (_, n) => {
        const from = n * WINDOW_LINES + 1;
        return { name, range: `${source}:${from}-${from + WINDOW_LINES - 1}` };
      });
    }),
  );
  const wanted = Math.max(1, Math.ceil(count / (WINDOW_LINES * PER_LINE)));
  const drawn = shuffled(all, random).slice(0, wanted);
  return new Map(
    [...Map.groupBy(drawn, ({ name }) => name)].map(([name, windows]) => [name, windows.map(({ range }) => range)]),
  );
}

function scoresByFile(mutants: readonly Mutant[]): Record<string, string> {
  const scores: Record<string, string> = {};
  for (const [file, own] of Map.groupBy(mutants, (mutant) => mutant.file)) {
    const counted = own.filter(({ status }) => status !== 'Ignored');
    const noticed = counted.filter(({ status }) => status === 'Killed' || status === 'Timeout').length;
    if (counted.length > 0) scores[file.replace(/^packages\/|src\/|\.ts$/g, '')] = `${noticed}/${counted.length}`;
  }
  return scores;
}
