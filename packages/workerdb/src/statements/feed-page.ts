/**
 * Applies a page of the change feed, pulled or pushed: page and cursor in one transaction, by compare-and-set, under the
 * feed's own lock. Reading a page twice is harmless: a change is applied only if its `configVersion` is newer.
 */
import { type FeedChange, type FeedPageInput, type FeedPageResult, storageShardOf } from '@milkrun/core';
import type { Sql, TransactionSql } from 'postgres';
import { applyOwnership } from './feed-ownership.ts';
import { FEED } from './feed-sql.ts';
import { decodePollState } from './poll-state.ts';
import { keysJson } from './rows.ts';

export const FEED_LOCK = 7004;
/** A page that creates more than this spreads its first polls over their phase slots. */
const HERD_ROWS = 100;
const POLICY_DEFAULT = { dedupe: 'unique', repeatable: true } as const;

interface FeedRow {
  readonly upserted: number;
  readonly deleted: number;
  readonly fenced: number;
  readonly stale: number;
  readonly arm: readonly number[];
}

export async function applyPage(sql: Sql, input: FeedPageInput): Promise<FeedPageResult> {
  return await sql.begin(async (tx) => {
    await tx.unsafe(`select pg_advisory_xact_lock(${FEED_LOCK}, 0)`, [], { prepare: true });
    const [turn] = await tx.unsafe<{ resync: boolean; applied: boolean }[]>(
      input.source === 'push'
        ? 'select resync_token is not null as resync, true as applied from change_feed'
        : `update change_feed set cursor = $2, moved_at = statement_timestamp() where id = 1 and cursor is not distinct from $1
           returning resync_token is not null as resync, true as applied`,
      input.source === 'push' ? [] : [input.after, input.next],
      { prepare: true },
    );
    const total = { applied: turn !== undefined, upserted: 0, deleted: 0, fenced: 0, stale: 0 };
    let owners: { moved: number; older: number } | undefined;
    const arm = new Set<number>();
    if (turn === undefined) return { ...total, arm: [] };
    const spread = (await countNew(tx, input.changes)) > HERD_ROWS;
    for (const changes of onceEach(input.changes)) {
      const [row] = await tx.unsafe<FeedRow[]>(FEED, [`[${changes.map(changeJson).join(',')}]`, spread, turn.resync], {
        prepare: true,
      });
      if (row === undefined) continue;
      total.upserted += row.upserted;
      total.deleted += row.deleted;
      total.fenced += row.fenced;
      total.stale += row.stale;
      for (const shard of row.arm) arm.add(shard);
      const found = await applyOwnership(tx, changes);
      if (found === undefined) continue;
      owners = { moved: (owners?.moved ?? 0) + found.moved, older: (owners?.older ?? 0) + found.older };
      total.fenced += found.fenced;
      for (const shard of found.arm) arm.add(shard);
    }
    return { ...total, ...owners, arm: [...arm] };
  });
}

/** How many of a page's triggers there are none of yet; only large pages are worth the look. */
async function countNew(tx: TransactionSql, changes: readonly FeedChange[]): Promise<number> {
  const ids = new Set(changes.filter((change) => change.op === 'upsert').map((change) => change.triggerId));
  if (ids.size <= HERD_ROWS) return ids.size;
  const keys = [...ids].map((triggerId) => ({ shard: storageShardOf(triggerId), triggerId }));
  const [known] = await tx.unsafe<{ n: number }[]>(
    `select count(*)::int as n from jsonb_to_recordset($1::text::jsonb) as k(s smallint, i uuid) cross join lateral (
       select 1 from polling_triggers t where t.shard = k.s and t.trigger_id = k.i limit 1) x`,
    [keysJson(keys)],
  );
  return ids.size - (known?.n ?? 0);
}

/** Slices in which each trigger stands once, its changes in the order of their versions: a rewind is never skipped. */
function onceEach(changes: readonly FeedChange[]): FeedChange[][] {
  const slices: { rows: FeedChange[]; ids: Set<string> }[] = [];
  const sorted = [...changes].sort((a, b) => a.configVersion - b.configVersion);
  for (const change of sorted) {
    // A trigger's later change must come in a later slice than its earlier one.
    let at = 0;
    slices.forEach((slice, n) => {
      if (slice.ids.has(change.triggerId)) at = n + 1;
    });
    const slice = slices[at] ?? { rows: [], ids: new Set<string>() };
    slices[at] = slice;
    slice.rows.push(change);
    slice.ids.add(change.triggerId);
  }
  return slices.map((slice) => slice.rows);
}

function changeJson(change: FeedChange): string {
  const shard = storageShardOf(change.triggerId);
  const head = `{"s":${shard},"i":"${change.triggerId}","cv":${change.configVersion}`;
  if (change.op === 'delete') return `${head},"del":true}`;
  const state = decodePollState(change.pollState);
  const rest = {
    del: false,
    tn: change.tenantId,
    tk: change.toolkit,
    sl: change.slug,
    ve: change.version,
    co: change.connectionId,
    iv: change.intervalSeconds,
    en: change.enabled,
    si: change.since ?? null,
    cr: change.createdAt,
    po: change.poll ?? POLICY_DEFAULT,
    pm: change.primed,
    pn: change.pollNow,
    hs: change.cursor !== undefined,
    hp: state !== undefined,
    re: change.resume ?? null,
    lg: change.pipeline === 'legacy',
    lv: change.liftedVersion,
    ph: phaseOf(change.triggerId, change.intervalSeconds),
    ...(state === undefined ? {} : { ss: state.seen, sv: state.version }),
  };
  const texts = `,"cf":${change.config}${change.cursor === undefined ? '' : `,"cur":${change.cursor}`}${state === undefined ? '' : `,"sc":${state.cursor}`}`;
  return `${head}${texts},${JSON.stringify(rest).slice(1)}`;
}

/** The offset of a trigger's slots in its interval: from the id, so that equal intervals do not fire together. */
function phaseOf(triggerId: string, intervalSeconds: number): number {
  return Number.parseInt(triggerId.replaceAll('-', '').slice(-12), 16) % intervalSeconds;
}
