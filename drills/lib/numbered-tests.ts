/** Rows of a list, each with the tests that carry its number in their titles, run. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DrillResult, Say } from './types.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const RUN_MS_MAX = 900_000;

export interface NumberedTest {
  readonly title: string;
  /** Vitest's word: `passed`, `failed`, `skipped`, … */
  readonly status: string;
}

export interface RowsInput {
  /** Such as H01. */
  readonly rows: readonly string[];
  /** Folders and files of tests, from the root of the repository. */
  readonly files: readonly string[];
  readonly log: Say;
}

/** Runs the files, whole, because tests of one file may build on each other, and judges every row by its tests. */
export async function checkRows({ rows, files, log }: RowsInput): Promise<DrillResult> {
  return judgeRows(rows, await runNumbered(files, log), log);
}

/** A row holds when it has a test and all of its tests passed. */
export function judgeRows(rows: readonly string[], tests: readonly NumberedTest[], log: Say): DrillResult {
  const missing: string[] = [];
  const failed: string[] = [];
  for (const row of rows) {
    const own = tests.filter(({ title }) => numbersOf(title).includes(row));
    if (own.length === 0) {
      missing.push(row);
      log(`${row} has no test`);
    }
    for (const { title, status } of own) {
      log(`${row} ${status === 'passed' ? 'ok' : status.toUpperCase()} ${title}`);
      if (status !== 'passed') failed.push(`${row} ${title}`);
    }
  }
  return { tried: rows.length, violations: missing.length + failed.length, tests: tests.length, missing, failed };
}

/** The numbers a title begins with: `A31 A36: …`. */
function numbersOf(title: string): string[] {
  return (/^(?:[A-Z]\d\d[ ,]*)+(?=:)/.exec(title)?.[0] ?? '').split(/[ ,]+/);
}

async function runNumbered(files: readonly string[], log: Say): Promise<NumberedTest[]> {
  const folder = await mkdtemp(join(tmpdir(), 'milkrun-rows-'));
  try {
    const outputFile = join(folder, 'report.json');
    const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
    const args = ['run', ...files, '--reporter=json', `--outputFile=${outputFile}`];
    log(`vitest ${args.join(' ')}`);
    const child = spawn(process.execPath, [vitest, ...args], {
      cwd: ROOT,
      stdio: ['ignore', 'ignore', 'inherit'],
      timeout: RUN_MS_MAX,
    });
    await once(child, 'close');
    const { testResults } = JSON.parse(await readFile(outputFile, 'utf8')) as {
      readonly testResults: readonly { readonly assertionResults: readonly NumberedTest[] }[];
    };
    const all = testResults.flatMap(({ assertionResults }) => assertionResults);
    return all.filter(({ title }) => numbersOf(title)[0] !== '');
  } finally {
    await rm(folder, { recursive: true });
  }
}
