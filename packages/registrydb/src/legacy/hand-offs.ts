/** registrydb's side of a hand-off: the ownership record, what the legacy pipeline remembers, and the audit entry. */
import type {
  CarriedTrigger,
  DedupeStrategy,
  Direction,
  HandOffKey,
  HandOffRefusal,
  LegacyHandOffs,
} from '@milkrun/core';
import type { Sql, TransactionSql } from 'postgres';
import { isoOrNull } from '../database.ts';
import { FEED_CHANNEL, FEED_LOCK } from '../feed-append.ts';
import { applyInstructions } from './instructions.ts';

/** A hand-off whose workflow is gone is taken over by the next one after this. */
const ABANDONED = "interval '10 min'";

interface SealedRow {
  readonly trigger_id: string;
  readonly toolkit: string;
  readonly poll_dedupe: DedupeStrategy;
  readonly ownership_epoch: number;
  readonly poll_epoch: number;
  readonly applied_version: string;
  readonly cursor: string | null;
  readonly seen: Buffer;
  readonly primed: boolean;
  readonly version_used: string | null;
  readonly failure_count: number;
  readonly poison_count: number;
  readonly next_poll_at: string | null;
  readonly last_ok_at: string | null;
  readonly halted_code: string | null;
  readonly halted_at: string | null;
  readonly held: readonly { readonly eventId: string; readonly json: string }[] | null;
}

export function createLegacyHandOffs(sql: Sql): LegacyHandOffs {
  const scoped = (direction: Direction): string => {
    const owned = direction === 'to_v2' ? "l.owner = 'legacy'" : "(l.owner is null or l.owner = 'v2')";
    return `from triggers t left join legacy_triggers l on l.trigger_id = t.id
      where t.deleted_at is null and ${owned} and ($1::text is null or t.tenant_id = $1) and ($2::text is null or t.toolkit = $2)`;
  };
  return {
    async count(direction, { tenantId = null, toolkit = null }) {
      const [row] = await sql.unsafe<{ n: number }[]>(`select count(*)::int as n ${scoped(direction)}`, [
        tenantId,
        toolkit,
      ]);
      return row?.n ?? 0;
    },
    async select({ direction, scope: { tenantId = null, toolkit = null }, after, limit }) {
      const rows = await sql.unsafe<{ id: string }[]>(
        `select t.id ${scoped(direction)} and ($3::uuid is null or t.id > $3) order by t.id limit $4`,
        [tenantId, toolkit, after, limit],
      );
      return rows.map(({ id }) => id);
    },
    begin: (input) => begin(sql, input),
    async unquiet({ handOff, triggerIds }) {
      return await sql.unsafe<{ triggerId: string; seconds: number }[]>(
        `select trigger_id as "triggerId", extract(epoch from statement_timestamp() - owner_since)::float8 as seconds from legacy_triggers
         where trigger_id = any ($2::uuid[]) and hand_off = $1 and owner = 'to_v2' and not sealed and quiet_at is null`,
        [handOff, triggerIds as string[]],
      );
    },
    async markQuiet({ handOff, triggerIds }) {
      await sql.unsafe(
        `update legacy_triggers set quiet_at = coalesce(quiet_at, statement_timestamp())
         where trigger_id = any ($2::uuid[]) and hand_off = $1 and owner = 'to_v2' and not sealed`,
        [handOff, triggerIds as string[]],
      );
    },
    async seal({ handOff, triggerIds, longestCallSeconds }) {
      const ids = triggerIds as string[];
      await applyInstructions(sql, ids);
      await sql.unsafe(
        `update legacy_triggers set sealed = true, ownership_epoch = ownership_epoch + 1
         where trigger_id = any ($2::uuid[]) and hand_off = $1 and owner = 'to_v2' and not sealed
           and quiet_at <= statement_timestamp() - $3 * interval '1 s'`,
        [handOff, ids, longestCallSeconds],
      );
      // A snapshot younger than the seal: no commit can follow it.
      const rows = await sql.unsafe<SealedRow[]>(
        `select l.*, t.toolkit, t.poll_dedupe,
           (select jsonb_agg(jsonb_build_object('eventId', h.event_id, 'json', h.event) order by h.seq) from legacy_held_events h
             where h.trigger_id = l.trigger_id) as held
         from legacy_triggers l join triggers t on t.id = l.trigger_id
         where l.trigger_id = any ($2::uuid[]) and l.hand_off = $1 and l.sealed and t.deleted_at is null order by l.trigger_id`,
        [handOff, ids],
      );
      const [rest] = await sql.unsafe<{ wait_ms: number | null; gone: string[] }[]>(
        `select min(case when l.hand_off = $1 and not l.sealed then greatest(0, coalesce(
             extract(epoch from l.quiet_at + $3 * interval '1 s' - statement_timestamp()) * 1000, 2000)) end)::float8 as wait_ms,
           coalesce(array_agg(l.trigger_id) filter (where t.deleted_at is not null or l.hand_off is distinct from $1), '{}') as gone
         from legacy_triggers l join triggers t on t.id = l.trigger_id where l.trigger_id = any ($2::uuid[])`,
        [handOff, ids, longestCallSeconds],
      );
      return { carried: rows.map(carriedOf), gone: rest?.gone ?? [], waitMs: rest?.wait_ms ?? null };
    },
    async accept({ handOff, actor, carried }) {
      return await sql.begin(async (tx) => {
        const rows = await tx.unsafe<{ id: string }[]>(ACCEPT, [JSON.stringify(carried.map(jsonOf)), handOff, actor], {
          prepare: true,
        });
        const ids = rows.map(({ id }) => id);
        await showAgain(tx, ids);
        return ids;
      });
    },
    async conclude({ handOff, actor, triggerIds }) {
      await sql.begin(async (tx) => {
        await tx.unsafe(
          `with u as (
           update legacy_triggers l set owner = 'v2', owner_since = statement_timestamp(), hand_off = null, sealed = false, quiet_at = null
           from triggers t where l.trigger_id = any ($2::uuid[]) and l.hand_off = $1 and l.owner = 'to_v2' and l.sealed and t.id = l.trigger_id
           returning l.trigger_id, l.ownership_epoch, t.tenant_id),
         h as (delete from legacy_held_events e using u where e.trigger_id = u.trigger_id)
         insert into audit (tenant_id, actor, action, object_kind, object_id, detail)
         select tenant_id, $3, 'moved_to_v2', 'trigger', trigger_id::text, json_build_object('handOff', $1::text, 'ownershipEpoch', ownership_epoch)::text
         from u order by trigger_id`,
          [handOff, triggerIds as string[], actor],
        );
        await showAgain(tx, triggerIds);
      });
    },
    async cancel({ handOff, direction, triggerIds }) {
      await sql.unsafe(
        `update legacy_triggers set owner = $3, owner_since = statement_timestamp(), hand_off = null, quiet_at = null, nudged_at = null
         where trigger_id = any ($2::uuid[]) and hand_off = $1 and owner = $4 and not sealed`,
        [handOff, triggerIds as string[], direction === 'to_v2' ? 'legacy' : 'v2', direction],
      );
    },
  };
}

/**
 * The feed shows who owns them once more, at its end: an engine whose database was put back reads on from before. Its
 * sequence numbers are taken last, under the feed's lock.
 */
async function showAgain(tx: TransactionSql, triggerIds: readonly string[]): Promise<void> {
  if (triggerIds.length === 0) return;
  await tx.unsafe(`select pg_advisory_xact_lock(${FEED_LOCK}, 0)`);
  await tx.unsafe(
    `update trigger_changes set seq = nextval('trigger_changes_seq') where trigger_id = any ($1::uuid[]) and not superseded`,
    [triggerIds as string[]],
  );
  await tx.unsafe('select pg_notify($1, $2)', [FEED_CHANNEL, '']);
}

async function begin(sql: Sql, { handOff, direction, triggerIds, accepts }: Parameters<LegacyHandOffs['begin']>[0]) {
  const from = direction === 'to_v2' ? 'legacy' : 'v2';
  return await sql.begin(async (tx) => {
    // The lock makes a rewind come before, and be seen in the version, or be refused.
    const known = await tx.unsafe<
      { id: string; toolkit: string; poll_dedupe: DedupeStrategy; config_version: string; owner: string | null }[]
    >(
      `select t.id, t.toolkit, t.poll_dedupe, t.config_version, l.owner from triggers t left join legacy_triggers l on l.trigger_id = t.id
       where t.id = any ($1::uuid[]) and t.deleted_at is null order by t.id for share of t`,
      [triggerIds as string[]],
    );
    const refused: { triggerId: string; code: HandOffRefusal }[] = [];
    const found = new Set(known.map(({ id }) => id));
    for (const triggerId of triggerIds) if (!found.has(triggerId)) refused.push({ triggerId, code: 'not_found' });
    const wanted = known.filter(({ id: triggerId, toolkit, poll_dedupe: dedupe, owner }) => {
      const there = direction === 'to_v2' ? owner === null || owner === 'v2' : owner === 'legacy';
      const code = there ? 'already_there' : accepts(toolkit, dedupe) ? undefined : 'no_codec';
      if (code !== undefined) refused.push({ triggerId, code });
      return code === undefined;
    });
    const ids = wanted.map(({ id }) => id);
    if (direction === 'to_legacy') {
      await tx.unsafe(
        `insert into legacy_triggers (trigger_id, owner, next_poll_at) select id, 'v2', null from unnest($1::uuid[]) as g(id) order by id
         on conflict do nothing`,
        [ids],
      );
    }
    const marked = await tx.unsafe<{ id: string }[]>(
      `update legacy_triggers set hand_off = $2, owner = $3,
         owner_since = case when hand_off = $2 then owner_since else statement_timestamp() end
       where trigger_id = any ($1::uuid[])
         and (owner = $4 or (owner = $3 and (hand_off = $2 or owner_since < statement_timestamp() - ${ABANDONED})))
       returning trigger_id as id`,
      [ids, handOff, direction, from],
    );
    const mine = new Set(marked.map(({ id }) => id));
    const begun: HandOffKey[] = [];
    for (const { id: triggerId, config_version: version } of wanted) {
      if (mine.has(triggerId)) begun.push({ triggerId, configVersion: Number(version) });
      else refused.push({ triggerId, code: 'moving' });
    }
    return { begun, refused };
  });
}

function carriedOf(row: SealedRow): CarriedTrigger {
  const at = isoOrNull(row.halted_at);
  return {
    triggerId: row.trigger_id,
    toolkit: row.toolkit,
    dedupe: row.poll_dedupe,
    ownershipEpoch: row.ownership_epoch,
    pollEpoch: row.poll_epoch,
    configVersion: Number(row.applied_version),
    cursor: row.cursor,
    seen: Buffer.from(row.seen).toString('base64'),
    toldUntil: null,
    primed: row.primed,
    // The engine has followed the same instructions by itself.
    primeFrom: null,
    versionUsed: row.version_used,
    failureCount: row.failure_count,
    poisonCount: row.poison_count,
    nextPollAt: isoOrNull(row.next_poll_at),
    lastOkAt: isoOrNull(row.last_ok_at),
    halted: row.halted_code === null || at === null ? null : { code: row.halted_code, at },
    held: row.held ?? [],
  };
}

const jsonOf = (one: CarriedTrigger) => ({
  i: one.triggerId,
  oe: one.ownershipEpoch,
  pe: one.pollEpoch,
  cv: one.configVersion,
  cur: one.cursor,
  sn: one.seen,
  tu: one.toldUntil,
  pm: one.primed,
  pf: one.primeFrom,
  v: one.versionUsed,
  fc: one.failureCount,
  pc: one.poisonCount,
  due: one.nextPollAt,
  lo: one.lastOkAt,
  hc: one.halted?.code ?? null,
  ha: one.halted?.at ?? null,
  h: one.held.map(({ eventId, json }) => ({ id: eventId, ev: json })),
});

/** $1 what is carried, $2 the hand-off, $3 the actor. An earlier attempt may have done it: then the row answers all the same. */
const ACCEPT = `
with d as materialized (
  select * from jsonb_to_recordset($1::text::jsonb) as d(i uuid, oe integer, pe integer, cv bigint, cur text, sn text, tu timestamptz, pm boolean,
    pf timestamptz, v text, fc integer, pc integer, due timestamptz, lo timestamptz, hc text, ha timestamptz, h jsonb)),
locked as materialized (
  select d.*, t.tenant_id, t.created_at, l.owner = 'to_legacy' and l.hand_off = $2 and l.ownership_epoch < d.oe as takes,
    l.owner = 'legacy' and l.ownership_epoch = d.oe as has
  from (select * from d order by i) d join legacy_triggers l on l.trigger_id = d.i join triggers t on t.id = d.i order by d.i for update of l),
u as (
  update legacy_triggers l set owner = 'legacy', ownership_epoch = d.oe, owner_since = statement_timestamp(), hand_off = null, quiet_at = null,
    poll_epoch = greatest(l.poll_epoch, d.pe), applied_version = d.cv, cursor = d.cur, seen = decode(d.sn, 'base64'),
    primed = d.pm and d.tu is null, version_used = d.v,
    prime_from = case when d.tu is not null then d.tu + interval '1 ms' when not d.pm and d.pf is distinct from d.created_at then d.pf end,
    failure_count = d.fc, poison_count = d.pc, last_ok_at = d.lo, halted_code = d.hc, halted_at = d.ha,
    halted_version = case when d.hc is not null then d.cv end, nudged_at = null,
    next_poll_at = case when d.hc is not null then d.due else coalesce(d.due, statement_timestamp()) end
  from locked d where d.takes and l.trigger_id = d.i returning l.trigger_id),
h as (
  insert into legacy_held_events (trigger_id, event_id, event)
  select d.i, x.id, x.ev from locked d cross join lateral rows from (jsonb_to_recordset(d.h) as (id text, ev text)) with ordinality as x(id, ev, n)
  where d.takes order by d.i, x.n on conflict do nothing),
a as (
  insert into audit (tenant_id, actor, action, object_kind, object_id, detail)
  select d.tenant_id, $3, 'moved_to_legacy', 'trigger', d.i::text, json_build_object('handOff', $2::text, 'ownershipEpoch', d.oe)::text
  from locked d where d.takes order by d.i)
select i as id from locked where takes or has`;
