/**
 * Activity definitions: an immutable row for each version, and one row that says which is current. Every write is one
 * transaction with its audit entry, and wakes whoever keeps the schedules in step.
 */
import { type Clock, type Rng, type StoredDefinition, uuidv7 } from '@milkrun/core';
import { type SQL, sql } from 'drizzle-orm';
import { record } from '../audit.ts';
import { iso, isoOrNull, type Runner, type Store, type Transaction } from '../database.ts';
import { type Actor, RegistryProblem } from '../problem.ts';
import { notifyActivities } from './scheduling.ts';

export interface ActivityView {
  readonly id: string;
  readonly tenantId: string;
  readonly slug: string;
  readonly name: string;
  readonly enabled: boolean;
  readonly triggerType: StoredDefinition['triggerType'];
  readonly version: number;
  /** JSON text of the current version. */
  readonly spec: string;
  readonly origin: 'api' | 'file';
  readonly status: 'active' | 'done' | 'tripped';
  readonly statusReason: string | null;
  readonly failuresInRow: number;
  readonly coveredAt: string | null;
  readonly disabledAt: string | null;
  readonly scheduleSyncedAt: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface VersionView {
  readonly version: number;
  readonly spec: string;
  readonly createdBy: string;
  readonly reason: string | null;
  readonly createdAt: string;
}

export interface ActivityWriteOptions {
  readonly ifVersion?: number | undefined;
  readonly reason?: string | undefined;
}

export interface Activities {
  /** By id or slug. */
  get(tenantId: string, name: string): Promise<ActivityView>;
  list(
    tenantId: string,
    filter: { readonly limit: number; readonly after?: string | undefined; readonly triggerType?: string | undefined },
  ): Promise<readonly ActivityView[]>;
  create(actor: Actor, input: StoredDefinition, origin?: 'api' | 'file'): Promise<ActivityView>;
  /** Publishes a new version; one that says the same as the current changes nothing. */
  update(actor: Actor, id: string, input: StoredDefinition, options?: ActivityWriteOptions): Promise<ActivityView>;
  remove(actor: Actor, id: string, options?: ActivityWriteOptions): Promise<void>;
  setEnabled(
    actor: Actor,
    id: string,
    enabled: boolean,
    options?: ActivityWriteOptions & { readonly recover?: boolean },
  ): Promise<ActivityView>;
  /** Lifts a trip, so that it runs again. */
  reset(actor: Actor, id: string, options?: ActivityWriteOptions): Promise<ActivityView>;
  versions(tenantId: string, id: string): Promise<readonly VersionView[]>;
  version(tenantId: string, id: string, version: number): Promise<VersionView>;
}

interface Row extends Record<string, unknown> {
  id: string;
  tenant_id: string;
  slug: string;
  name: string;
  enabled: boolean;
  trigger_type: StoredDefinition['triggerType'];
  version: number;
  spec: string;
  fingerprint: string;
  time_key: string | null;
  origin: 'api' | 'file';
  status: ActivityView['status'];
  status_reason: string | null;
  failures_in_row: number;
  covered_at: string | null;
  disabled_at: string | null;
  schedule_synced_at: string | null;
  created_at: string;
  updated_at: string;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const SELECT = sql`select d.id::text, d.tenant_id, d.slug, d.name, d.enabled, d.trigger_type, d.version, v.spec,
  d.fingerprint, d.time_key, d.origin, d.status, d.status_reason, d.failures_in_row, d.covered_at, d.disabled_at,
  d.schedule_synced_at, d.created_at, d.updated_at
  from activity_definitions d join activity_versions v on v.activity_id = d.id and v.version = d.version`;

export function createActivities({ db, transact }: Store, clock: Clock, rng: Rng): Activities {
  async function view(runner: Runner, id: string): Promise<ActivityView> {
    const [row] = await runner.execute<Row>(sql`${SELECT} where d.id = ${id}::uuid`);
    return viewOf(row as Row);
  }

  return {
    async get(tenantId, name) {
      const by = UUID.test(name) ? sql`d.id = ${name}::uuid` : sql`d.slug = ${name}`;
      const [row] = await db.execute<Row>(
        sql`${SELECT} where d.tenant_id = ${tenantId} and ${by} and d.deleted_at is null`,
      );
      if (row === undefined) throw missing(name);
      return viewOf(row);
    },
    async list(tenantId, { limit, after, triggerType }) {
      const where = [sql`d.tenant_id = ${tenantId}`, sql`d.deleted_at is null`];
      if (after !== undefined) where.push(sql`d.id > ${after}::uuid`);
      if (triggerType !== undefined) where.push(sql`d.trigger_type = ${triggerType}`);
      const rows = await db.execute<Row>(
        sql`${SELECT} where ${sql.join(where, sql` and `)} order by d.id limit ${limit}`,
      );
      return rows.map(viewOf);
    },
    create: (actor, input, origin = 'api') =>
      transact(async (tx) => {
        const id = uuidv7(clock, rng);
        const rows = await tx.execute(sql`
          insert into activity_definitions (id, tenant_id, slug, name, enabled, trigger_type, trigger_config, context_sources,
            task_templates, dedupe_key_strategy, version, fingerprint, origin, time_key, event_types, covered_at, disabled_at)
          values (${id}::uuid, ${actor.tenantId}, ${input.slug}, ${input.name}, ${input.enabled}, ${input.triggerType},
            ${input.triggerConfig}::text::jsonb, ${input.contextSources}::text::jsonb, ${input.taskTemplates}::text::jsonb,
            ${input.dedupeKeyStrategy}, 1, ${input.fingerprint}, ${origin}, ${input.timeKey}, ${textArray(input.eventTypes)},
            case when ${input.timeKey}::text is not null then statement_timestamp() end,
            case when not ${input.enabled}::boolean then statement_timestamp() end)
          on conflict (tenant_id, slug) where deleted_at is null do nothing
          returning 1`);
        if (rows.length === 0) throw new RegistryProblem('conflict', `the slug ${input.slug} is taken`, 'slug');
        await insertVersion(tx, actor, id, 1, input, undefined);
        await record(tx, {
          actor,
          action: 'created',
          kind: 'activity',
          ids: [id],
          detail: JSON.stringify({ version: 1, after: input.fingerprint }),
        });
        await notifyActivities(tx, id);
        return view(tx, id);
      }),
    update: (actor, id, input, options) =>
      transact(async (tx) => {
        const row = await lock(tx, actor.tenantId, id);
        checkVersion(row, options);
        const same = row.fingerprint === input.fingerprint;
        if (same && row.enabled === input.enabled && row.slug === input.slug) return viewOf(row);
        const version = same ? row.version : row.version + 1;
        const isNewTime = row.time_key !== input.timeKey;
        const changed = await tx.execute(sql`
          update activity_definitions set slug = ${input.slug}, name = ${input.name}, enabled = ${input.enabled},
            trigger_type = ${input.triggerType}, trigger_config = ${input.triggerConfig}::text::jsonb,
            context_sources = ${input.contextSources}::text::jsonb, task_templates = ${input.taskTemplates}::text::jsonb,
            dedupe_key_strategy = ${input.dedupeKeyStrategy}, version = ${version}, fingerprint = ${input.fingerprint},
            time_key = ${input.timeKey}, event_types = ${textArray(input.eventTypes)},
            covered_at = case when ${input.timeKey}::text is null then null
              when ${isNewTime}::boolean then statement_timestamp() else covered_at end,
            status = case when status = 'done' and ${isNewTime}::boolean then 'active' else status end,
            disabled_at = case when ${input.enabled}::boolean then null else coalesce(disabled_at, statement_timestamp()) end,
            disabled_by = case when ${input.enabled}::boolean then null else coalesce(disabled_by, ${actor.name}) end,
            updated_at = statement_timestamp()
          where id = ${id}::uuid and not exists (select 1 from activity_definitions o
            where o.tenant_id = ${actor.tenantId} and o.slug = ${input.slug} and o.id <> ${id}::uuid and o.deleted_at is null)
          returning 1`);
        if (changed.length === 0) throw new RegistryProblem('conflict', `the slug ${input.slug} is taken`, 'slug');
        if (!same) await insertVersion(tx, actor, id, version, input, options?.reason);
        await record(tx, {
          actor,
          action: same ? (input.enabled ? 'enabled' : 'disabled') : 'published',
          kind: 'activity',
          ids: [id],
          reason: options?.reason,
          detail: JSON.stringify({
            version,
            before: row.fingerprint,
            after: input.fingerprint,
            changed: changedFields(row.spec, input.spec),
          }),
        });
        await notifyActivities(tx, id);
        return view(tx, id);
      }),
    async remove(actor, id, options) {
      await transact(async (tx) => {
        const row = await lock(tx, actor.tenantId, id);
        checkVersion(row, options);
        await tx.execute(sql`
          update activity_definitions set deleted_at = statement_timestamp(), updated_at = statement_timestamp()
          where id = ${id}::uuid`);
        await record(tx, { actor, action: 'deleted', kind: 'activity', ids: [id], reason: options?.reason });
        await notifyActivities(tx, id);
      });
    },
    setEnabled: (actor, id, enabled, options) =>
      transact(async (tx) => {
        const row = await lock(tx, actor.tenantId, id);
        checkVersion(row, options);
        if (row.enabled === enabled) return viewOf(row);
        // Time spent disabled is not made up for, unless it is asked for.
        const covers = enabled && options?.recover !== true && row.time_key !== null;
        await tx.execute(sql`
          update activity_definitions set enabled = ${enabled}, updated_at = statement_timestamp(),
            disabled_at = case when ${enabled}::boolean then null else statement_timestamp() end,
            disabled_by = case when ${enabled}::boolean then null else ${actor.name} end,
            disabled_reason = case when ${enabled}::boolean then null else ${options?.reason ?? null}::text end,
            covered_at = case when ${covers}::boolean then statement_timestamp() else covered_at end
          where id = ${id}::uuid`);
        await record(tx, {
          actor,
          action: enabled ? 'enabled' : 'disabled',
          kind: 'activity',
          ids: [id],
          reason: options?.reason,
          ...(enabled ? { detail: JSON.stringify({ recover: options?.recover === true }) } : {}),
        });
        await notifyActivities(tx, id);
        return view(tx, id);
      }),
    reset: (actor, id, options) =>
      transact(async (tx) => {
        const row = await lock(tx, actor.tenantId, id);
        checkVersion(row, options);
        await tx.execute(sql`
          update activity_definitions set status = 'active', status_reason = null, failures_in_row = 0,
            covered_at = case when status = 'tripped' and time_key is not null then statement_timestamp() else covered_at end,
            updated_at = statement_timestamp()
          where id = ${id}::uuid and status <> 'done'`);
        await record(tx, { actor, action: 'reset', kind: 'activity', ids: [id], reason: options?.reason });
        await notifyActivities(tx, id);
        return view(tx, id);
      }),
    async versions(tenantId, id) {
      const rows = await db.execute<VersionRow>(sql`
        select v.version, v.spec, v.created_by, v.reason, v.created_at from activity_versions v
        join activity_definitions d on d.id = v.activity_id
        where d.id = ${id}::uuid and d.tenant_id = ${tenantId} order by v.version desc`);
      if (rows.length === 0) throw missing(id);
      return rows.map(versionOf);
    },
    async version(tenantId, id, version) {
      const [row] = await db.execute<VersionRow>(sql`
        select v.version, v.spec, v.created_by, v.reason, v.created_at from activity_versions v
        join activity_definitions d on d.id = v.activity_id
        where d.id = ${id}::uuid and d.tenant_id = ${tenantId} and v.version = ${version}`);
      if (row === undefined) throw new RegistryProblem('not_found', `no version ${version} of activity ${id}`);
      return versionOf(row);
    },
  };
}

interface VersionRow extends Record<string, unknown> {
  version: number;
  spec: string;
  created_by: string;
  reason: string | null;
  created_at: string;
}

const versionOf = ({ version, spec, created_by, reason, created_at }: VersionRow): VersionView => ({
  version,
  spec,
  createdBy: created_by,
  reason,
  createdAt: iso(created_at),
});

const textArray = (values: readonly string[]): SQL =>
  sql`array(select json_array_elements_text(${JSON.stringify(values)}::text::json))`;

const missing = (name: string): RegistryProblem => new RegistryProblem('not_found', `no activity ${name}`);

async function lock(tx: Transaction, tenantId: string, id: string): Promise<Row> {
  // Locked by a statement of its own: one that waited for another edit would not see the version that edit has made.
  const own = sql`d.id = ${id}::uuid and d.tenant_id = ${tenantId} and d.deleted_at is null`;
  await tx.execute(sql`select 1 from activity_definitions d where ${own} for update`);
  const [row] = await tx.execute<Row>(sql`${SELECT} where ${own}`);
  if (row === undefined) throw missing(id);
  return row;
}

function checkVersion(row: Row, options: ActivityWriteOptions | undefined): void {
  if (options?.ifVersion === undefined || options.ifVersion === row.version) return;
  throw new RegistryProblem('precondition_failed', `it is at version ${row.version}, not ${options.ifVersion}`);
}

async function insertVersion(
  tx: Transaction,
  actor: Actor,
  id: string,
  version: number,
  { spec, fingerprint }: StoredDefinition,
  reason: string | undefined,
): Promise<void> {
  await tx.execute(sql`
    insert into activity_versions (activity_id, version, spec, fingerprint, created_by, reason)
    values (${id}::uuid, ${version}, ${spec}, ${fingerprint}, ${actor.name}, ${reason ?? null})`);
}

/** Names of the top-level fields that differ; never their values, which may hold what a header holds. */
function changedFields(before: string, after: string): string[] {
  const [a, b] = [JSON.parse(before), JSON.parse(after)] as [Record<string, unknown>, Record<string, unknown>];
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...names].filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name])).sort();
}

function viewOf(row: Row): ActivityView {
  return {
    id: row.id,
    tenantId: row.tenant_id,
    slug: row.slug,
    name: row.name,
    enabled: row.enabled,
    triggerType: row.trigger_type,
    version: row.version,
    spec: row.spec,
    origin: row.origin,
    status: row.status,
    statusReason: row.status_reason,
    failuresInRow: row.failures_in_row,
    coveredAt: isoOrNull(row.covered_at),
    disabledAt: isoOrNull(row.disabled_at),
    scheduleSyncedAt: isoOrNull(row.schedule_synced_at),
    createdAt: iso(row.created_at),
    updatedAt: iso(row.updated_at),
  };
}
