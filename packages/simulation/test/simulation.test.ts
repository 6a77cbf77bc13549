/**
 * Whole runs: the engine's own steps, decisions and loops over simulated ports, under faults that the seed chooses, then
 * without any until all is at rest. What must hold is in `src/checkers.ts`; a finding prints how to see it again.
 */
import { expect, test } from 'vitest';
import { FOUND_SEEDS, reportOf, simulate } from '../src/index.ts';

const FRESH_FROM = 20_000;
const EACH = 10;
const PARTS = Array.from({ length: 6 }, (_, part) => FRESH_FROM + part * EACH);

test.each(FOUND_SEEDS)('seed $seed stays found and mended: $found', async ({ seed }) => {
  const run = await simulate(seed);
  expect(run.findings, reportOf(run)).toEqual([]);
});

test.each(PARTS)('seeds from %i on hold every invariant, and their runs are not idle', async (from) => {
  let faults = 0;
  let edits = 0;
  for (let seed = from; seed < from + EACH; seed += 1) {
    const run = await simulate(seed);
    expect(run.findings, reportOf(run)).toEqual([]);
    faults += run.fired.length;
    edits += run.edits.length;
  }
  expect(faults).toBeGreaterThan(EACH);
  expect(edits).toBeGreaterThan(EACH);
});

test('a seed is one run: told twice, it is the same to the byte', async () => {
  const [first, second] = [await simulate(55, { keepTrace: true }), await simulate(55, { keepTrace: true })];
  expect(second.trace).toEqual(first.trace);
  expect(second.traceHash).toBe(first.traceHash);
  expect((await simulate(56)).traceHash).not.toBe(first.traceHash);
});
