/** What the legacy pipeline is to do with a trigger, and all it needs to poll it. */
import { type HeldEvent, type LegacyRead, storageShardOf } from '@milkrun/core';
import type { Sql } from 'postgres';
import { iso, isoOrNull } from '../database.ts';
import { applyInstructions } from './instructions.ts';

interface Row {
  readonly owner: string;
  readonly ownership_epoch: number;
  readonly config_version: string;
  readonly applied_version: string;
  readonly is_wanted: boolean;
  readonly is_deleted: boolean;
  readonly wait_ms: number | null;
  readonly poll_epoch: number;
  readonly tenant_id: string;
  readonly toolkit: string;
  readonly slug: string;
  readonly connection_id: string;
  readonly version: string;
  readonly version_used: string | null;
  readonly config: string;
  readonly poll_dedupe: 'unique' | 'hash' | 'watermark';
  readonly poll_overlap_seconds: number | null;
  readonly poll_repeatable: boolean;
  readonly interval_seconds: number;
  readonly since: string | null;
  readonly created_at: string;
  readonly prime_from: string | null;
  readonly primed: boolean;
  readonly last_ok_at: string | null;
  readonly failure_count: number;
  readonly poison_count: number;
  readonly next_poll_at: string | null;
  readonly halted_code: string | null;
  readonly cursor: string | null;
  readonly seen: Buffer;
}

const READ = `
select l.owner, l.ownership_epoch, t.config_version, l.applied_version, t.enabled as is_wanted, t.deleted_at is not null as is_deleted,
  (extract(epoch from l.next_poll_at - statement_timestamp()) * 1000)::float8 as wait_ms, l.poll_epoch, t.tenant_id, t.toolkit, t.slug,
  t.connection_id, t.version, l.version_used, t.config, t.poll_dedupe, t.poll_overlap_seconds, t.poll_repeatable, t.interval_seconds,
  t.since, t.created_at, l.prime_from, l.primed, l.last_ok_at, l.failure_count, l.poison_count, l.next_poll_at, l.halted_code, l.cursor, l.seen
from legacy_triggers l join triggers t on t.id = l.trigger_id where l.trigger_id = $1`;

export async function readLegacy(sql: Sql, triggerId: string): Promise<LegacyRead> {
  let [row] = await sql.unsafe<Row[]>(READ, [triggerId], { prepare: true });
  if (row === undefined || row.is_deleted) return { next: 'stop', reason: 'gone' };
  if (row.owner !== 'legacy') return { next: 'stop', reason: 'not_owner' };
  if (Number(row.config_version) > Number(row.applied_version)) {
    await applyInstructions(sql, [triggerId]);
    [row] = await sql.unsafe<Row[]>(READ, [triggerId], { prepare: true });
    if (row?.owner !== 'legacy') return { next: 'stop', reason: 'not_owner' };
  }
  if (!row.is_wanted) return { next: 'stop', reason: 'disabled' };
  if (row.wait_ms === null) return { next: 'stop', reason: 'halted' };
  if (row.wait_ms > 0) return { next: 'wait', waitMs: row.wait_ms };
  const held = row.poll_repeatable ? [] : await heldOf(sql, triggerId);
  const shard = storageShardOf(triggerId);
  return {
    next: 'poll',
    ownershipEpoch: row.ownership_epoch,
    trigger: {
      shard,
      triggerId,
      leaseEpoch: row.poll_epoch + 1,
      tenantId: row.tenant_id,
      toolkit: row.toolkit,
      slug: row.slug,
      connectionId: row.connection_id,
      versionWanted: row.version,
      versionUsed: row.version_used,
      config: row.config,
      pollPolicy: {
        dedupe: row.poll_dedupe,
        repeatable: row.poll_repeatable,
        ...(row.poll_overlap_seconds === null ? {} : { overlapSeconds: row.poll_overlap_seconds }),
      },
      intervalSeconds: row.interval_seconds,
      // A prime that starts again must not reach behind its new start.
      since: row.prime_from === null ? isoOrNull(row.since) : null,
      createdAt: iso(row.prime_from ?? row.created_at),
      configVersion: Number(row.config_version),
      primed: row.primed,
      lastOkAt: isoOrNull(row.last_ok_at),
      failureCount: row.failure_count,
      poisonCount: row.poison_count,
      dueAt: iso(row.next_poll_at),
      dueLagSeconds: -row.wait_ms / 1000,
      probe: row.halted_code !== null,
      stateBytes: row.seen.byteLength + (row.cursor?.length ?? 0),
    },
    state: { shard, triggerId, cursor: row.cursor, seen: row.seen },
    held: held.map((event) => ({ ...event, shard, triggerId })),
  };
}

async function heldOf(sql: Sql, triggerId: string): Promise<readonly Pick<HeldEvent, 'eventId' | 'json'>[]> {
  return await sql.unsafe<Pick<HeldEvent, 'eventId' | 'json'>[]>(
    'select event_id as "eventId", event as json from legacy_held_events where trigger_id = $1 order by seq',
    [triggerId],
    { prepare: true },
  );
}
