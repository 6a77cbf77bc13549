/** The rows H01 to H30 of the worker host's list, each with the tests that carry its number in their titles, run. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const ROWS = Array.from({ length: 30 }, (_, i) => `H${String(i + 1).padStart(2, '0')}`);
const FILES = [
  'packages/worker-host/test',
  'packages/batch-poller/test/replay.test.ts',
  'packages/dispatch/test/replay.test.ts',
  'scripts/test/check-house.test.ts',
  'scripts/test/check-boundaries.test.ts',
];

interface Report {
  readonly testResults: readonly { readonly assertionResults: readonly { title: string; status: string }[] }[];
}

export const drill: Drill = {
  name: 'host-rows',
  about: 'Every row of the worker host’s list has tests that carry its number, and they pass.',
  defaults: { count: ROWS.length },
  async run({ log }: DrillInput): Promise<DrillResult> {
    const tests = await numberedTests(log);
    const missing: string[] = [];
    const failed: string[] = [];
    for (const row of ROWS) {
      const own = tests.filter(({ title }) => (/^[H\d, ]+(?=:)/.exec(title)?.[0] ?? '').includes(row));
      if (own.length === 0) missing.push(row);
      for (const { title, status } of own) {
        log(`${row} ${status === 'passed' ? 'ok' : status.toUpperCase()} ${title}`);
        if (status !== 'passed') failed.push(title);
      }
    }
    for (const row of missing) log(`${row} has no test`);
    return { tried: ROWS.length, violations: missing.length + failed.length, tests: tests.length, missing, failed };
  },
};

async function numberedTests(log: (line: string) => void): Promise<{ title: string; status: string }[]> {
  const folder = await mkdtemp(join(tmpdir(), 'milkrun-rows-'));
  try {
    const outputFile = join(folder, 'report.json');
    const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
    const args = [vitest, 'run', ...FILES, '-t', '^H\\d\\d', '--reporter=json', `--outputFile=${outputFile}`];
    log(`vitest ${args.slice(1).join(' ')}`);
    const child = spawn(process.execPath, args, {
      cwd: ROOT,
      stdio: ['ignore', 'ignore', 'inherit'],
      timeout: 300_000,
    });
    await once(child, 'close');
    const { testResults } = JSON.parse(await readFile(outputFile, 'utf8')) as Report;
    const all = testResults.flatMap(({ assertionResults }) => assertionResults);
    return all.filter(({ title }) => /^H\d\d/.test(title));
  } finally {
    await rm(folder, { recursive: true });
  }
}
