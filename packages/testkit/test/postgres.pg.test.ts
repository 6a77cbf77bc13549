import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDatabase, startPostgres } from '@milkrun/testkit';
import postgres from 'postgres';
import { afterAll, describe, expect, inject, test } from 'vitest';

const dataDir = mkdtempSync(join(tmpdir(), 'milkrun-durable-'));
chmodSync(dataDir, 0o755);
afterAll(() => rmSync(dataDir, { recursive: true, force: true }));

async function ask<T>(url: string, work: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(url, { max: 1 });
  try {
    return await work(sql);
  } finally {
    await sql.end();
  }
}

describe('a test server', () => {
  test('gives a fresh database to whoever asks', async () => {
    const [one, two] = await Promise.all([createDatabase(inject('pgUrl')), createDatabase(inject('pgUrl'))]);
    await ask(one, (sql) => sql`create table mine (n int)`);
    const [row] = await ask(two, (sql) => sql`select to_regclass('mine') as found`);
    expect(row?.found).toBeNull();
  });
});

describe('a durable server', () => {
  test('keeps what was committed when its owner is killed and the server is left running', {
    timeout: 60_000,
  }, async () => {
    // The owner is a process of its own, so that it can be killed: it starts the server, commits a row, and waits.
    const owner = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { startPostgres } from '@milkrun/testkit';
         const server = await startPostgres({ dataDir: ${JSON.stringify(dataDir)}, durable: true });
         const { default: postgres } = await import('postgres');
         const sql = postgres(server.url);
         await sql\`create table kept as select 42 as n\`;
         console.log('committed');
         setInterval(() => {}, 1000);`,
      ],
      { cwd: import.meta.dirname, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await new Promise<void>((committed, failed) => {
      owner.stdout.once('data', () => committed());
      owner.once('exit', (code) => failed(new Error(`owner ended with ${code}`)));
    });
    owner.removeAllListeners('exit');
    const gone = new Promise((done) => owner.once('exit', done));
    owner.kill('SIGKILL');
    await gone;
    expect(Number(readFileSync(join(dataDir, 'data', 'postmaster.pid'), 'utf8').split('\n')[0])).toBeGreaterThan(1);

    const server = await startPostgres({ dataDir, durable: true });
    try {
      const [row] = await ask(server.url, (sql) => sql`select n, current_setting('fsync') as fsync from kept`);
      expect(row).toMatchObject({ n: 42, fsync: 'on' });
      await expect(startPostgres({ dataDir, durable: true })).rejects.toThrow(/in use by process/);
    } finally {
      await server.stop();
    }
  });
});
