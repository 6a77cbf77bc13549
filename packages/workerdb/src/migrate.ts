/**
 * workerdb's migrations, and what is data rather than schema: the list of codes, and the settings of the role that the
 * engine's plans and its safety need.
 */
import { join } from 'node:path';
import { createMigrator, SchemaMismatch } from '@milkrun/migrator';
import type { Sql } from 'postgres';
import { CODE_NUMBERS } from './code-numbers.ts';

export { SchemaMismatch };

const LOCK = 7002;
/** For plans (jit, memory, page cost) and against sessions that hang. The lock time-out exceeds the claim queue. */
const ROLE_SETTINGS: Readonly<Record<string, string>> = {
  jit: 'off',
  work_mem: '32MB',
  random_page_cost: '1.1',
  max_parallel_workers_per_gather: '0',
  statement_timeout: '60s',
  lock_timeout: '20s',
  idle_in_transaction_session_timeout: '30s',
};

const migrator = createMigrator({
  database: 'workerdb',
  directory: join(import.meta.dirname, '..', 'migrations'),
  table: 'milkrun_migrations',
  lock: LOCK,
});

/** Brings the schema to `to` (default: the newest), up or down. Throws SchemaMismatch on a newer breaking schema. */
export async function migrate(sql: Sql, options: { readonly to?: number } = {}): Promise<{ from: number; to: number }> {
  const result = await migrator.migrate(sql, options);
  if (options.to === undefined) await finish(sql);
  return result;
}

/** Throws SchemaMismatch unless every known migration is there and no unknown breaking one. */
export async function assertMigrated(sql: Sql): Promise<void> {
  await migrator.assertMigrated(sql);
}

async function finish(sql: Sql): Promise<void> {
  await sql.begin(async (tx) => {
    await tx.unsafe(`select pg_advisory_xact_lock(${LOCK}, 0)`);
    await tx.unsafe(
      `insert into codes (no, code) select v::smallint, k from jsonb_each_text($1::text::jsonb) as j(k, v)
       on conflict (no) do update set code = excluded.code where codes.code <> excluded.code`,
      [JSON.stringify(CODE_NUMBERS)],
    );
    // A role may set its own defaults without being a superuser; connection options would be refused by PgBouncer.
    const has = await tx.unsafe<{ list: string[] }[]>(
      `select coalesce((select s.setconfig from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
         join pg_roles r on r.oid = s.setrole where d.datname = current_database() and r.rolname = current_user), '{}') as list`,
    );
    const list = new Set<string>(has[0]?.list ?? []);
    for (const [name, value] of Object.entries(ROLE_SETTINGS)) {
      if (list.has(`${name}=${value}`)) continue;
      await tx.unsafe(
        `do $$ begin execute format('alter role current_user in database %I set ${name} = %L', current_database(), '${value}'); end $$`,
      );
    }
  });
}
