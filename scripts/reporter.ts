import type { Reporter, TestModule } from 'vitest/node';

export interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

/** Counts tests; a file that did not load, a suite whose hook failed and an unhandled error count as one failed each. */
export function countTests(modules: readonly TestModule[], unhandledErrors: number): Totals {
  const totals: Totals = { passed: 0, failed: unhandledErrors, skipped: 0 };
  for (const module of modules) {
    // These have no failed test of their own.
    if (module.errors().length > 0) totals.failed += 1;
    for (const suite of module.children.allSuites()) if (suite.errors().length > 0) totals.failed += 1;
    for (const test of module.children.allTests()) {
      const { state } = test.result();
      totals[state === 'passed' || state === 'failed' ? state : 'skipped'] += 1;
    }
  }
  return totals;
}

/** The run's last lines: `N skipped` when there are any, then always `N passed, N failed`. */
export function closingLines({ passed, failed, skipped }: Totals): string {
  return `${skipped > 0 ? `${skipped} skipped\n` : ''}${passed} passed, ${failed} failed\n`;
}

/** Vitest reporter that prints the closing lines when the process exits, so that nothing comes after them. */
export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const lines = closingLines(countTests(modules, unhandledErrors.length));
    process.on('exit', () => process.stdout.write(lines));
  }
}
