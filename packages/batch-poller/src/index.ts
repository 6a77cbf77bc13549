export { type CommitStepInput, commit as commitBatch } from './activities/commit.ts';
export { type BatchDeps, type BatchLimits, DEFAULT_LIMITS } from './deps.ts';
export { PollSlots } from './poll-slots.ts';
export { createLocalKeyFile, createLocalKeys } from './snapshot/local-keys.ts';
export { createSnapshots, type Snapshots } from './snapshot/snapshot.ts';
export { type BatchActivities, createBatchActivities } from './temporal.ts';
