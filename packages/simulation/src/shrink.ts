/**
 * Makes a failing run smaller: faults and users' edits are left out, halves first, for as long as the same invariant is
 * still broken. What is left is what a person has to understand.
 */
import { type Run, simulate } from './simulate.ts';

export interface Shrunk {
  readonly run: Run;
  readonly withoutFaults: readonly number[];
  readonly withoutEdits: readonly number[];
  /** Runs it took. */
  readonly tries: number;
}

const TRIES_MAX = 120;

export async function shrink(seed: number, triesMax = TRIES_MAX): Promise<Shrunk> {
  let best = await simulate(seed);
  const broken = new Set(best.findings.map(({ checker }) => checker));
  const without = { faults: new Set<number>(), edits: new Set<number>() };
  let tries = 1;

  /** Tries without these numbers too; keeps that when something is still broken. */
  async function leaveOut(what: 'faults' | 'edits', numbers: readonly number[]): Promise<boolean> {
    if (tries >= triesMax) return false;
    const tried = { ...without, [what]: new Set([...without[what], ...numbers]) };
    const run = await simulate(seed, { withoutFaults: tried.faults, withoutEdits: tried.edits });
    tries += 1;
    if (!run.findings.some(({ checker }) => broken.has(checker))) return false;
    for (const number of numbers) without[what].add(number);
    best = run;
    return true;
  }

  async function reduce(what: 'faults' | 'edits', numbers: readonly number[]): Promise<void> {
    for (let size = numbers.length; size >= 1; size = Math.floor(size / 2)) {
      for (let at = 0; at < numbers.length; at += size) {
        const part = numbers.slice(at, at + size).filter((number) => !without[what].has(number));
        if (part.length > 0) await leaveOut(what, part);
      }
    }
  }

  await reduce(
    'edits',
    best.edits.map((edit) => Number.parseInt(edit, 10)),
  );
  // Another run may fire other faults: their numbers go on, so those of all runs are tried.
  for (let round = 0; round < 3; round += 1) {
    const before = best.fired.length;
    await reduce(
      'faults',
      best.fired.map(({ number }) => number),
    );
    if (best.fired.length === before) break;
  }
  const { faults, edits } = without;
  const run = await simulate(seed, { withoutFaults: faults, withoutEdits: edits, keepTrace: true });
  return { run, withoutFaults: [...faults], withoutEdits: [...edits], tries };
}
