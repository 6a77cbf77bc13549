export { systemClock, systemRng } from './clock.ts';
export type { AtCommit, Code, InBatch, Verdict, VerdictClass, VerdictCode } from './codes.ts';
export { haltCodeOf, isVerdictCode, OTHER_CODES, VERDICTS, verdictOf } from './codes.ts';
export { eventIdOf, keyHashOf, STORAGE_SHARDS, storageShardOf } from './ids.ts';
export type {
  BatchCheck,
  BatchStep,
  BatchStore,
  ClaimedTrigger,
  ClaimResult,
  CommitException,
  CommitInput,
  CommitResult,
  CommitRow,
  DeadLetter,
  DedupeStrategy,
  ExtendInput,
  HeldEvent,
  LeasedKey,
  PollPolicy,
  RowOutcome,
  StoredEvent,
  TriggerState,
} from './ports/batch-store.ts';
export type { Clock } from './ports/clock.ts';
export type {
  ConnectionAnswer,
  ConnectionAsk,
  ControlPlane,
  DeletedTrigger,
  FeedAnswer,
  FeedChange,
  LifecycleEcho,
  LifecycleRecord,
  StateAnswer,
  StateResult,
  StateStatus,
  TriggerChange,
} from './ports/control-plane.ts';
export type {
  DispatchStore,
  FeedPageInput,
  FeedPageResult,
  LivenessReport,
  PlannedBatch,
  TickInput,
  TickResult,
  Violation,
} from './ports/dispatch-store.ts';
export type { KeyProvider } from './ports/key-provider.ts';
export type { Log, Metrics, Tags } from './ports/metrics.ts';
export { noLog, noMetrics } from './ports/metrics.ts';
export { type ObjectStore, ObjectStoreUnavailable } from './ports/object-store.ts';
export type { PolledItem, PollPage, PollReply, PollRequest, PollRunner } from './ports/poll-runner.ts';
export type { Rng } from './ports/rng.ts';
export type { TimerManager } from './ports/timer-manager.ts';
export { isUuid, uuidv7 } from './uuid.ts';
export { batchIdOf, timerShardOfBatchId, timerShardOfWorkflowId, timerShardWorkflowIdOf } from './workflow-ids.ts';
