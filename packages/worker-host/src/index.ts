export { type BundleInput, bundleWorkflows, type WorkflowBundle } from './bundle.ts';
export {
  type ConnectionFactory,
  type HostConnection,
  isRefused,
  isUnreachable,
  temporalConnection,
} from './connection.ts';
export type { QueueOptions } from './options.ts';
export { createDataConverter, createPayloadCodec, PayloadUnreadable } from './payload-codec.ts';
export { type HostProcess, type HostProcessInput, openHostProcess } from './process.ts';
export type { Backoff, RestartBudget } from './restarts.ts';
export { installTemporalRuntime, type TemporalRuntimeOptions } from './runtime.ts';
export { classifyFailure, type RetryClass, type RetryClassifier } from './steps.ts';
export type { HostedWorker, QueueParts, QueueState, QueueStatus } from './supervised-queue.ts';
export { createWorkerHost, type WorkerHost, WorkerHostFatal, type WorkerHostOptions } from './worker-host.ts';
