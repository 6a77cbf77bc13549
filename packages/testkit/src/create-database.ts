/** Fresh databases on a test server. */
import { randomBytes } from 'node:crypto';
import postgres from 'postgres';
import type {} from 'vitest';

declare module 'vitest' {
  export interface ProvidedContext {
    /** The run's PostgreSQL server, on which `createDatabase` may create databases. */
    pgUrl: string;
  }
}

/**
 * Creates an empty database (or a copy of `template`, to which nobody may be connected) and answers its URL. Databases
 * go with the server; on a server named by address they are left behind for a look, named `milkrun_test_…`.
 */
export async function createDatabase(pgUrl: string, template?: string): Promise<string> {
  const name = `milkrun_test_${randomBytes(6).toString('hex')}`;
  const sql = postgres(pgUrl, { max: 1, onnotice: () => {} });
  try {
    await sql.unsafe(`create database ${name}${template === undefined ? '' : ` template "${template}"`}`);
  } finally {
    await sql.end();
  }
  const url = new URL(pgUrl);
  url.pathname = `/${name}`;
  return url.href;
}
