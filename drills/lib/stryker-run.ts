/** `node stryker-run.ts RESULTS FILE...`, in the folder to change: one Stryker run; writes its mutants as JSON. */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Stryker } from '@stryker-mutator/core';

const [, , results = '', ...mutate] = process.argv;

const mutants = await new Stryker({
  mutate,
  testRunner: 'vitest',
  plugins: [fileURLToPath(import.meta.resolve('@stryker-mutator/vitest-runner'))],
  vitest: { configFile: 'vitest.mutation.config.ts', related: false },
  coverageAnalysis: 'perTest',
  // A sandbox of its own would link the packages to the ones outside it.
  inPlace: true,
  concurrency: 1,
  timeoutMS: 5_000,
  timeoutFactor: 2,
  mutator: { excludedMutations: ['StringLiteral'] },
  reporters: [],
}).runMutationTest();

writeFileSync(
  results,
  JSON.stringify(
    mutants.map(({ fileName, location, mutatorName, replacement, status }) => ({
      file: relative(process.cwd(), fileName),
      line: location.start.line,
      operator: mutatorName,
      text: (replacement ?? '').replace(/\s+/g, ' ').slice(0, 120),
      status,
    })),
  ),
);
