/**
 * `npm test`, whole, run after run: each must be green, without a retry, and run as many tests as the one before it.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const RUN_MS_MAX = 30 * 60_000;
const TAIL_CHARS = 200_000;

interface Run {
  readonly passed: number;
  readonly failed: number;
  readonly exitCode: number | null;
  readonly seconds: number;
}

export const drill: Drill = {
  name: 'flaky',
  about: 'The whole test suite is green every time, with nothing tried twice.',
  defaults: { count: 2 },
  fullCount: 20,
  async run({ count, log }: DrillInput): Promise<DrillResult> {
    const runs: Run[] = [];
    let violations = 0;
    for (let n = 1; n <= count; n += 1) {
      const { run, failures } = await testOnce();
      runs.push(run);
      log(`run ${n} of ${count}: ${run.passed} passed, ${run.failed} failed, ${run.seconds} s`);
      const isGreen = run.exitCode === 0 && run.failed === 0 && run.passed > 0;
      if (isGreen && run.passed === runs[0]?.passed) continue;
      violations += 1;
      log(`violation: run ${n} ended with ${run.exitCode}${failures.map((line) => `\n  ${line}`).join('')}`);
    }
    return { tried: runs.reduce((sum, { passed }) => sum + passed, 0), violations, runs };
  },
};

async function testOnce(): Promise<{ run: Run; failures: readonly string[] }> {
  const startedAt = performance.now();
  const child = spawn('npm', ['test'], {
    cwd: ROOT,
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: RUN_MS_MAX,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      said = (said + String(chunk)).slice(-TAIL_CHARS);
    });
  }
  const [exitCode] = (await once(child, 'close')) as [number | null];
  const [, passed = '0', failed = '0'] = [...said.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1) ?? [];
  const seconds = Number(((performance.now() - startedAt) / 1000).toFixed(1));
  const failures = [...new Set(said.split('\n').filter((line) => /^\s*(FAIL|×)\s/.test(line)))].slice(0, 50);
  return { run: { passed: Number(passed), failed: Number(failed), exitCode, seconds }, failures };
}
