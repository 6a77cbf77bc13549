/**
 * Both pipelines may run side by side, in one worker or in several: their workflow names, task queues, workflow ids and tables
 * are disjoint. A name added to either must be added here.
 */
import * as v2 from '@milkrun/batch-poller/workflow';
import {
  batchIdOf,
  LEGACY_QUEUE,
  LEGACY_WORKFLOW,
  legacyWorkflowIdOf,
  QUEUES,
  timerShardWorkflowIdOf,
  triggerIdOfLegacyWorkflowId,
  WORKFLOWS,
} from '@milkrun/core';
import * as dispatch from '@milkrun/dispatch/workflow';
import * as legacy from '@milkrun/legacy-poller/workflow';
import * as migration from '@milkrun/migration/workflow';
import { openLegacyStore } from '@milkrun/registrydb';
import { createDatabase } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';
import postgres from 'postgres';
import { expect, inject, test } from 'vitest';

const registered = (module: object): string[] =>
  Object.entries(module).flatMap(([name, value]) => (typeof value === 'function' ? [name] : []));
const ID = '019ab8f2-0000-7000-8000-000000000001';

test('the registered workflow names are the approved ones, and no two are the same', () => {
  expect(registered(legacy)).toEqual([LEGACY_WORKFLOW]);
  const all = [v2, dispatch, legacy, migration].flatMap(registered);
  expect(all).toEqual(['BatchPoller', 'TimerShard', 'PollingTriggerWorkflow', 'HandOff', 'Migration']);
  expect(Object.values(WORKFLOWS)).not.toContain(LEGACY_WORKFLOW);
});

test('task queues and workflow ids are disjoint', () => {
  expect(Object.values(QUEUES)).not.toContain(LEGACY_QUEUE);
  expect(triggerIdOfLegacyWorkflowId(legacyWorkflowIdOf(ID))).toBe(ID);
  expect(triggerIdOfLegacyWorkflowId(batchIdOf(0, ID))).toBeUndefined();
  expect(triggerIdOfLegacyWorkflowId(timerShardWorkflowIdOf(0))).toBeUndefined();
});

test('the tables are disjoint: neither database has one of the other pipeline', async () => {
  const [registryUrl, workerUrl] = await Promise.all([
    createDatabase(inject('pgUrl')),
    createDatabase(inject('pgUrl')),
  ]);
  await (await openLegacyStore({ url: registryUrl })).close();
  await (await openWorkerDb({ url: workerUrl })).close();
  const [ofRegistry, ofWorker] = await Promise.all([tablesOf(registryUrl), tablesOf(workerUrl)]);
  expect(ofRegistry.filter((name) => name.startsWith('legacy_'))).toEqual([
    'legacy_dead_letters',
    'legacy_held_events',
    'legacy_triggers',
  ]);
  expect(ofRegistry.filter((name) => /^(polling_|batch|timer_|held_)/.test(name))).toEqual([]);
  expect(ofWorker.filter((name) => name.startsWith('legacy_'))).toEqual([]);
});

async function tablesOf(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1 });
  try {
    const rows = await sql<{ name: string }[]>`
      select table_name as name from information_schema.tables where table_schema = 'public' order by 1`;
    return rows.map(({ name }) => name);
  } finally {
    await sql.end();
  }
}
