import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{apps,packages}/*/test/**/*.test.ts', '{drills,benches}/test/**/*.test.ts', 'scripts/test/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    globalSetup: ['./packages/testkit/src/vitest-postgres.ts', './packages/testkit/src/vitest-temporal.ts'],
    reporters: ['default', './scripts/reporter.ts'],
    // Half of the time is waiting for servers: a worker a core keeps the cores busy, where the default takes one less.
    maxWorkers: availableParallelism(),
    // Above PATIENCE: what was waited for in vain is named, and only a fault gets there.
    testTimeout: 120_000,
    hookTimeout: 180_000,
  },
});
