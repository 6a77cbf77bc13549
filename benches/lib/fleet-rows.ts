/**
 * Triggers written straight into workerdb, in groups: a group is made due (`open`) and taken out of the schedule again
 * (`close`) as a whole. The toolkit of a group's rows starts with its profile, which the stand-in upstream reads.
 *
 * An open group has an interval of one second, so what was polled is due again at once: the engine never runs out of
 * work, and what is measured between two moments has neither start nor end in it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Sql } from 'postgres';

export interface Group {
  /** Prefix of its toolkits, such as `fast` or `tail`; also the tag of its rows. */
  readonly profile: string;
  readonly rows: number;
  /** 8-byte hashes every trigger of the group remembers. */
  readonly seen?: Uint8Array;
  /** Seconds; a paced group is due by its phases over the interval, the others are closed at first. */
  readonly pacedBy?: number;
}

const TOOLKITS = 8;
const TRIGGERS_PER_TENANT = 200;
const TRIGGERS_PER_CONNECTION = 5;
const FAR_SECONDS = 86_400;
const CHUNK = 50_000;
const CONFIG = JSON.stringify({ padding: 'x'.repeat(200) });
const CURSOR = JSON.stringify({ after: '2026-01-01T00:00:00Z', page: 'x'.repeat(280) });

/** The id of row `n` of group `g`, readable back from the id alone. */
const ID = `format('%s-0000-4000-8000-%s', lpad(to_hex($1::int + 1), 8, '0'), lpad(to_hex(n), 12, '0'))`;

export async function insertGroups(sql: Sql, groups: readonly Group[], log: (line: string) => void): Promise<void> {
  for (const [index, group] of groups.entries()) {
    for (let from = 0; from < group.rows; from += CHUNK) {
      await insertChunk(sql, index, group, from, Math.min(group.rows, from + CHUNK));
    }
    log(`${group.rows} rows of ${group.profile}`);
  }
  await sql.unsafe('vacuum (analyze) polling_triggers, polling_trigger_runs, polling_trigger_states');
  await sql.unsafe('checkpoint');
}

async function insertChunk(sql: Sql, index: number, group: Group, from: number, to: number): Promise<void> {
  const interval = group.pacedBy ?? FAR_SECONDS;
  await sql.begin(async (tx) => {
    await tx.unsafe(
      `create temp table made on commit drop as
       select id::uuid as trigger_id, (get_byte(h, 0) * 256 + get_byte(h, 1)) % 64 as shard, n,
         $4 || '-' || (n % ${TOOLKITS}) as toolkit, 'tenant-' || $1::int || '-' || (n / ${TRIGGERS_PER_TENANT}) as tenant_id,
         'connection-' || $1::int || '-' || (n / ${TRIGGERS_PER_CONNECTION}) as connection_id,
         get_byte(h, 2) * 65536 + get_byte(h, 3) * 256 + get_byte(h, 4) as random
       from (select n, id, sha256(convert_to(id, 'UTF8')) as h
         from (select n, ${ID} as id from generate_series($2::int, $3::int - 1) as n) i) x`,
      [index, from, to, group.profile],
    );
    await tx.unsafe(
      `insert into polling_triggers (shard, trigger_id, config_version, created_at, tenant_id, toolkit, slug, version_wanted,
         connection_id, poll_policy, config)
       select shard, trigger_id, 1, now(), tenant_id, toolkit, 'bench', '1', connection_id,
         '{"dedupe":"unique","repeatable":true}', '${CONFIG}' from made`,
    );
    await tx.unsafe(
      `insert into polling_trigger_runs (shard, enabled, owner, interval_s, trigger_id, phase_s, tenant_h, toolkit_h, def_bytes,
         connection_h, next_poll_at, primed, state_bytes)
       select shard, true, 'v', $1, trigger_id, random % $1, hash32(tenant_id), hash32(toolkit), 600,
         hash64(tenant_id, connection_id), ${group.pacedBy === undefined ? `now() + interval '1 day'` : 'next_slot(now(), $1, random % $1)'},
         true, $2 from made`,
      [interval, CURSOR.length + (group.seen?.byteLength ?? 0)],
    );
    await tx.unsafe(
      `insert into polling_trigger_states (shard, trigger_id, cursor, seen) select shard, trigger_id, '${CURSOR}', $1::bytea from made`,
      [Buffer.from(group.seen ?? [])],
    );
  });
}

/** Rows of a group: the group's number is the head of their ids. */
const OF_GROUP = `trigger_id >= ($1 || '-0000-0000-0000-000000000000')::uuid and trigger_id <= ($1 || '-ffff-ffff-ffff-ffffffffffff')::uuid`;

const headOf = (index: number): string => (index + 1).toString(16).padStart(8, '0');

/** Makes every row of the group due, and due again a second after each poll. */
export async function openGroup(sql: Sql, index: number): Promise<void> {
  await sql.unsafe(
    `update polling_trigger_runs set interval_s = 1, phase_s = 0, next_poll_at = statement_timestamp() where ${OF_GROUP}`,
    [headOf(index)],
  );
  await sql.unsafe('vacuum polling_trigger_runs');
}

/** Lets what is open end, and plans nothing new until `resumeDispatch`: rows are only written while nobody polls them. */
export async function holdDispatch(sql: Sql): Promise<void> {
  await sql.unsafe(`update timer_shards set backoff_until = statement_timestamp() + interval '1 hour'`);
  for (;;) {
    const [row] = await sql.unsafe<{ open: number }[]>(
      'select /* bench */ count(*)::int as open from batches where ended_at is null',
    );
    if (row?.open === 0) return;
    await sleep(20);
  }
}

export async function resumeDispatch(sql: Sql): Promise<void> {
  await sql.unsafe('update timer_shards set backoff_until = null');
}

/** Takes the group out of the schedule. */
export async function closeGroup(sql: Sql, index: number): Promise<void> {
  await sql.unsafe(
    `update polling_trigger_runs set interval_s = ${FAR_SECONDS}, phase_s = extract(epoch from statement_timestamp())::bigint % ${FAR_SECONDS},
       next_poll_at = statement_timestamp() + interval '1 day' where ${OF_GROUP}`,
    [headOf(index)],
  );
  // The bench's own dead versions must not take the room that the engine's updates need on the page.
  await sql.unsafe('vacuum polling_trigger_runs');
}

/** Puts what fell due while the rows were written to its next slot, so that a paced group starts without a backlog. */
export async function catchUp(sql: Sql, index: number): Promise<void> {
  await sql.unsafe(
    `update polling_trigger_runs set next_poll_at = next_slot(statement_timestamp(), interval_s, phase_s)
     where next_poll_at < statement_timestamp() and ${OF_GROUP}`,
    [headOf(index)],
  );
  await sql.unsafe('vacuum polling_trigger_runs');
}
