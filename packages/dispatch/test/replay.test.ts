/** Histories of timer shards recorded from a real server, replayed by the workflow of today; and what its bundle holds. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { DeterminismViolationError } from '@temporalio/workflow';
import { beforeAll, expect, test } from 'vitest';
import * as workflows from '../src/workflow.ts';

const logger = new DefaultLogger('ERROR', () => undefined);
Runtime.install({ logger, telemetryOptions: { logging: { forward: {}, filter: { core: 'ERROR', other: 'ERROR' } } } });

const pathOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const bundle = (name: string) => bundleWorkflowCode({ workflowsPath: pathOf(name), logger });
const names = readdirSync(pathOf('./histories')).filter((name) => name.endsWith('.json'));
const read = (name: string) => JSON.parse(readFileSync(pathOf(`./histories/${name}`), 'utf8')) as { events: unknown[] };

let today: { code: string };
beforeAll(async () => {
  today = await bundle('../src/workflow.ts');
});

test('the recorded histories are there: armed, armed often (also when the gap was a timer), and with failing ticks', () => {
  expect(names.sort()).toEqual(['armed.json', 'failing-tick.json', 'many-arms-sleeping.json', 'many-arms.json']);
});

test.each(names)('%s is replayed by the workflow of today', async (name) => {
  await Worker.runReplayHistory({ workflowBundle: today }, read(name));
});

test('H25: a workflow that sleeps before it ticks is refused', async () => {
  const workflowBundle = await bundle('./fixtures/incompatible-workflows.ts');
  await expect(Worker.runReplayHistory({ workflowBundle }, read('armed.json'))).rejects.toThrow(
    DeterminismViolationError,
  );
});

test('the bundle registers the approved workflow name and no other', () => {
  const registered = Object.entries(workflows).flatMap(([name, value]) => (typeof value === 'function' ? [name] : []));
  expect(registered).toEqual(['TimerShard']);
});

test('the bundle is small and free of Node, and one that reaches for Node is refused', async () => {
  expect(today.code.length).toBeLessThan(4_000_000);
  expect(today.code).not.toMatch(/require\(["'](node:)?(crypto|fs|net|http|os|path|child_process)["']\)/);
  await expect(bundle('./fixtures/node-workflows.ts')).rejects.toThrow();
});
