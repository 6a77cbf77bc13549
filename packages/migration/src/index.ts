export { createEngineSteps, createLegacySteps, type EngineSteps, type LegacySteps } from './activities.ts';
export { type CodecName, type Codecs, createCodecs } from './codecs.ts';
export {
  createMigrations,
  MigrationRefused,
  type Migrations,
  type MigrationView,
  type StartMigration,
} from './migrations.ts';
export { MIGRATION_QUEUE, MIGRATION_WORKFLOW } from './names.ts';
