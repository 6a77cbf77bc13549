/** Migrations on a real server: up, down, up again, twice at once, and the refusal of what this program does not know. */
import { createDatabase } from '@milkrun/testkit';
import postgres, { type Sql } from 'postgres';
import { afterEach, beforeEach, expect, inject, test } from 'vitest';
import { assertMigrated, CODE_NUMBERS, migrate, openWorkerDb, SchemaMismatch } from '../src/index.ts';

let url: string;
let sql: Sql;
beforeEach(async () => {
  url = await createDatabase(inject('pgUrl'));
  sql = postgres(url, { max: 2, onnotice: () => {} });
});
afterEach(async () => {
  await sql.end();
});

async function shape(): Promise<string[]> {
  const rows = await sql<{ line: string }[]>`
    select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull as line
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped and c.relname not like 'milkrun_migrations%' order by 1`;
  return rows.map((found) => found.line);
}
async function functions(): Promise<unknown[]> {
  return [...(await sql`select proname from pg_proc where pronamespace = 'public'::regnamespace order by 1`)];
}

test('up, down and up again makes the same schema, and down leaves nothing behind', async () => {
  const { to } = await migrate(sql);
  expect(to).toBeGreaterThanOrEqual(4);
  const [first, made] = [await shape(), await functions()];
  expect(first.length).toBeGreaterThan(1000);
  await migrate(sql, { to: 0 });
  expect([await shape(), await functions()]).toEqual([[], []]);
  await migrate(sql);
  expect(await shape()).toEqual(first);
  expect(await functions()).toEqual(made);
});

test('twice changes nothing, and two at once are one after the other', async () => {
  const [one, two] = await Promise.all([openWorkerDb({ url, connections: 2 }), openWorkerDb({ url, connections: 2 })]);
  const { from, to } = await migrate(sql);
  expect(from).toBe(to);
  const codes = await one.sql<{ code: string; no: number }[]>`select code, no from codes`;
  expect(Object.fromEntries(codes.map(({ code, no }) => [code, no]))).toEqual(CODE_NUMBERS);
  await Promise.all([one.close(), two.close()]);
});

test('without leave to migrate an old schema is refused with the way out', async () => {
  await expect(openWorkerDb({ url, migrate: false })).rejects.toThrow(/start once without --no-migrate/);
  await migrate(sql, { to: 2 });
  await expect(assertMigrated(sql)).rejects.toThrow(SchemaMismatch);
  await migrate(sql);
  await assertMigrated(sql);
});

test('a newer schema is refused when it is breaking and borne when it is not', async () => {
  await migrate(sql);
  await sql`insert into milkrun_migrations (no, name, breaking) values (9000, '9000_harmless', false)`;
  await migrate(sql);
  await assertMigrated(sql);
  await sql`insert into milkrun_migrations (no, name, breaking) values (9001, '9001_breaking', true)`;
  await expect(migrate(sql)).rejects.toThrow(/9001_breaking.*update it/);
  await expect(openWorkerDb({ url, migrate: false })).rejects.toThrow(SchemaMismatch);
});

test('numbers of codes are unique, and none is ever given to another code', async () => {
  const numbers = Object.values(CODE_NUMBERS);
  expect(new Set(numbers).size).toBe(numbers.length);
  await migrate(sql);
  // The CHECKs and statements that name numbers mean these.
  expect(CODE_NUMBERS).toMatchObject({
    cursor_lost: 2,
    source_down: 6,
    fenced: 7,
    'auth.expired': 20,
    'auth.not_found': 22,
  });
  expect(CODE_NUMBERS).toMatchObject({ 'poll.connector_error': 42, 'poll.timeout': 43 });
});

test('the days of the poll log are made ahead and dropped when they are old', async () => {
  await migrate(sql);
  await sql`insert into poll_log (at, trigger_id, lease_epoch, code, outcome) values (now() + interval '20 days', gen_random_uuid(), 1, 1, 'success')`;
  expect(await sql`select tableoid::regclass::text as part from poll_log`).toEqual([{ part: 'poll_log_default' }]);
  await sql`select poll_log_days(21, 30)`;
  const [moved] = await sql<{ part: string }[]>`select tableoid::regclass::text as part from poll_log`;
  expect(moved?.part).toMatch(/^poll_log_\d{8}$/);
  await sql.unsafe(`create table poll_log_20200101 (like poll_log including defaults);
    alter table poll_log attach partition poll_log_20200101 for values from ('2020-01-01') to ('2020-01-02')`);
  expect(await sql`select poll_log_days(7, 30) as dropped`).toEqual([{ dropped: 1 }]);
  expect(await sql`select poll_log_days(7, 30) as dropped`).toEqual([{ dropped: 0 }]);
});
