import { expect, test } from 'vitest';
import { boundaryViolations } from '../check-boundaries.ts';

interface Manifest {
  dependencies?: string[];
  devDependencies?: string[];
  exports?: Record<string, string>;
}

/** Messages for a repository of these packages (by folder) and files (by path). */
function messages(packages: Record<string, Manifest>, sources: Record<string, string>): string[] {
  const list = (names: string[] = []): Record<string, string> => Object.fromEntries(names.map((name) => [name, '*']));
  const files = [
    { path: 'package.json', text: JSON.stringify({ devDependencies: { vitest: '1' } }) },
    ...Object.entries(packages).map(([folder, { dependencies, devDependencies, exports }]) => ({
      path: `${folder}/package.json`,
      text: JSON.stringify({
        name: `@milkrun/${folder.split('/').at(-1)}`,
        exports: exports ?? { '.': './src/index.ts', './workflow': './src/workflow.ts' },
        dependencies: list(dependencies),
        devDependencies: list(devDependencies),
      }),
    })),
    ...Object.entries(sources).map(([path, text]) => ({ path, text })),
  ];
  return boundaryViolations(files).map(({ path, line, message }) => `${path}:${line} ${message}`);
}

const core = { 'packages/core': {} };

test('arrows that point to core, and from an app to anything, pass', () => {
  const packages = {
    ...core,
    'packages/workerdb': { dependencies: ['@milkrun/core', 'postgres'], devDependencies: ['@milkrun/testkit'] },
    'packages/testkit': { dependencies: ['@milkrun/core'] },
    'apps/worker': { dependencies: ['@milkrun/workerdb'] },
  };
  const sources = {
    'packages/workerdb/src/index.ts': `import postgres from 'postgres'; import type { Clock } from '@milkrun/core'; import 'node:fs'; export { a } from './a.ts';`,
    'packages/workerdb/test/a.test.ts': `import { test } from 'vitest'; import { startPg } from '@milkrun/testkit'; import '../src/a.ts';`,
    'apps/worker/src/main.ts': `import { claim } from '@milkrun/workerdb';`,
  };
  expect(messages(packages, sources)).toEqual([]);
});

test('an adapter may not import another, not even its types', () => {
  const packages = { ...core, 'packages/workerdb': { dependencies: ['@milkrun/config'] }, 'packages/config': {} };
  const sources = { 'packages/workerdb/src/index.ts': `\nimport type { Config } from '@milkrun/config';` };
  expect(messages(packages, sources)).toEqual([
    'packages/workerdb/src/index.ts:2 workerdb may import only core, migrator: put the shared part into core as a port, and wire @milkrun/config in an app',
  ]);
});

test('the engine may use only its libraries', () => {
  const packages = { ...core, 'packages/dispatch': { dependencies: ['undici', '@temporalio/client'] } };
  const sources = { 'packages/dispatch/src/a.ts': `import '@temporalio/client'; const u = await import('undici');` };
  expect(messages(packages, sources)).toEqual([expect.stringContaining('dispatch may not use undici')]);
});

test.each([
  [`import { a } from '@milkrun/core/src/a.ts';`, 'goes past the front door'],
  [`import { a } from '../../core/src/a.ts';`, 'leaves the package'],
  [`import { a } from 'zod';`, 'zod is not listed: add it to dependencies of packages/config/package.json'],
  [`export * from './a.ts';`, '"export *" hides'],
])('%s', (text, message) => {
  const packages = { ...core, 'packages/config': { dependencies: ['@milkrun/core'] } };
  expect(messages(packages, { 'packages/config/src/index.ts': text })).toEqual([expect.stringContaining(message)]);
});

test('a development dependency does not serve sources', () => {
  const packages = { 'packages/config': { devDependencies: ['zod'] } };
  const sources = {
    'packages/config/src/index.ts': `import 'zod'; import 'vitest';`,
    'packages/config/test/a.test.ts': `import 'zod'; import 'vitest';`,
  };
  expect(messages(packages, sources)).toHaveLength(2);
});

test('a workflow may load workflow libraries, workflow entries and types', () => {
  const packages = {
    ...core,
    'packages/dispatch': { dependencies: ['@milkrun/core', '@temporalio/workflow', '@temporalio/activity'] },
  };
  const sources = {
    'packages/core/src/workflow.ts': `export { chunk } from './chunk.ts';`,
    'packages/core/src/chunk.ts': '',
    'packages/dispatch/src/workflow.ts': `
      import { sleep } from '@temporalio/workflow';
      import { chunk } from '@milkrun/core/workflow';
      import type { Clock } from '@milkrun/core';
      import type * as activities from './activities/tick.ts';
      import { LIMIT } from './limits.ts';`,
    'packages/dispatch/src/limits.ts': '',
    'packages/dispatch/src/activities/tick.ts': `import { Context } from '@temporalio/activity'; import 'node:fs';`,
  };
  expect(messages(packages, sources)).toEqual([]);
});

test.each([
  [`import { tick } from './activities/tick.ts';`, 'write "import type" for activities'],
  [`import { type Tick } from './activities/tick.ts';`, 'write "import type" for activities'],
  [`import { createHash } from 'node:crypto';`, 'workflows have no Node built-ins'],
  [`import { createHash } from 'crypto';`, 'workflows have no Node built-ins'],
  [`import { Clock } from '@milkrun/core';`, 'import types only, or the value from @milkrun/core/workflow'],
  [`import { Context } from '@temporalio/activity';`, 'write "import type", or use it in an activity'],
  [
    `import { a } from './helper.ts';`,
    'is loaded into workflow packages/dispatch/src/workflow.ts by packages/dispatch/src/workflow.ts',
  ],
])('H26: a workflow may not load %s', (text, message) => {
  const packages = {
    ...core,
    'packages/dispatch': { dependencies: ['@milkrun/core', '@temporalio/activity'] },
  };
  const sources = {
    'packages/dispatch/src/workflow.ts': text,
    'packages/dispatch/src/helper.ts': `import 'node:fs';`,
    'packages/dispatch/src/activities/tick.ts': '',
  };
  expect(messages(packages, sources)).toEqual([expect.stringContaining(message)]);
});

test('cycles are named, also over development dependencies', () => {
  const packages = {
    'packages/core': { devDependencies: ['@milkrun/testkit'] },
    'packages/testkit': { dependencies: ['@milkrun/core'] },
  };
  expect(messages(packages, {})).toEqual([
    expect.stringContaining('cycle @milkrun/core → @milkrun/testkit → @milkrun/core'),
  ]);
});

test('a package without arrows must get some', () => {
  expect(messages({ 'packages/novelty': {} }, {})).toEqual([expect.stringContaining('novelty has no arrows')]);
});
