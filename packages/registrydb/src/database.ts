/** The connection pool and the one way to run a transaction. */
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js';
import postgres, { type Sql } from 'postgres';
import * as schema from './schema.ts';

type Database = PostgresJsDatabase<typeof schema>;
export type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0];
/** What both offer. */
export type Runner = Pick<Database, 'select' | 'insert' | 'update' | 'delete' | 'execute'>;

export interface Store {
  readonly sql: Sql;
  readonly db: Database;
  /** Runs `work` in a transaction; again (up to 5 times) after a deadlock or a serialization failure. */
  transact<T>(work: (tx: Transaction) => Promise<T>): Promise<T>;
}

export interface StoreOptions {
  readonly url: string;
  /** Connections; default 16. */
  readonly connections?: number | undefined;
}

const ATTEMPTS = 5;
const AGAIN = new Set(['40P01', '40001']);

export function openStore({ url, connections = 16 }: StoreOptions): Store {
  const sql = postgres(url, {
    max: connections,
    connect_timeout: 10,
    idle_timeout: 300,
    onnotice: () => {},
    connection: { application_name: 'milkrun-api' },
  });
  const db = drizzle(sql, { schema });
  return {
    sql,
    db,
    async transact(work) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await db.transaction(work);
        } catch (error) {
          if (attempt === ATTEMPTS || !AGAIN.has(sqlStateOf(error) ?? '')) throw error;
        }
      }
    },
  };
}

/** The SQLSTATE of a database error, looked for behind drizzle's wrapper too. */
export function sqlStateOf(error: unknown): string | undefined {
  for (let at = error; typeof at === 'object' && at !== null; at = (at as { cause?: unknown }).cause) {
    const { code } = at as { code?: unknown };
    if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)) return code;
  }
  return undefined;
}

/** RFC 3339 in UTC of what the driver gave for a timestamptz. */
export function iso(value: unknown): string {
  return (value instanceof Date ? value : new Date(String(value))).toISOString();
}

export const isoOrNull = (value: unknown): string | null => (value === null || value === undefined ? null : iso(value));
