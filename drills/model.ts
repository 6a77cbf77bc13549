/** Random commands at the engine and at a reference that knows only what must hold; more of them than the tests run. */
import { randomUUID } from 'node:crypto';
import type { WorkerDb } from '@milkrun/workerdb';
import fc from 'fast-check';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { commands, Model, Real } from './lib/model.ts';
import { openDrillDb } from './lib/workerdb.ts';

const COMMANDS_MAX = 60;

export const drill: Drill = {
  name: 'model',
  about:
    'Whatever happens to a batch and its triggers, PostgreSQL, steps and snapshot say what a small reference says.',
  defaults: { count: 100 },
  fullCount: 2_000,
  ciCount: 15,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const opened = await openDrillDb();
    try {
      const { tried, commandsRun, failure } = await checkModel(opened.db, {
        runs: count,
        seed,
        commandsMax: COMMANDS_MAX,
      });
      if (failure !== undefined) log(failure);
      return { tried, commands: commandsRun, violations: failure === undefined ? 0 : 1 };
    } finally {
      await opened.close();
    }
  },
};

/** Runs the property; `failure` holds the shrunk commands and how they can be run again. */
export async function checkModel(
  db: WorkerDb,
  { runs, seed, commandsMax }: { readonly runs: number; readonly seed: number; readonly commandsMax: number },
): Promise<{ readonly tried: number; readonly commandsRun: number; readonly failure: string | undefined }> {
  let commandsRun = 0;
  const property = fc.asyncProperty(commands(commandsMax), async (list) => {
    const model = new Model(Array.from({ length: 3 }, () => randomUUID()));
    const real = new Real(db, model);
    await real.reset();
    try {
      await fc.asyncModelRun(() => ({ model, real }), list);
      commandsRun += real.commands;
    } finally {
      await real.close();
    }
  });
  const details = await fc.check(property, { numRuns: runs, seed, endOnFailure: false });
  return {
    tried: details.numRuns,
    commandsRun,
    failure: details.failed ? fc.defaultReportMessage(details) : undefined,
  };
}
