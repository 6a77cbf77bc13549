export { type RunningWorker, startWorker, type WorkerInput } from './start-worker.ts';
