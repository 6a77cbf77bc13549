/**
 * Limits that polls were told of, written down before their batch commits, and told to every worker at once: LISTEN/NOTIFY.
 * Behind a pooler that breaks LISTEN the workers learn of them by reading (`sourceLimits`).
 */
import type { Sql } from 'postgres';

export interface LimitRow {
  readonly toolkit: string;
  readonly tenantId: string;
  readonly connectionId: string;
  /** From the database's now on. */
  readonly seconds: number;
}

const CHANNEL = 'milkrun_limits';
/** A notification carries less than 8,000 bytes; a connection's names are at most 1,536. */
const TOLD_AT_ONCE = 4;

const LIMIT = `
with d as materialized (
  select * from jsonb_to_recordset($1::text::jsonb) as d("toolkit" text, "tenantId" text, "connectionId" text, "seconds" float8)),
l as (
  insert into source_limits as l (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
  select distinct on (1, 2) hash32("toolkit"), hash64("tenantId", "connectionId"), null::int, statement_timestamp() + greatest(1, "seconds") * interval '1 s',
    statement_timestamp(), 'rate_limited', "toolkit", "tenantId", "connectionId" from d order by 1, 2, "seconds" desc
  on conflict (toolkit_h, connection_h) do update set not_before = greatest(l.not_before, excluded.not_before))
select pg_notify('${CHANNEL}', t.told) from (
  select jsonb_agg(to_jsonb(d))::text as told from (select d.*, (row_number() over () - 1) / ${TOLD_AT_ONCE} as part from d) d group by part) t`;

export async function limitSources(sql: Sql, limits: readonly LimitRow[]): Promise<void> {
  await sql.unsafe(LIMIT, [JSON.stringify(limits)], { prepare: true });
}

/** Limits in force that a provider asked for; at most 10,000, the longest first. */
export async function readSourceLimits(sql: Sql): Promise<readonly LimitRow[]> {
  return await sql.unsafe<LimitRow[]>(
    `select toolkit, tenant_id as "tenantId", connection_id as "connectionId", extract(epoch from not_before - statement_timestamp())::float8 as seconds
     from source_limits where reason = 'rate_limited' and not_before > statement_timestamp() order by not_before desc limit 10000`,
    [],
    { prepare: true },
  );
}

/** Calls `heard` for every limit that any worker writes down, and `connected` whenever the connection is made (anew). */
export async function listenForLimits(
  sql: Sql,
  heard: (limit: LimitRow) => void,
  connected: () => void,
): Promise<() => Promise<void>> {
  const { unlisten } = await sql.listen(
    CHANNEL,
    (payload) => {
      for (const limit of JSON.parse(payload) as LimitRow[]) heard(limit);
    },
    connected,
  );
  return unlisten;
}
