import { createDatabase } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';
import { expect, inject, test } from 'vitest';
import { checkModel } from '../model.ts';

test('whatever happens to a batch and its triggers, the engine says what the reference says', {
  timeout: 120_000,
}, async () => {
  const db = await openWorkerDb({ url: await createDatabase(inject('pgUrl')), connections: 4 });
  try {
    await db.ensureTimerShards(1);
    const { failure, commandsRun } = await checkModel(db, { runs: 12, seed: 1, commandsMax: 40 });
    expect(failure).toBeUndefined();
    expect(commandsRun).toBeGreaterThan(100);
  } finally {
    await db.close();
  }
});
