/** The server parts, each loaded only when it is to run: a client command starts without the engine's libraries. */
import type { PartInput, PartName, RunningPart } from './serve.ts';

export interface StartInput extends PartInput {
  /** False: refuse to start instead of migrating the database. */
  readonly migrate: boolean;
}

type Start = (input: StartInput) => Promise<RunningPart>;

const LOADERS: Readonly<Record<PartName, () => Promise<Start>>> = {
  worker: async () => (await load<{ startWorker: Start }>('@milkrun/worker')).startWorker,
  api: async () => (await load<{ startApi: Start }>('@milkrun/api')).startApi,
  'poll-function': async () => (await load<{ startPollFunction: Start }>('@milkrun/poll-lambda')).startPollFunction,
};

async function load<T>(specifier: string): Promise<T> {
  return (await import(specifier)) as T;
}

export async function startPart(name: PartName, input: StartInput): Promise<RunningPart> {
  const start = await LOADERS[name]();
  return await start(input);
}
