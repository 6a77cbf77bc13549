import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { effectViolations } from '../check-effects.ts';

const path = 'apps/worker/src/start-worker.ts';
const messages = (text: string): string[] =>
  effectViolations([{ path, text }]).map(({ line, message }) => `${line} ${message}`);

test.each([
  [`import { openWorkerDb } from '@milkrun/workerdb';\nconst db = await openWorkerDb({});`, 'openWorkerDb'],
  [`import { Client } from '@temporalio/client';\nconst client = new Client({});`, 'Client'],
  [
    `import { createBatchActivities } from '@milkrun/batch-poller';\nrun(createBatchActivities(deps));`,
    'createBatchActivities',
  ],
  [`import { openOther } from '@milkrun/object-store';\nconst other = openOther();`, 'openOther'],
])('an adapter that is made outside of port() is refused: %s', (text, name) => {
  expect(messages(text)).toEqual([expect.stringContaining(`2 ${name} reaches the world outside of port(…)`)]);
});

test('inside of port(), however deep, and without an effect, it passes', () => {
  expect(
    messages(`
      import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';
      import { Client, Connection } from '@temporalio/client';
      const db = port('store', await openWorkerDb({}));
      const client = port('temporal', new Client({ connection: Connection.lazy({}) }));
    `),
  ).toEqual([]);
});

test('the worker as it is: it is seen through, and a port taken away is found', () => {
  const files = ['start-worker.ts', 'parts.ts'].map((name) => {
    const file = `apps/worker/src/${name}`;
    return { path: file, text: readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8') };
  });
  expect(effectViolations(files)).toEqual([]);
  const bare = files.map(({ path: file, text }) => ({ path: file, text: text.replaceAll('port(', 'other(') }));
  expect(effectViolations(bare).length).toBeGreaterThanOrEqual(8);
});
