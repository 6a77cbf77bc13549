/** The rows H01 to H30 of the worker host's list, each with the tests that carry its number in their titles, run. */
import type { Drill } from './lib/index.ts';
import { checkRows } from './lib/numbered-tests.ts';

const ROWS = Array.from({ length: 30 }, (_, i) => `H${String(i + 1).padStart(2, '0')}`);
const FILES = [
  'packages/worker-host/test',
  'packages/batch-poller/test/replay.test.ts',
  'packages/dispatch/test/replay.test.ts',
  'scripts/test/check-house.test.ts',
  'scripts/test/check-boundaries.test.ts',
];

export const drill: Drill = {
  name: 'host-rows',
  about: 'Every row of the worker host’s list has tests that carry its number, and they pass.',
  defaults: { count: ROWS.length },
  run: ({ log }) => checkRows({ rows: ROWS, files: FILES, log }),
};
