/** Triggers as people see them: the definition, and whether, why and since when they are off. */
import { type SQL, sql } from 'drizzle-orm';
import { iso, isoOrNull, type Runner } from './database.ts';
import type { TriggerRow } from './schema.ts';

export interface TriggerStatus {
  /** `disabled`: the user's wish; `halted`: the engine's verdict. */
  readonly state: 'active' | 'disabled' | 'halted';
  readonly code: string | null;
  readonly since: string | null;
  /** Who turned it off: `engine`, or the user's key. */
  readonly by: string | null;
  readonly reason: string | null;
}

export interface TriggerView {
  readonly id: string;
  readonly deduplicationKey: string | null;
  readonly name: string | null;
  readonly tags: readonly string[];
  readonly toolkit: string;
  readonly slug: string;
  readonly version: string;
  /** JSON text. */
  readonly config: string;
  readonly connectionId: string;
  readonly intervalSeconds: number;
  readonly enabled: boolean;
  readonly since: string | null;
  readonly poll: {
    readonly dedupe: TriggerRow['pollDedupe'];
    readonly overlapSeconds: number | null;
    readonly repeatable: boolean;
  };
  readonly configVersion: number;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly primed: boolean;
  /** Who polls it, and whether it is being moved. */
  readonly pipeline: TriggerPipeline;
  readonly status: TriggerStatus;
  readonly warning: { readonly code: string; readonly at: string } | null;
  readonly lastEventAt: string | null;
}

interface TriggerPipeline {
  readonly name: 'v2' | 'legacy';
  /** While it is handed from one pipeline to the other; until then `name` polls it. */
  readonly movingTo: 'v2' | 'legacy' | null;
  /** The migration that moves it now. */
  readonly migration: string | null;
  /** When this began to be so; null: v2 has had it from the beginning. */
  readonly since: string | null;
}

export interface TriggerFilter {
  readonly limit: number;
  /** Id of the last trigger of the page before. */
  readonly before?: string | undefined;
  readonly toolkit?: string | undefined;
  readonly slug?: string | undefined;
  readonly connectionId?: string | undefined;
  readonly deduplicationKey?: string | undefined;
  readonly tag?: string | undefined;
  readonly state?: TriggerStatus['state'] | undefined;
  /** Part of a name, key, toolkit or slug, whatever its case; the beginning of an id; a whole tag. */
  readonly search?: string | undefined;
}

interface Row extends Record<string, unknown> {
  id: string;
}

/** A halt counts unless a later record resumed it or a change made since lifts it. */
const HALTED = sql`(l.state = 'halted' and l.config_version >= t.lifted_version)`;

const SELECT = sql`
  select t.*, coalesce(p.primed, false) as primed, ${HALTED} as halted, l.code as halt_code, l.at as halt_at,
         m.owner, m.owner_since, m.hand_off,
         w.code as warning_code, w.at as warning_at, e.stored_at as last_event_at
  from triggers t
  left join poll_states p on p.trigger_id = t.id
  left join legacy_triggers m on m.trigger_id = t.id
  left join lateral (select state, code, at, config_version from trigger_lifecycle
                     where trigger_id = t.id and state in ('halted', 'resumed') order by at desc, state desc limit 1) l on true
  left join lateral (select code, at from trigger_lifecycle
                     where trigger_id = t.id and state = 'warning' order by at desc limit 1) w on true
  left join lateral (select stored_at from events where trigger_id = t.id order by seq desc limit 1) e on true`;

export async function selectTriggers(db: Runner, where: SQL, limit: number): Promise<readonly TriggerView[]> {
  const rows = await db.execute<Row>(
    sql`${SELECT} where ${where} and t.deleted_at is null order by t.id desc limit ${limit}`,
  );
  return rows.map(viewOf);
}

/** Newest first. */
export function listTriggers(db: Runner, tenantId: string, filter: TriggerFilter): Promise<readonly TriggerView[]> {
  const where = [sql`t.tenant_id = ${tenantId}`];
  if (filter.before !== undefined) where.push(sql`t.id < ${filter.before}::uuid`);
  if (filter.toolkit !== undefined) where.push(sql`t.toolkit = ${filter.toolkit}`);
  if (filter.slug !== undefined) where.push(sql`t.slug = ${filter.slug}`);
  if (filter.connectionId !== undefined) where.push(sql`t.connection_id = ${filter.connectionId}`);
  if (filter.deduplicationKey !== undefined) where.push(sql`t.deduplication_key = ${filter.deduplicationKey}`);
  if (filter.tag !== undefined) where.push(sql`${filter.tag} = any(t.tags)`);
  if (filter.search !== undefined) where.push(matching(filter.search));
  if (filter.state === 'disabled') where.push(sql`not t.enabled`);
  if (filter.state === 'halted') {
    // The first condition is implied by the second: it spares the lateral join for each of the tenant's triggers.
    where.push(sql`t.id in (select trigger_id from trigger_lifecycle where state = 'halted')`);
    where.push(sql`t.enabled and coalesce(${HALTED}, false)`);
  }
  if (filter.state === 'active') where.push(sql`t.enabled and not coalesce(${HALTED}, false)`);
  return selectTriggers(db, sql.join(where, sql` and `), filter.limit);
}

function matching(search: string): SQL {
  const literal = search.replaceAll(/[\\%_]/g, String.raw`\$&`);
  const part = `%${literal}%`;
  return sql`(t.name ilike ${part} or t.deduplication_key ilike ${part} or t.toolkit ilike ${part} or t.slug ilike ${part}
    or t.id::text like ${`${literal.toLowerCase()}%`} or ${search} = any(t.tags))`;
}

function viewOf(row: Row): TriggerView {
  const text = (name: string): string => String(row[name]);
  const textOrNull = (name: string): string | null => (row[name] === null ? null : String(row[name]));
  return {
    id: row.id,
    deduplicationKey: textOrNull('deduplication_key'),
    name: textOrNull('name'),
    tags: row.tags as string[],
    toolkit: text('toolkit'),
    slug: text('slug'),
    version: text('version'),
    config: text('config'),
    connectionId: text('connection_id'),
    intervalSeconds: Number(row.interval_seconds),
    enabled: row.enabled === true,
    since: isoOrNull(row.since),
    poll: {
      dedupe: text('poll_dedupe') as TriggerRow['pollDedupe'],
      overlapSeconds: row.poll_overlap_seconds === null ? null : Number(row.poll_overlap_seconds),
      repeatable: row.poll_repeatable === true,
    },
    configVersion: Number(row.config_version),
    createdAt: iso(row.created_at),
    updatedAt: iso(row.updated_at),
    primed: row.primed === true,
    pipeline: pipelineOf(row),
    status: statusOf(row),
    warning: row.warning_code === null ? null : { code: text('warning_code'), at: iso(row.warning_at) },
    lastEventAt: isoOrNull(row.last_event_at),
  };
}

/** The migration whose hand-off (`hand-off:{uuid}:{n}`) this is. */
export function migrationOf(handOff: unknown): string | null {
  const [, uuid] = /^hand-off:(.+):\d+$/.exec(String(handOff)) ?? [];
  return uuid === undefined ? null : `migration:${uuid}`;
}

/** A trigger without a row of the legacy pipeline was v2's from the beginning. */
function pipelineOf(row: Row): TriggerPipeline {
  const owner = row.owner as 'legacy' | 'to_v2' | 'v2' | 'to_legacy' | null;
  return {
    name: owner === 'legacy' || owner === 'to_v2' ? 'legacy' : 'v2',
    movingTo: owner === 'to_v2' ? 'v2' : owner === 'to_legacy' ? 'legacy' : null,
    migration: migrationOf(row.hand_off),
    since: isoOrNull(row.owner_since),
  };
}

function statusOf(row: Row): TriggerStatus {
  if (row.enabled !== true) {
    const by = row.disabled_by === null ? null : String(row.disabled_by);
    const reason = row.disabled_reason === null ? null : String(row.disabled_reason);
    return { state: 'disabled', code: 'disabled', since: isoOrNull(row.disabled_at), by, reason };
  }
  if (row.halted === true) {
    return { state: 'halted', code: String(row.halt_code), since: iso(row.halt_at), by: 'engine', reason: null };
  }
  return { state: 'active', code: null, since: null, by: null, reason: null };
}
