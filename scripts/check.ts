/**
 * `npm run check`: every check that is no test. All of them run, the output of those that fail is shown, and the last
 * line is `N passed, N failed`. Arguments choose checks by name.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from './lib/process.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { packageManager: string };
const turbo = ['-y', packageManager, 'exec', 'turbo'];

/** Name, program, arguments. turbo must run below pnpm. */
const CHECKS: readonly [name: string, program: string, args: string[]][] = [
  ['format', 'biome', ['ci', '--colors=off', '.']],
  ['types', 'npx', [...turbo, 'run', 'typecheck', '--continue', '--output-logs=errors-only', '--no-color']],
  ['dead-code', 'knip', ['--no-progress', '--no-config-hints']],
  ['boundaries', process.execPath, ['scripts/check-boundaries.ts']],
  ['declared-imports', 'npx', [...turbo, 'boundaries', '--no-color']],
  ['house', process.execPath, ['scripts/check-house.ts']],
  ['effects', process.execPath, ['scripts/check-effects.ts']],
];

const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !CHECKS.some(([known]) => known === name));
if (unknown !== undefined) {
  console.error(`no check "${unknown}"; there are: ${CHECKS.map(([name]) => name).join(', ')}`);
  process.exit(2);
}

const totals = { passed: 0, failed: 0 };
for (const [name, program, args] of CHECKS) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const started = performance.now();
  const { code, output } = await run(program, args, { cwd: root });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  totals[code === 0 ? 'passed' : 'failed'] += 1;
  if (code !== 0) console.log(output.trimEnd());
  console.log(`${code === 0 ? 'ok    ' : 'FAILED'} ${name} ${seconds} s`);
}
console.log(`${totals.passed} passed, ${totals.failed} failed`);
if (totals.failed > 0) process.exitCode = 1;
