/** Runs Stryker over files of a scratch copy, in a process of its own, and reads what became of each mutant. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const RUNNER = fileURLToPath(new URL('stryker-run.ts', import.meta.url));

export interface Mutant {
  /** From the repository's root. */
  readonly file: string;
  readonly line: number;
  readonly operator: string;
  /** What stands there in the mutant, on one line. */
  readonly text: string;
  readonly status:
    | 'Killed'
    | 'Survived'
    | 'NoCoverage'
    | 'Timeout'
    | 'Ignored'
    | 'CompileError'
    | 'RuntimeError'
    | 'Pending';
}

export interface MutateInput {
  /** The copy; its files are changed in place. */
  readonly folder: string;
  /** Files, or ranges of lines `file:from-to`. */
  readonly mutated: readonly string[];
  readonly tests: readonly string[];
  readonly pgUrl: string;
}

/** Rejects with what Stryker said when the tests fail without any change. */
export async function mutate({ folder, mutated, tests, pgUrl }: MutateInput): Promise<readonly Mutant[]> {
  const [config, results] = [join(folder, 'vitest.mutation.config.ts'), join(folder, 'mutants.json')];
  writeFileSync(
    config,
    `export default { test: {
      include: ${JSON.stringify(tests)}, exclude: ['**/node_modules/**'],
      globalSetup: ['./packages/testkit/src/vitest-postgres.ts'], testTimeout: 30_000, hookTimeout: 60_000,
    } };\n`,
  );
  const child = spawn(process.execPath, [RUNNER, results, ...mutated], {
    cwd: folder,
    env: { ...process.env, WORKERDB_TEST_URL: pgUrl },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      said = (said + String(chunk)).slice(-4_000);
    });
  }
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`Stryker ended with ${code}: ${said}`);
  return JSON.parse(readFileSync(results, 'utf8')) as Mutant[];
}
