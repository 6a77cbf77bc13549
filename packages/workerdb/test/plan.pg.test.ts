/**
 * Plans, as PostgreSQL really runs them: each statement after its sixth execution with generic plans forced, so that what
 * is seen is what a worker gets. Counted are the partitions that were scanned (loops > 0), never those that are merely
 * named. Keyed statements must reach rows by the key index of the partitions their keys lie in.
 */
import { storageShardOf } from '@milkrun/core';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { CLAIM } from '../src/statements/claim.ts';
import { STILL_HELD } from '../src/statements/commit.ts';
import { COMMIT, COMMIT_PLAIN } from '../src/statements/commit-sql.ts';
import { CHECK, EXTEND } from '../src/statements/extend.ts';
import { FEED } from '../src/statements/feed-sql.ts';
import { READ_HELD } from '../src/statements/held.ts';
import { OWNED } from '../src/statements/owned.ts';
import { keysJson } from '../src/statements/rows.ts';
import { READ_STATES } from '../src/statements/states.ts';
import { TAKE_RANKED, TICK } from '../src/statements/tick.ts';
import { batchIds, freshDb } from './support.ts';

/** Large enough that keys are cheaper than a scan: below some 100,000 rows the planner rightly scans. */
const ROWS = 300_000;
/** Storage shards the planned keys lie in. */
const SHARDS = [3, 4, 5];

let db: WorkerDb;
let one: postgres.Sql;
let batchId: string;
let keys: { shard: number; triggerId: string; leaseEpoch: number }[];

beforeAll(async () => {
  db = await freshDb();
  await db.sql.unsafe(`
    create temporary table fresh as
    select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid as id from generate_series(1, ${ROWS}) n;
    alter table fresh add column shard smallint;
    update fresh set shard = (get_byte(sha256(id::text::bytea), 0) * 256 + get_byte(sha256(id::text::bytea), 1)) % 64;
    insert into polling_triggers (shard, trigger_id, config_version, created_at, tenant_id, toolkit, slug, version_wanted, connection_id, poll_policy, config)
      select shard, id, 1, now(), 'tenant', 'synthetic', 'synthetic', '1', 'connection', '{"dedupe":"unique","repeatable":true}', '{}' from fresh;
    insert into polling_trigger_runs (shard, enabled, owner, interval_s, trigger_id, phase_s, tenant_h, toolkit_h, def_bytes, connection_h, next_poll_at, primed)
      select shard, true, 'v', 300, id, 0, hash32('tenant'), hash32('synthetic'), 300, hash64('tenant', 'connection'), now() - interval '1 s', true from fresh;
    insert into polling_trigger_states (shard, trigger_id) select shard, id from fresh;
    `);
  // As autovacuum leaves them: with page counts, all-visible pages and statistics the planner is tempted most.
  await db.sql.unsafe('vacuum (analyze) polling_triggers, polling_trigger_runs, polling_trigger_states, batches');
  one = postgres(db.sql.options.host.length > 0 ? url(db) : '', { max: 1, onnotice: () => {} });
  await one.unsafe('set plan_cache_mode = force_generic_plan');
  const planned = await one.unsafe<{ shard: number; trigger_id: string }[]>(
    `select shard, trigger_id from polling_trigger_runs where shard in (${SHARDS.join(',')}) order by 1, 2`,
  );
  [batchId] = batchIds(1) as [string];
  await one.unsafe(
    `insert into batches (batch_id, timer_shard, planned, started_at, key_shards, key_epochs, key_ids)
     select '${batchId}', 0, count(*), statement_timestamp(), array_agg(shard), array_agg(lease_epoch), array_agg(trigger_id)
     from polling_trigger_runs where shard in (${SHARDS.join(',')})`,
  );
  keys = planned.map((row) => ({ shard: row.shard, triggerId: row.trigger_id, leaseEpoch: 1 }));
});

afterAll(async () => {
  await one?.end();
  await db?.close();
});

function url(of: WorkerDb): string {
  const { host, port, user, pass, database } = of.sql.options as unknown as {
    host: string[];
    port: number[];
    user: string;
    pass: string;
    database: string;
  };
  return `postgres://${user}:${pass}@${host[0]}:${port[0]}/${database}`;
}

interface Node {
  'Node Type': string;
  'Relation Name'?: string;
  'Actual Loops': number;
  'Actual Rows': number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Join Filter'?: number;
  Plans?: Node[];
}

let prepared = 0;

/** Executes six times inside transactions that are rolled back, then explains the seventh. Answers every node that ran. */
async function nodesOf(statement: string, literals: readonly string[]): Promise<Node[]> {
  prepared += 1;
  const name = `plan_${prepared}`;
  await one.unsafe(`prepare ${name} as ${statement}`);
  const call = `execute ${name}(${literals.join(', ')})`;
  let plan: Node | undefined;
  for (let n = 0; n < 7; n += 1) {
    await one.unsafe('begin');
    if (n < 6) await one.unsafe(call);
    else {
      const [row] = await one.unsafe<{ 'QUERY PLAN': { Plan: Node }[] }[]>(`explain (analyze, format json) ${call}`);
      plan = row?.['QUERY PLAN'][0]?.Plan;
    }
    await one.unsafe('rollback');
  }
  const ran: Node[] = [];
  const walk = (node: Node): void => {
    if (node['Actual Loops'] > 0) ran.push(node);
    for (const child of node.Plans ?? []) walk(child);
  };
  walk(plan as Node);
  return ran;
}

const PARTITION = /^polling_(triggers|trigger_runs|trigger_states)_(\d+)$/;
const SCANS = /Scan/;

function partitionsOf(nodes: readonly Node[]): number[] {
  const shards = new Set<number>();
  for (const node of nodes) {
    const match = SCANS.test(node['Node Type']) ? PARTITION.exec(node['Relation Name'] ?? '') : null;
    if (match) shards.add(Number(match[2]));
  }
  return [...shards].sort((a, b) => a - b);
}

const fullScans = (nodes: readonly Node[]): string[] =>
  nodes
    .filter((node) => node['Node Type'] === 'Seq Scan' && PARTITION.test(node['Relation Name'] ?? ''))
    .map((node) => node['Relation Name'] ?? '');

/** Rows of the three tables that were looked at, whatever became of them: a hash join over a table shows here. */
const rowsRead = (nodes: readonly Node[]): number =>
  nodes
    .filter((node) => SCANS.test(node['Node Type']) && PARTITION.test(node['Relation Name'] ?? ''))
    .reduce(
      (sum, node) => sum + (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops'],
      0,
    );

/** Rows the busiest node made or threw away: a nested loop over the batch and the batch again is its square. */
const mostRows = (nodes: readonly Node[]): number =>
  Math.max(
    ...nodes.map((node) => {
      const removed = (node['Rows Removed by Filter'] ?? 0) + (node['Rows Removed by Join Filter'] ?? 0);
      return (node['Actual Rows'] + removed) * node['Actual Loops'];
    }),
  );

const text = (value: string): string => `'${value.replaceAll("'", "''")}'`;

test('the rows lie where the ids say', () => {
  for (const key of keys.slice(0, 100)) expect(storageShardOf(key.triggerId)).toBe(key.shard);
  expect(keys.length).toBeGreaterThan(500);
});

test('claim probes the planned keys in their own partitions', async () => {
  const nodes = await nodesOf(CLAIM, [text(batchId), '45', '8388608']);
  expect(partitionsOf(nodes)).toEqual(SHARDS);
  expect(fullScans(nodes)).toEqual([]);
  // The row for its lock and for its update, and its definition.
  expect(rowsRead(nodes)).toBeLessThanOrEqual(3 * keys.length);
  expect(mostRows(nodes)).toBeLessThanOrEqual(2 * keys.length);
});

test('owned rows, states and held events are read by keys', async () => {
  await one.unsafe(
    `update batches set claimed_at = statement_timestamp(), expires_at = statement_timestamp() + interval '1 h' where batch_id = '${batchId}'`,
  );
  for (const [statement, literals] of [
    [OWNED, [text(batchId)]],
    [READ_STATES, [text(keysJson(keys))]],
    [READ_HELD, [text(keysJson(keys))]],
    [STILL_HELD, [text(batchId), text(JSON.stringify(keys.map(({ shard: s, triggerId: i }) => ({ s, i, e: 0 }))))]],
  ] as const) {
    const nodes = await nodesOf(statement, literals);
    expect(fullScans(nodes)).toEqual([]);
    expect(partitionsOf(nodes).every((shard) => SHARDS.includes(shard))).toBe(true);
    expect(rowsRead(nodes)).toBeLessThanOrEqual(2 * keys.length);
  }
});

test('commit reaches its rows by keys in their own partitions', async () => {
  await one.unsafe(
    `update polling_trigger_runs set lease_epoch = 1, lease_owner = (select batch_no from batches where batch_id = '${batchId}') where shard in (${SHARDS.join(',')})`,
  );
  const columnsOf = (chosen: typeof keys): string[] =>
    [
      chosen.map((key) => key.shard),
      chosen.map((key) => key.triggerId),
      chosen.map((key) => key.leaseEpoch),
      chosen.map(() => 20),
      chosen.map(() => 0),
    ].map((column) => text(`{${column.join(',')}}`));
  const batch = [text(batchId), 'true', '0', '0', 'false'];
  const others = keys
    .filter((_, n) => n % 2 === 0)
    .map(({ shard, triggerId, leaseEpoch }) => {
      return { s: shard, i: triggerId, e: leaseEpoch, o: 'success', c: 1, ev: 0, pl: true, cur: { at: 1 } };
    });
  const mixed = [...columnsOf(keys.filter((_, n) => n % 2 === 1)), text(JSON.stringify(others)), String(keys.length)];
  for (const [statement, rows] of [
    [COMMIT_PLAIN, columnsOf(keys)],
    [COMMIT, mixed],
  ] as const) {
    const nodes = await nodesOf(statement, [...batch, ...rows]);
    expect(fullScans(nodes)).toEqual([]);
    expect(partitionsOf(nodes)).toEqual(SHARDS);
    // The row for its lock and for its update, and its state.
    expect(rowsRead(nodes)).toBeLessThanOrEqual(3 * keys.length);
    expect(mostRows(nodes)).toBeLessThanOrEqual(2 * keys.length);
  }
});

test('a page of the feed reaches its rows by keys in their own partitions, whether it fences or only renames', async () => {
  const page = keys.slice(0, 1000);
  for (const config of ['{}', '{"changed":true}']) {
    const changes = page.map(({ shard, triggerId }) => ({
      del: false,
      s: shard,
      i: triggerId,
      cv: 2,
      tn: 'tenant',
      tk: 'synthetic',
      sl: 'renamed',
      ve: '1',
      cf: JSON.parse(config) as unknown,
      co: 'connection',
      iv: 300,
      en: true,
      si: null,
      cr: '2026-01-01T00:00:00Z',
      po: { dedupe: 'unique', repeatable: true },
      pm: false,
      pn: false,
      hs: false,
      hp: false,
      re: null,
      ph: 0,
    }));
    const nodes = await nodesOf(FEED, [text(JSON.stringify(changes)), 'false', 'false']);
    expect(fullScans(nodes)).toEqual([]);
    expect(partitionsOf(nodes).every((shard) => SHARDS.includes(shard))).toBe(true);
    // Definition and row, each once to be looked at and once to be written.
    expect(rowsRead(nodes)).toBeLessThanOrEqual(4 * page.length);
  }
});

test('extension and fence check touch no row of a trigger', async () => {
  expect(partitionsOf(await nodesOf(EXTEND, [text(batchId), '45', '0', "'poll'", '1']))).toEqual([]);
  expect(partitionsOf(await nodesOf(CHECK, [text(batchId)]))).toEqual([]);
});

test('a tick scans the partitions its timer shard serves and no other', async () => {
  const nodes = await nodesOf(TICK, ['0', '5000', "'{}'", 'true', "'{7,8}'", '4']);
  expect(partitionsOf(nodes)).toEqual([7, 8]);
});

test('a tick that takes what an earlier one ranked touches no row of a trigger', async () => {
  await one.unsafe(
    `insert into ranked_keys (timer_shard, ranked_at, due, taken, key_shards, key_epochs, key_ids)
     select 0, statement_timestamp(), 100, 0, array_agg(shard), array_agg(lease_epoch), array_agg(trigger_id)
     from (select * from polling_trigger_runs where shard = 3 limit 100) r`,
  );
  const nodes = await nodesOf(TAKE_RANKED, ['0', '50', `'{"a batch"}'`, 'true']);
  expect(
    nodes.find((node) => node['Relation Name'] === 'batches' && node['Node Type'] === 'ModifyTable'),
  ).toBeDefined();
  expect(partitionsOf(nodes)).toEqual([]);
});

test('no index stands on a column that a poll changes, so claim and commit are HOT', async () => {
  const indexed = await db.sql<{ column: string }[]>`
    select distinct a.attname as column from pg_index i join pg_class c on c.oid = i.indrelid
      join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
    where c.relname like 'polling_trigger_runs%'`;
  expect(indexed.map((row) => row.column).sort()).toEqual(['shard', 'trigger_id']);
});
