/** Names of migration's workflows; free of Node. */

/** Workflows and the legacy side's steps; served by workers that run the legacy pipeline. */
export const MIGRATION_QUEUE = 'migration';
export const MIGRATION_WORKFLOW = 'Migration';

const PREFIX = 'migration:';

/** `migration:{uuid}`. */
export function migrationIdOf(uuid: string): string {
  return PREFIX + uuid;
}

/** `hand-off:{migration's uuid}:{n}`: one chunk of a migration. */
export function handOffIdOf(migrationId: string, n: number): string {
  return `hand-off:${migrationId.slice(PREFIX.length)}:${n}`;
}
