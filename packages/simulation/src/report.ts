/** How a run that found something is told to a person: the seed, what it found, and how to run it again. */
import type { Run } from './simulate.ts';

const FINDINGS_MAX = 5;

export const rerunCommand = (seed: number): string => `npm run drill -- simulate --seed ${seed} --count 1 --trace`;

export function reportOf(run: Run): string {
  const found = run.findings.slice(0, FINDINGS_MAX).map(({ checker, message }) => `  ${checker}: ${message}`);
  const faults = run.fired.map(
    ({ number, timeMs, kind, site }) => `  ${number}. ${(timeMs / 1000).toFixed(1)} s ${kind} ${site}`,
  );
  return [
    `seed ${run.seed}`,
    ...found,
    `faults: ${run.fired.length}`,
    ...faults.slice(0, 40),
    `edits: ${run.edits.length}`,
    ...run.edits.map((edit) => `  ${edit}`),
    `again: ${rerunCommand(run.seed)}`,
  ].join('\n');
}
