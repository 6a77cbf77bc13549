/** `npm run drill -- gate`: every drill that can run in some ten seconds, one after the other, each in its own process. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Drill } from './types.ts';

/** Stands where a drill's name does. */
export const GATE = 'gate';
/** A drill that has not ended by then failed. */
const DRILL_MS_MAX = 240_000;
/** The same for every run: a gate must not be red by chance. Fresh seeds are drawn outside it. */
const GATE_SEED = '1';

export interface GateDrill {
  readonly name: string;
  readonly count: number;
}

export interface GateInput {
  readonly folder: URL;
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
}

export function drillsInGate(drills: readonly Drill[]): GateDrill[] {
  return drills.flatMap(({ name, ciCount }) => (ciCount === undefined ? [] : [{ name, count: ciCount }]));
}

/** Runs them; the last line is `N passed, N failed`. Resolves to the exit code. */
export async function runGate(drills: readonly GateDrill[], { folder, out, err }: GateInput): Promise<number> {
  let failed = 0;
  for (const { name, count } of drills) {
    const { code, stdout, stderr } = await runOne(folder, name, count);
    const held = code === 0;
    if (!held) {
      failed += 1;
      err(`${stderr}\n`);
    }
    out(`${held ? 'ok    ' : 'FAILED'} ${name} ${stdout.trimEnd().split('\n').at(-1) ?? ''}\n`);
  }
  out(`${drills.length - failed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

async function runOne(folder: URL, name: string, count: number) {
  const main = fileURLToPath(new URL('run.ts', folder));
  const child = spawn(process.execPath, [main, name, '--count', String(count), '--seed', GATE_SEED, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: DRILL_MS_MAX,
    killSignal: 'SIGKILL',
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk) => (stdout += String(chunk)));
  child.stderr.on('data', (chunk) => (stderr += String(chunk)));
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  if (signal !== null) stderr += `${name}: ended by ${signal}, after ${DRILL_MS_MAX / 1000} s at most\n`;
  return { code, stdout, stderr };
}
