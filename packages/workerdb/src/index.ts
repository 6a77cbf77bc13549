export { CODE_NUMBERS } from './code-numbers.ts';
export { assertMigrated, migrate, SchemaMismatch } from './migrate.ts';
export type { ExplainRange, Explanation, PollLine, QuietLine, Wait } from './statements/explain.ts';
export type { HoldInput, HoldTarget, HoldView, Scope } from './statements/verbs.ts';
export type { BatchView, DeadLetterView, FleetView, ShardView, TriggerView } from './statements/views.ts';
export { openWorkerDb, type WorkerDb, type WorkerDbOptions } from './worker-db.ts';
