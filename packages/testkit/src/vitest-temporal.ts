/** vitest global setup: one Temporal server a run, named to the test files as `inject('temporalAddress')`. */
import type { TestProject } from 'vitest/node';
import { startTemporal } from './temporal.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** `host:port`; namespace `default`. Isolate by fresh task queues and workflow ids. */
    temporalAddress: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await startTemporal();
  project.provide('temporalAddress', server.address);
  return () => server.stop();
}
