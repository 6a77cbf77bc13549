export type { BatchPolicy, BatchPollerInput } from './batch-policy.ts';
export { hopBackoffSeconds, isForced, QUEUES, STEP_BUDGET_SECONDS, WORKFLOWS } from './batch-policy.ts';
export { canonicalJson } from './canonical-json.ts';
export { halve } from './chunking.ts';
export { systemClock, systemRng } from './clock.ts';
export type { AtCommit, Code, InBatch, Verdict, VerdictClass, VerdictCode } from './codes.ts';
export { haltCodeOf, isVerdictCode, OTHER_CODES, VERDICTS, verdictOf } from './codes.ts';
export {
  type ChainState,
  decidePage,
  EVENT_BYTES_MAX,
  newChain,
  type PageEvent,
  type PageInput,
  type PageOutcome,
  type Prime,
} from './dedupe.ts';
export { assertTransition, type EntryStateName, ImpossibleTransition, TRANSITIONS } from './entry.ts';
export { cloudEventJson, type EventSource, eventTypeOf, hasUncleanText } from './event.ts';
export { eventIdOf, keyHashOf, STORAGE_SHARDS, storageShardOf } from './ids.ts';
export { LEGACY_QUEUE, LEGACY_WORKFLOW, legacyWorkflowIdOf, triggerIdOfLegacyWorkflowId } from './legacy-names.ts';
export { nearest } from './nearest.ts';
export { decodePollState, encodePollState } from './poll-state.ts';
export type {
  ActivityStore,
  Admission,
  AdmitInput,
  ClosedRun,
  CloseRunInput,
  NewEvent,
  NewTask,
  OpenedRun,
  OpenRunDecision,
  OpenRunFacts,
  OpenRunInput,
  PlannedTaskRef,
  RunHolder,
  RunRecord,
  RunStatus,
  TaskCounts,
  TaskOutcome,
  TaskRecord,
  TaskStatus,
} from './ports/activity-store.ts';
export type { AloneInput, AlonePoller } from './ports/alone-poller.ts';
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
export type {
  CarriedObjects,
  CarriedTrigger,
  Direction,
  EngineHandOffs,
  HandOffKey,
  HandOffRefusal,
  LegacyHandOffs,
  MigrationScope,
  Sealed,
} from './ports/hand-off.ts';
export type { CollectDecision, Collected, CollectFacts, InboxStore } from './ports/inbox-store.ts';
export type { KeyProvider } from './ports/key-provider.ts';
export type { LegacyCommit, LegacyDue, LegacyRead, LegacyStore } from './ports/legacy-store.ts';
export type { Log, Metrics, Tags } from './ports/metrics.ts';
export { noLog, noMetrics } from './ports/metrics.ts';
export { type ObjectStore, ObjectStoreUnavailable, ObjectTooLarge } from './ports/object-store.ts';
export type { PolledItem, PollPage, PollReply, PollRequest, PollRunner } from './ports/poll-runner.ts';
export type { Rng } from './ports/rng.ts';
export type {
  Candidate,
  CollectInput,
  DeadLetterInput,
  MatchNote,
  OutboxEvent,
  RegisteredType,
  RouterStore,
} from './ports/router-store.ts';
export type { ActivityCommand, ScheduledActivity, ScheduleStore, StartCommand } from './ports/schedule-store.ts';
export type { StoredDefinition } from './ports/stored-definition.ts';
export type { TimerManager } from './ports/timer-manager.ts';
export { secretsOf, withoutSecrets } from './scrub.ts';
export { Secret } from './secret.ts';
export { KEY_BYTES, rememberKeys, SEEN_KEYS_MAX, SeenIndex } from './seen.ts';
export { hasUnstorableJson } from './unstorable.ts';
export { isUuid, uuidTimeOf, uuidv7 } from './uuid.ts';
export { batchIdOf, timerShardOfBatchId, timerShardOfWorkflowId, timerShardWorkflowIdOf } from './workflow-ids.ts';
