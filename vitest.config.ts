import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{apps,packages}/*/test/**/*.test.ts', '{drills,benches}/test/**/*.test.ts', 'scripts/test/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    globalSetup: ['./packages/testkit/src/vitest-postgres.ts', './packages/testkit/src/vitest-temporal.ts'],
    reporters: ['default', './scripts/reporter.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
