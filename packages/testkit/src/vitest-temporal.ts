/** vitest global setup: one Temporal server a run, named to the test files as `inject('temporalAddress')`. */
import type { TestProject } from 'vitest/node';
import { startTemporal } from './temporal.ts';

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await startTemporal();
  project.provide('temporalAddress', server.address);
  return () => server.stop();
}
