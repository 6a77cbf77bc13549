export { createTickActivities, type TickActivities, type TickDeps } from './activities.ts';
export { createFeedReader, createPushChanges, type FeedReaderDeps, type FeedStore } from './feed-reader.ts';
export { createDispatchGate, type Dependency, type DispatchGate } from './gate.ts';
export { createLifecycleSender, type LifecycleSenderDeps } from './lifecycle-sender.ts';
export {
  BATCH_AGE_MS_MAX,
  checkLiveness,
  createLivenessLoop,
  inspectLiveness,
  type LivenessDeps,
  type LivenessRound,
  madeAtOf,
} from './liveness.ts';
export { createLoop, type Loop, type LoopOptions } from './loop.ts';
export { armGapMs, IDLE_MS_MAX, pauseMs, RUN_MS_MAX, type TickOutcome } from './pacing.ts';
export type { TemporalClient } from './temporal-client.ts';
export { createTimerManager, ensureShards, type TimerManagerDeps } from './timer-manager.ts';
export { createWorkerHeartbeat } from './worker-heartbeat.ts';
