/** Histories recorded from a real server, replayed by the workflow of today; a change they do not survive is refused. */
import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from '@temporalio/worker';
import { DeterminismViolationError } from '@temporalio/workflow';
import { expect, test } from 'vitest';
import { bundleOf, sourceOf } from './workflow-scene.ts';

const FOLDER = sourceOf('./histories');
const names = readdirSync(FOLDER).filter((name) => name.endsWith('.json'));
const read = (name: string) => JSON.parse(readFileSync(`${FOLDER}/${name}`, 'utf8')) as { events: unknown[] };

test('every end a run can come to is among the recorded histories', () => {
  expect(names.sort()).toEqual(['cancelled.json', 'committed.json', 'failed-step.json', 'forced.json', 'hop.json']);
});

test.each(names)('H25: %s is replayed by the workflow of today', async (name) => {
  await Worker.runReplayHistory({ workflowBundle: await bundleOf() }, read(name));
});

test('H25: a workflow that takes its steps in another order is refused', async () => {
  const workflowBundle = await bundleOf('./fixtures/incompatible-workflows.ts');
  await expect(Worker.runReplayHistory({ workflowBundle }, read('committed.json'))).rejects.toThrow(
    DeterminismViolationError,
  );
});
