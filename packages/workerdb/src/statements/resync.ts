/** A full resync: the feed is read from its beginning, and rows it did not name are deleted, unless those are too many. */
import type { Sql } from 'postgres';
import { FEED_LOCK } from './feed-page.ts';

export async function beginFullResync(sql: Sql, token: string): Promise<string> {
  return await sql.begin(async (tx) => {
    await tx.unsafe(`select pg_advisory_xact_lock(${FEED_LOCK}, 0)`);
    await tx.unsafe('delete from resync_marks');
    await tx.unsafe(
      'update change_feed set cursor = null, resync_token = $1, resync_started_at = statement_timestamp() where id = 1',
      [token],
    );
    return token;
  });
}

const UNSEEN = `
create temporary table unseen on commit drop as
select t.shard, t.trigger_id, t.lease_owner from polling_trigger_runs t
where not exists (select from resync_marks m where m.shard = t.shard and m.trigger_id = t.trigger_id)
order by t.shard, t.trigger_id for update of t`;

const DELETE_UNSEEN = `
with f as (
  insert into batch_fences (batch_no, shard, trigger_id, deleted)
  select b.batch_no, u.shard, u.trigger_id, true from unseen u join batches b on b.batch_no = u.lease_owner and b.ended_at is null
  order by 1, 2, 3 on conflict (batch_no, shard, trigger_id) do update set deleted = true),
z as (
  insert into tombstones (trigger_id, config_version, deleted_at)
  select u.trigger_id, p.config_version, statement_timestamp() from unseen u join polling_triggers p using (shard, trigger_id)
  order by 1 on conflict (trigger_id) do update set config_version = greatest(tombstones.config_version, excluded.config_version),
    deleted_at = excluded.deleted_at),
h as (delete from held_events t using unseen u where t.shard = u.shard and t.trigger_id = u.trigger_id),
s as (delete from polling_trigger_states t using unseen u where t.shard = u.shard and t.trigger_id = u.trigger_id),
p as (delete from polling_triggers t using unseen u where t.shard = u.shard and t.trigger_id = u.trigger_id)
delete from polling_trigger_runs t using unseen u where t.shard = u.shard and t.trigger_id = u.trigger_id`;

export async function finishFullResync(
  sql: Sql,
  input: { readonly token: string; readonly confirmMassDelete: boolean },
): Promise<{ deleted: number; refused: number }> {
  return await sql.begin(async (tx) => {
    await tx.unsafe(`select pg_advisory_xact_lock(${FEED_LOCK}, 0)`);
    const [mine] = await tx.unsafe('select from change_feed where resync_token = $1', [input.token]);
    if (mine === undefined) return { deleted: 0, refused: 0 };
    await tx.unsafe(UNSEEN);
    const [counts] = await tx.unsafe<{ unseen: number; rows: number }[]>(
      'select (select count(*)::int from unseen) as unseen, (select count(*)::int from polling_trigger_runs) as rows',
    );
    const unseen = counts?.unseen ?? 0;
    if (unseen > Math.max(50, (counts?.rows ?? 0) * 0.05) && !input.confirmMassDelete) {
      // The marks and the token stay for a confirmation; the reading itself is over.
      await tx.unsafe('update change_feed set resync_started_at = null where id = 1');
      return { deleted: 0, refused: unseen };
    }
    if (unseen > 0) await tx.unsafe(DELETE_UNSEEN);
    await tx.unsafe('delete from resync_marks');
    await tx.unsafe('update change_feed set resync_token = null where id = 1');
    return { deleted: unseen, refused: 0 };
  });
}
