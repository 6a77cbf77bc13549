/**
 * Numbered SQL migrations, up and down.
 *
 * One migrator at a time (advisory lock); each migration runs in a transaction of its own whose first statement is its
 * version row, so a failed one leaves nothing behind. Role settings the engine's plans need are set on the way.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Sql } from 'postgres';
import { CODE_NUMBERS } from './code-numbers.ts';

/** Thrown when the schema and this program do not fit together; the message says what to do. */
export class SchemaMismatch extends Error {
  override readonly name = 'SchemaMismatch';
}

const DIRECTORY = join(import.meta.dirname, '..', 'migrations');
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

interface Migration {
  readonly no: number;
  readonly name: string;
  /** Workers that do not know it must refuse to run: said by a `-- Breaking` line of its head. */
  readonly breaking: boolean;
}

/** All migrations of this program, in order. */
function known(): readonly Migration[] {
  const names = readdirSync(DIRECTORY).filter((name) => name.endsWith('.up.sql'));
  return names.sort().map((file) => {
    const name = file.slice(0, -'.up.sql'.length);
    return { no: Number(name.slice(0, 4)), name, breaking: /^-- Breaking/m.test(text(name, 'up')) };
  });
}

function text(name: string, way: 'up' | 'down'): string {
  return readFileSync(join(DIRECTORY, `${name}.${way}.sql`), 'utf8');
}

/**
 * Brings the schema to `to` (default: the newest), up or down, and answers the version it had and has. Refuses
 * (`SchemaMismatch`) a schema with a newer breaking migration.
 */
export async function migrate(sql: Sql, options: { readonly to?: number } = {}): Promise<{ from: number; to: number }> {
  const all = known();
  const newest = all.at(-1)?.no ?? 0;
  const to = options.to ?? newest;
  const session = await sql.reserve();
  try {
    // A session lock: the migrations are several transactions. A pooler in transaction mode must not be used here,
    // so the lock is taken again inside each of them, where it also holds behind PgBouncer.
    await session.unsafe('set statement_timeout = 0');
    await inLock(session, () =>
      session.unsafe(`create table if not exists milkrun_migrations (
        no integer primary key, name text not null, breaking boolean not null, at timestamptz not null default statement_timestamp())`),
    );
    const from = await version(session);
    await refuseNewer(session, newest, options.to !== undefined);
    for (const one of all) if (one.no <= to) await up(session, one);
    for (const one of [...all].reverse()) if (one.no > to) await down(session, one);
    if (to === newest) await inLock(session, () => finish(session));
    return { from, to: await version(session) };
  } finally {
    await session.unsafe('reset statement_timeout').catch(() => undefined);
    session.release();
  }
}

/** Refuses (`SchemaMismatch`) unless every migration this program knows is there and no unknown breaking one. */
export async function assertMigrated(sql: Sql): Promise<void> {
  const [there] = await sql.unsafe("select to_regclass('milkrun_migrations') is not null as yes");
  const newest = known().at(-1)?.no ?? 0;
  const has = there?.yes ? await version(sql) : 0;
  if (has < newest) {
    throw new SchemaMismatch(
      `workerdb is at version ${has}, this program needs ${newest}: start once without --no-migrate`,
    );
  }
  await refuseNewer(sql, newest, false);
}

type Runner = Pick<Sql, 'unsafe'>;

async function version(sql: Runner): Promise<number> {
  const [row] = await sql.unsafe('select coalesce(max(no), 0) as no from milkrun_migrations');
  return Number(row?.no);
}

async function refuseNewer(sql: Runner, newest: number, downTo: boolean): Promise<void> {
  const rows = await sql.unsafe('select no, name, breaking from milkrun_migrations where no > $1 order by no', [
    newest,
  ]);
  const bad = rows.find((row) => downTo || row.breaking);
  if (bad) {
    throw new SchemaMismatch(`workerdb has migration ${bad.name}, which this older program does not know: update it`);
  }
}

async function inLock(sql: Runner, work: () => Promise<unknown>): Promise<void> {
  await sql.unsafe('begin');
  try {
    await sql.unsafe(`select pg_advisory_xact_lock(${LOCK}, 0)`);
    await work();
    await sql.unsafe('commit');
  } catch (error) {
    await sql.unsafe('rollback').catch(() => undefined);
    throw error;
  }
}

async function up(sql: Runner, one: Migration): Promise<void> {
  await inLock(sql, async () => {
    const added = await sql.unsafe(
      'insert into milkrun_migrations (no, name, breaking) values ($1, $2, $3) on conflict do nothing returning no',
      [one.no, one.name, one.breaking],
    );
    if (added.length > 0) await sql.unsafe(text(one.name, 'up'));
  });
}

async function down(sql: Runner, one: Migration): Promise<void> {
  await inLock(sql, async () => {
    const removed = await sql.unsafe('delete from milkrun_migrations where no = $1 returning no', [one.no]);
    if (removed.length > 0) await sql.unsafe(text(one.name, 'down'));
  });
}

/** What is data rather than schema: the list of codes, and the settings of the role that migrates. */
async function finish(sql: Runner): Promise<void> {
  await sql.unsafe(
    `insert into codes (no, code) select v::smallint, k from jsonb_each_text($1::text::jsonb) as j(k, v)
     on conflict (no) do update set code = excluded.code where codes.code <> excluded.code`,
    [JSON.stringify(CODE_NUMBERS)],
  );
  // A role may set its own defaults without being a superuser; connection options would be refused by PgBouncer.
  const has = await sql.unsafe(
    `select coalesce((select s.setconfig from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
       join pg_roles r on r.oid = s.setrole where d.datname = current_database() and r.rolname = current_user), '{}') as list`,
  );
  const list = new Set<string>(has[0]?.list ?? []);
  const missing = Object.entries(ROLE_SETTINGS).filter(([name, value]) => !list.has(`${name}=${value}`));
  for (const [name, value] of missing) {
    await sql.unsafe(
      `do $$ begin execute format('alter role current_user in database %I set ${name} = %L', current_database(), '${value}'); end $$`,
    );
  }
}
