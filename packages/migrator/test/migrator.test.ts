/** Numbered migrations on a real server: up, down, at once, and what is refused. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createMigrator } from '@milkrun/migrator';
import { createDatabase } from '@milkrun/testkit';
import postgres from 'postgres';
import { expect, inject, it } from 'vitest';

async function setUp(files: Record<string, string>) {
  const directory = mkdtempSync(join(tmpdir(), 'milkrun-migrations-'));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  const sql = postgres(await createDatabase(inject('pgUrl')), { max: 4, onnotice: () => {} });
  const migrator = createMigrator({ database: 'exampledb', directory, table: 'example_migrations', lock: 7999 });
  return { directory, sql, migrator, [Symbol.asyncDispose]: () => sql.end() };
}

const TWO = {
  '0001_one.up.sql': 'create table one (n int);',
  '0001_one.down.sql': 'drop table one;',
  '0002_two.up.sql': 'create table two (n int);',
  '0002_two.down.sql': 'drop table two;',
};

it('goes up once however often and from however many processes it is asked, and down again', async () => {
  await using test = await setUp(TWO);
  const { sql, migrator } = test;
  await Promise.all([migrator.migrate(sql), migrator.migrate(sql), migrator.migrate(sql)]);
  expect(await migrator.migrate(sql)).toEqual({ from: 2, to: 2 });
  await migrator.assertMigrated(sql);
  expect(await migrator.migrate(sql, { to: 1 })).toEqual({ from: 2, to: 1 });
  expect((await sql`select to_regclass('one') is not null as one, to_regclass('two') is not null as two`)[0]).toEqual({
    one: true,
    two: false,
  });
});

it('leaves nothing behind of a migration that fails', async () => {
  await using test = await setUp({ ...TWO, '0003_bad.up.sql': 'create table three (n int); select 1/0;' });
  await expect(test.migrator.migrate(test.sql)).rejects.toThrow('division by zero');
  expect((await test.sql`select to_regclass('three') as there`)[0]?.there).toBeNull();
  expect((await test.sql`select max(no) as no from example_migrations`)[0]?.no).toBe(2);
});

it('refuses a schema that is older, or newer in a breaking way, and says what to do', async () => {
  await using test = await setUp(TWO);
  await expect(test.migrator.assertMigrated(test.sql)).rejects.toThrow(
    'exampledb is at version 0, this program needs 2',
  );
  await test.migrator.migrate(test.sql);
  await test.sql`insert into example_migrations (no, name, breaking) values (3, '0003_soft', false)`;
  await test.migrator.migrate(test.sql);
  await test.sql`insert into example_migrations (no, name, breaking) values (4, '0004_hard', true)`;
  await expect(test.migrator.migrate(test.sql)).rejects.toThrow('exampledb has migration 0004_hard');
});
