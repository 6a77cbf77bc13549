export { createMigrator, type Migrator, type MigratorOptions, SchemaMismatch } from './migrator.ts';
