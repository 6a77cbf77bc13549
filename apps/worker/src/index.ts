export { startLegacyWorker } from './legacy-worker.ts';
export type { WorkerPorts, WrapPort } from './ports.ts';
export { type RunningWorker, startWorker, type WorkerInput } from './start-worker.ts';
