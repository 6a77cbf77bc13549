/** Webhooks: addresses at which a provider delivers events it has signed. Their secrets are sealed, and shown once. */
import { type Clock, type Rng, uuidv7 } from '@milkrun/core';
import { sql } from 'drizzle-orm';
import { record } from '../audit.ts';
import { iso, isoOrNull, type Runner, type Store } from '../database.ts';
import { type Actor, RegistryProblem } from '../problem.ts';
import type { Sealer } from '../sealing.ts';

export interface WebhookInput {
  readonly slug: string;
  /** Type of its events. */
  readonly type: string;
  readonly scheme: 'standard' | 'github';
  /** How far the sender's clock may be off. */
  readonly toleranceSeconds: number;
  readonly enabled: boolean;
}

export interface WebhookView extends WebhookInput {
  readonly id: string;
  /** Until when the secret before the last rotation is accepted. */
  readonly beforeUntil: string | null;
  readonly version: number;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** What verifying a delivery needs. */
export interface WebhookKeys {
  readonly tenantId: string;
  readonly slug: string;
  readonly type: string;
  readonly scheme: WebhookInput['scheme'];
  readonly toleranceSeconds: number;
  /** The current one first. */
  readonly secrets: readonly string[];
}

export interface Webhooks {
  create(actor: Actor, input: WebhookInput, secret: string): Promise<WebhookView>;
  get(tenantId: string, id: string): Promise<WebhookView>;
  list(
    tenantId: string,
    filter: { readonly limit: number; readonly before?: string | undefined },
  ): Promise<readonly WebhookView[]>;
  update(actor: Actor, id: string, input: WebhookInput, ifVersion?: number): Promise<WebhookView>;
  /** The secret of before is accepted for `overlapSeconds` more. */
  rotate(actor: Actor, id: string, secret: string, overlapSeconds: number): Promise<WebhookView>;
  remove(actor: Actor, id: string, ifVersion?: number): Promise<void>;
  /** Of one that is enabled, whichever tenant it belongs to; undefined: there is none. */
  keys(id: string): Promise<WebhookKeys | undefined>;
}

interface Row extends Record<string, unknown> {
  id: string;
  tenant_id: string;
  slug: string;
  type: string;
  scheme: WebhookInput['scheme'];
  tolerance_seconds: number;
  sealed: Uint8Array;
  sealed_before: Uint8Array | null;
  before_until: string | null;
  before_counts: boolean;
  enabled: boolean;
  version: number;
  created_at: string;
  updated_at: string;
}

const SELECT = sql`select id::text, tenant_id, slug, type, scheme, tolerance_seconds, sealed, sealed_before, before_until,
  coalesce(before_until > statement_timestamp(), false) as before_counts, enabled, version, created_at, updated_at from webhooks`;

export function createWebhooks({ db, transact }: Store, sealer: Sealer, clock: Clock, rng: Rng): Webhooks {
  const boundTo = (tenantId: string, id: string): readonly string[] => [tenantId, 'webhook', id];
  const missing = (id: string): RegistryProblem => new RegistryProblem('not_found', `no webhook ${id}`);
  async function locked(tx: Runner, { tenantId }: Actor, id: string, ifVersion?: number): Promise<Row> {
    const [row] = await tx.execute<Row>(
      sql`${SELECT} where id = ${id}::uuid and tenant_id = ${tenantId} and deleted_at is null for update`,
    );
    if (row === undefined) throw missing(id);
    if (ifVersion !== undefined && ifVersion !== row.version)
      throw new RegistryProblem('precondition_failed', `it is at version ${row.version}, not ${ifVersion}`);
    return row;
  }
  async function view(runner: Runner, id: string): Promise<WebhookView> {
    const [row] = await runner.execute<Row>(sql`${SELECT} where id = ${id}::uuid`);
    return viewOf(row as Row);
  }

  return {
    create: (actor, input, secret) =>
      transact(async (tx) => {
        const id = uuidv7(clock, rng);
        const sealed = Buffer.from(sealer.seal(secret, boundTo(actor.tenantId, id)));
        const rows = await tx.execute(sql`
          insert into webhooks (id, tenant_id, slug, type, scheme, tolerance_seconds, sealed, enabled)
          values (${id}::uuid, ${actor.tenantId}, ${input.slug}, ${input.type}, ${input.scheme}, ${input.toleranceSeconds},
            ${sealed}, ${input.enabled})
          on conflict (tenant_id, slug) where deleted_at is null do nothing returning 1`);
        if (rows.length === 0) throw new RegistryProblem('conflict', `the slug ${input.slug} is taken`, 'slug');
        await record(tx, { actor, action: 'created', kind: 'webhook', ids: [id] });
        return view(tx, id);
      }),
    async get(tenantId, id) {
      const [row] = await db.execute<Row>(
        sql`${SELECT} where id = ${id}::uuid and tenant_id = ${tenantId} and deleted_at is null`,
      );
      if (row === undefined) throw missing(id);
      return viewOf(row);
    },
    async list(tenantId, { limit, before }) {
      const where = [sql`tenant_id = ${tenantId}`, sql`deleted_at is null`];
      if (before !== undefined) where.push(sql`id < ${before}::uuid`);
      const rows = await db.execute<Row>(
        sql`${SELECT} where ${sql.join(where, sql` and `)} order by id desc limit ${limit}`,
      );
      return rows.map(viewOf);
    },
    update: (actor, id, input, ifVersion) =>
      transact(async (tx) => {
        await locked(tx, actor, id, ifVersion);
        const rows = await tx.execute(sql`
          update webhooks set slug = ${input.slug}, type = ${input.type}, scheme = ${input.scheme}, enabled = ${input.enabled},
            tolerance_seconds = ${input.toleranceSeconds}, version = version + 1, updated_at = statement_timestamp()
          where id = ${id}::uuid and not exists (select 1 from webhooks o where o.tenant_id = ${actor.tenantId}
            and o.slug = ${input.slug} and o.id <> ${id}::uuid and o.deleted_at is null) returning 1`);
        if (rows.length === 0) throw new RegistryProblem('conflict', `the slug ${input.slug} is taken`, 'slug');
        await record(tx, { actor, action: 'changed', kind: 'webhook', ids: [id] });
        return view(tx, id);
      }),
    rotate: (actor, id, secret, overlapSeconds) =>
      transact(async (tx) => {
        await locked(tx, actor, id);
        const sealed = Buffer.from(sealer.seal(secret, boundTo(actor.tenantId, id)));
        await tx.execute(sql`
          update webhooks set sealed_before = sealed, sealed = ${sealed}, version = version + 1,
            before_until = statement_timestamp() + make_interval(secs => ${overlapSeconds}), updated_at = statement_timestamp()
          where id = ${id}::uuid`);
        await record(tx, {
          actor,
          action: 'rotated',
          kind: 'webhook',
          ids: [id],
          detail: JSON.stringify({ overlapSeconds }),
        });
        return view(tx, id);
      }),
    async remove(actor, id, ifVersion) {
      await transact(async (tx) => {
        await locked(tx, actor, id, ifVersion);
        await tx.execute(sql`
          update webhooks set sealed = null, sealed_before = null, deleted_at = statement_timestamp() where id = ${id}::uuid`);
        await record(tx, { actor, action: 'deleted', kind: 'webhook', ids: [id] });
      });
    },
    async keys(id) {
      const [row] = await db.execute<Row>(sql`${SELECT} where id = ${id}::uuid and deleted_at is null and enabled`);
      if (row === undefined) return undefined;
      const { tenant_id: tenantId, slug, type, scheme, tolerance_seconds: toleranceSeconds } = row;
      const sealed = [row.sealed, ...(row.before_counts && row.sealed_before !== null ? [row.sealed_before] : [])];
      const secrets = sealed.map((one) => sealer.open(one, boundTo(tenantId, id)));
      return { tenantId, slug, type, scheme, toleranceSeconds, secrets };
    },
  };
}

const viewOf = (row: Row): WebhookView => ({
  id: row.id,
  slug: row.slug,
  type: row.type,
  scheme: row.scheme,
  toleranceSeconds: row.tolerance_seconds,
  enabled: row.enabled,
  beforeUntil: isoOrNull(row.before_until),
  version: row.version,
  createdAt: iso(row.created_at),
  updatedAt: iso(row.updated_at),
});
