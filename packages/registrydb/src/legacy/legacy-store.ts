/** The legacy pipeline's tables behind its port: opened by the worker that runs the pipeline. */
import type { LegacyHandOffs, LegacyStore } from '@milkrun/core';
import { openStore } from '../database.ts';
import { registryMigrator } from '../registry.ts';
import { commitLegacy } from './commit.ts';
import { createLegacyHandOffs } from './hand-offs.ts';
import { readLegacy } from './read.ts';

export interface LegacyStoreOptions {
  /** PostgreSQL URL of registrydb. */
  readonly url: string;
  /** False: refuse a schema that is not up to date instead of migrating it. Default true. */
  readonly migrate?: boolean;
  /** Connections of the pool; default 10. */
  readonly connections?: number;
}

export interface LegacyRegistry extends LegacyStore {
  readonly handOffs: LegacyHandOffs;
}

/** A trigger that is due for this long without a poll gets its workflow started or woken again. */
const OVERDUE = "interval '10 s'";

/** Opens registrydb for the legacy pipeline. Throws SchemaMismatch or the driver's error. */
export async function openLegacyStore(options: LegacyStoreOptions): Promise<LegacyRegistry> {
  const { sql } = openStore({ url: options.url, connections: options.connections ?? 10 });
  try {
    if (options.migrate === false) await registryMigrator.assertMigrated(sql);
    else await registryMigrator.migrate(sql);
  } catch (error) {
    await sql.end({ timeout: 0 });
    throw error;
  }
  return {
    handOffs: createLegacyHandOffs(sql),
    read: (triggerId) => readLegacy(sql, triggerId),
    async owns(triggerId, ownershipEpoch) {
      const rows = await sql.unsafe(
        `select from legacy_triggers l join triggers t on t.id = l.trigger_id
         where l.trigger_id = $1 and l.owner = 'legacy' and l.ownership_epoch = $2 and t.enabled and t.deleted_at is null`,
        [triggerId, ownershipEpoch],
        { prepare: true },
      );
      return rows.length === 1;
    },
    commit: (input) => commitLegacy(sql, input),
    async nudge(limit) {
      const rows = await sql.unsafe<{ trigger_id: string }[]>(
        `update legacy_triggers set nudged_at = statement_timestamp() where trigger_id = any (array(
           select l.trigger_id from legacy_triggers l join triggers t on t.id = l.trigger_id
           where l.owner = 'legacy' and t.enabled and t.deleted_at is null
             and (l.nudged_at is null
               or t.config_version > l.applied_version and l.nudged_at < statement_timestamp() - interval '5 s'
               or l.next_poll_at < statement_timestamp() - ${OVERDUE} and l.nudged_at < statement_timestamp() - interval '30 s')
           order by l.next_poll_at nulls first limit $1 for update of l skip locked))
         returning trigger_id`,
        [limit],
        { prepare: true },
      );
      return rows.map((row) => row.trigger_id);
    },
    async ping() {
      await sql.unsafe('select 1');
    },
    close: () => sql.end({ timeout: 5 }),
  };
}
