export { CODE_NUMBERS } from './code-numbers.ts';
export { assertMigrated, migrate, SchemaMismatch } from './migrate.ts';
export type { BatchView, DeadLetterView, FleetView, ShardView, TimelineLine, TriggerView } from './statements/views.ts';
export { openWorkerDb, type WorkerDb, type WorkerDbOptions } from './worker-db.ts';
