/**
 * Numbered SQL migrations, up and down: `0001_name.up.sql` beside `0001_name.down.sql`.
 *
 * One migrator at a time (transaction-level advisory lock, so PgBouncer may stand between); each migration runs in a
 * transaction of its own whose first statement is its version row, so a failed one leaves nothing behind. A `-- Breaking`
 * line in a migration's head means that programs which do not know it must refuse to run.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Sql } from 'postgres';

/** Thrown when the schema and this program do not fit together; the message says what to do. */
export class SchemaMismatch extends Error {
  override readonly name = 'SchemaMismatch';
}

export interface MigratorOptions {
  /** Shown in messages, such as `registrydb`. */
  readonly database: string;
  /** Directory of the SQL files. */
  readonly directory: string;
  /** Table of the applied migrations; different for two schemas that share a database. */
  readonly table: string;
  /** First key of the advisory lock. */
  readonly lock: number;
}

export interface Migrator {
  /** Brings the schema to `to` (default: the newest), up or down. Throws SchemaMismatch on a newer breaking schema. */
  migrate(sql: Sql, options?: { readonly to?: number }): Promise<{ readonly from: number; readonly to: number }>;
  /** Throws SchemaMismatch unless every known migration is there and no unknown breaking one. */
  assertMigrated(sql: Sql): Promise<void>;
}

interface Migration {
  readonly no: number;
  readonly name: string;
  readonly breaking: boolean;
}

type Runner = Pick<Sql, 'unsafe'>;

export function createMigrator({ database, directory, table, lock }: MigratorOptions): Migrator {
  if (!/^[a-z_]+$/.test(table)) throw new TypeError(`the migrations table cannot be called "${table}"`);
  const textOf = (name: string, way: 'up' | 'down'): string =>
    readFileSync(join(directory, `${name}.${way}.sql`), 'utf8');

  /** All migrations of this program, in order. */
  function known(): readonly Migration[] {
    const files = readdirSync(directory).filter((name) => name.endsWith('.up.sql'));
    return files.sort().map((file) => {
      const name = file.slice(0, -'.up.sql'.length);
      return { no: Number(name.slice(0, 4)), name, breaking: /^-- Breaking/m.test(textOf(name, 'up')) };
    });
  }

  async function versionOf(sql: Runner): Promise<number> {
    const [row] = await sql.unsafe(`select coalesce(max(no), 0) as no from ${table}`);
    return Number(row?.no);
  }

  async function refuseNewer(sql: Runner, newest: number, downTo: boolean): Promise<void> {
    const rows = await sql.unsafe(`select no, name, breaking from ${table} where no > $1 order by no`, [newest]);
    const bad = rows.find((row) => downTo || row.breaking);
    if (bad === undefined) return;
    throw new SchemaMismatch(
      `${database} has migration ${bad.name}, which this older program does not know: update it`,
    );
  }

  async function inLock(sql: Runner, work: () => Promise<unknown>): Promise<void> {
    await sql.unsafe('begin');
    try {
      await sql.unsafe('set local statement_timeout = 0');
      await sql.unsafe(`select pg_advisory_xact_lock(${lock}, 0)`);
      await work();
      await sql.unsafe('commit');
    } catch (error) {
      await sql.unsafe('rollback').catch(() => undefined);
      throw error;
    }
  }

  const up = (sql: Runner, { no, name, breaking }: Migration): Promise<void> =>
    inLock(sql, async () => {
      const added = await sql.unsafe(
        `insert into ${table} (no, name, breaking) values ($1, $2, $3) on conflict do nothing returning no`,
        [no, name, breaking],
      );
      if (added.length > 0) await sql.unsafe(textOf(name, 'up'));
    });

  const down = (sql: Runner, { no, name }: Migration): Promise<void> =>
    inLock(sql, async () => {
      const removed = await sql.unsafe(`delete from ${table} where no = $1 returning no`, [no]);
      if (removed.length > 0) await sql.unsafe(textOf(name, 'down'));
    });

  return {
    async migrate(sql, options = {}) {
      const all = known();
      const newest = all.at(-1)?.no ?? 0;
      const to = options.to ?? newest;
      const session = await sql.reserve();
      try {
        await inLock(session, () =>
          session.unsafe(
            `create table if not exists ${table} (no integer primary key, name text not null, breaking boolean not null, at timestamptz not null default statement_timestamp())`,
          ),
        );
        const from = await versionOf(session);
        await refuseNewer(session, newest, options.to !== undefined);
        for (const one of all) if (one.no <= to) await up(session, one);
        for (const one of [...all].reverse()) if (one.no > to) await down(session, one);
        return { from, to: await versionOf(session) };
      } finally {
        session.release();
      }
    },
    async assertMigrated(sql) {
      const [there] = await sql.unsafe('select to_regclass($1) is not null as yes', [table]);
      const newest = known().at(-1)?.no ?? 0;
      const has = there?.yes ? await versionOf(sql) : 0;
      if (has < newest) {
        throw new SchemaMismatch(
          `${database} is at version ${has}, this program needs ${newest}: start once without --no-migrate`,
        );
      }
      await refuseNewer(sql, newest, false);
    },
  };
}
