/** Connections: a user's accounts at providers, their credentials sealed. */
import { type Clock, type Log, type Rng, uuidv7 } from '@milkrun/core';
import { and, desc, eq, inArray, isNull, lt, sql } from 'drizzle-orm';
import { record } from './audit.ts';
import { iso, isoOrNull, type Store } from './database.ts';
import { appendChanges } from './feed-append.ts';
import { type Actor, RegistryProblem } from './problem.ts';
import { type ConnectionRow, connections, triggers } from './schema.ts';
import type { Sealer } from './sealing.ts';

/** What a connector gets as `auth`; sealed in the database, never shown by the API. */
export type Credentials =
  | { readonly type: 'none' }
  | {
      readonly type: 'api_key';
      readonly apiKey: string;
      readonly header?: string | undefined;
      readonly query?: string | undefined;
    }
  | { readonly type: 'basic'; readonly username: string; readonly password: string }
  | { readonly type: 'bearer'; readonly token: string };

type ConnectionStatus = ConnectionRow['status'];

export interface ConnectionView {
  readonly id: string;
  readonly toolkit: string;
  readonly name: string;
  readonly kind: Credentials['type'];
  readonly status: ConnectionStatus;
  readonly statusReason: string | null;
  readonly expiresAt: string | null;
  readonly version: number;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface ConnectionPatch {
  readonly name?: string | undefined;
  readonly credentials?: Credentials | undefined;
  readonly status?: ConnectionStatus | undefined;
  readonly statusReason?: string | undefined;
  /** RFC 3339, or null: does not expire. */
  readonly expiresAt?: string | null | undefined;
}

/** The answer to one ask of `/conn/batch`. */
export type AuthAnswer =
  | {
      readonly connectionId: string;
      readonly tenantId: string;
      readonly status: 'active';
      readonly auth: Credentials;
      readonly expiresAt?: string;
    }
  | {
      readonly connectionId: string;
      readonly tenantId: string;
      readonly status: 'expired' | 'revoked' | 'not_found' | 'refresh_failed';
      readonly reason: string;
    };

export interface Connections {
  create(
    actor: Actor,
    input: {
      readonly toolkit: string;
      readonly name: string;
      readonly credentials: Credentials;
      readonly expiresAt?: string | undefined;
    },
  ): Promise<ConnectionView>;
  get(tenantId: string, id: string): Promise<ConnectionView>;
  list(
    tenantId: string,
    filter: { readonly limit: number; readonly before?: string | undefined; readonly toolkit?: string | undefined },
  ): Promise<readonly ConnectionView[]>;
  /** New credentials or a return to active send `resume` to the connection's triggers. */
  patch(actor: Actor, id: string, patch: ConnectionPatch, ifVersion?: number): Promise<ConnectionView>;
  /** Refused (`conflict`) while triggers use it. */
  remove(actor: Actor, id: string, ifVersion?: number): Promise<void>;
  /** One answer for each ask, by tenant and id. */
  authFor(
    asks: readonly { readonly connectionId: string; readonly tenantId: string }[],
  ): Promise<readonly AuthAnswer[]>;
}

interface Deps {
  readonly store: Store;
  readonly sealer: Sealer;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Log;
}

export function createConnections({ store: { db, transact }, sealer, clock, rng, log }: Deps): Connections {
  const own = (tenantId: string, id: string) =>
    and(eq(connections.id, id), eq(connections.tenantId, tenantId), isNull(connections.deletedAt));
  const missing = (id: string): RegistryProblem => new RegistryProblem('not_found', `no connection ${id}`);

  return {
    async create(actor, { toolkit, name, credentials, expiresAt }) {
      const id = `conn_${uuidv7(clock, rng)}`;
      const sealed = sealer.seal(JSON.stringify(credentials), [actor.tenantId, id]);
      return transact(async (tx) => {
        const values = { id, tenantId: actor.tenantId, toolkit, name, kind: credentials.type, sealed };
        const [row] = await tx
          .insert(connections)
          .values({ ...values, expiresAt: expiresAt === undefined ? null : new Date(expiresAt) })
          .returning();
        await record(tx, { actor, action: 'created', kind: 'connection', ids: [id] });
        return viewOf(row as ConnectionRow);
      });
    },
    async get(tenantId, id) {
      const [row] = await db.select().from(connections).where(own(tenantId, id));
      if (row === undefined) throw missing(id);
      return viewOf(row);
    },
    async list(tenantId, { limit, before, toolkit }) {
      const rows = await db
        .select()
        .from(connections)
        .where(
          and(
            eq(connections.tenantId, tenantId),
            isNull(connections.deletedAt),
            before === undefined ? undefined : lt(connections.id, before),
            toolkit === undefined ? undefined : eq(connections.toolkit, toolkit),
          ),
        )
        .orderBy(desc(connections.id))
        .limit(limit);
      return rows.map(viewOf);
    },
    patch: (actor, id, patch, ifVersion) =>
      transact(async (tx) => {
        const [before] = await tx.select().from(connections).where(own(actor.tenantId, id)).for('update');
        if (before === undefined) throw missing(id);
        checkVersion(before.version, ifVersion);
        const { name, credentials, expiresAt } = patch;
        const status = patch.status ?? (credentials === undefined ? before.status : 'active');
        const [row] = await tx
          .update(connections)
          .set({
            ...(name === undefined ? {} : { name }),
            ...(credentials === undefined
              ? {}
              : { kind: credentials.type, sealed: sealer.seal(JSON.stringify(credentials), [actor.tenantId, id]) }),
            ...(expiresAt === undefined ? {} : { expiresAt: expiresAt === null ? null : new Date(expiresAt) }),
            status,
            statusReason: status === 'active' ? null : (patch.statusReason ?? before.statusReason),
            version: before.version + 1,
            updatedAt: sql`statement_timestamp()`,
          })
          .where(eq(connections.id, id))
          .returning();
        const fields = Object.keys(patch).filter((key) => patch[key as keyof ConnectionPatch] !== undefined);
        const detail = JSON.stringify({ fields });
        await record(tx, {
          actor,
          action: 'changed',
          kind: 'connection',
          ids: [id],
          reason: patch.statusReason,
          detail,
        });
        const recovered =
          status === 'active' && (before.status !== 'active' || credentials !== undefined || expiresAt !== undefined);
        if (recovered) {
          const using = and(eq(triggers.connectionId, id), isNull(triggers.deletedAt));
          await tx.select({ id: triggers.id }).from(triggers).where(using).orderBy(triggers.id).for('update');
          const changed = await tx
            .update(triggers)
            .set({
              configVersion: sql`${triggers.configVersion} + 1`,
              liftedVersion: sql`${triggers.configVersion} + 1`,
              updatedAt: sql`statement_timestamp()`,
            })
            .where(using)
            .returning();
          await appendChanges(tx, changed, { resume: 'cursor' });
        }
        return viewOf(row as ConnectionRow);
      }),
    remove: (actor, id, ifVersion) =>
      transact(async (tx) => {
        const [before] = await tx.select().from(connections).where(own(actor.tenantId, id)).for('update');
        if (before === undefined) throw missing(id);
        checkVersion(before.version, ifVersion);
        const [user] = await tx
          .select({ id: triggers.id })
          .from(triggers)
          .where(and(eq(triggers.connectionId, id), isNull(triggers.deletedAt)))
          .limit(1);
        if (user !== undefined) throw new RegistryProblem('conflict', `connection ${id} is used by trigger ${user.id}`);
        await tx
          .update(connections)
          .set({ sealed: null, deletedAt: sql`statement_timestamp()`, version: before.version + 1 })
          .where(eq(connections.id, id));
        await record(tx, { actor, action: 'deleted', kind: 'connection', ids: [id] });
      }),
    async authFor(asks) {
      if (asks.length === 0) return [];
      const ids = [...new Set(asks.map(({ connectionId }) => connectionId))];
      const rows = await db.select().from(connections).where(inArray(connections.id, ids));
      const byId = new Map(rows.map((row) => [row.id, row]));
      return asks.map(({ connectionId, tenantId }) => authOf(connectionId, tenantId, byId.get(connectionId)));
    },
  };

  function authOf(connectionId: string, tenantId: string, row: ConnectionRow | undefined): AuthAnswer {
    const head = { connectionId, tenantId };
    if (row === undefined || row.tenantId !== tenantId || row.sealed === null) {
      return { ...head, status: 'not_found', reason: 'The tenant has no such connection.' };
    }
    if (row.status !== 'active') {
      return { ...head, status: row.status, reason: row.statusReason ?? `The connection is ${row.status}.` };
    }
    if (row.expiresAt !== null && row.expiresAt.getTime() <= clock.now()) {
      return { ...head, status: 'expired', reason: `The credentials expired at ${iso(row.expiresAt)}.` };
    }
    try {
      const auth = JSON.parse(sealer.open(row.sealed, [tenantId, connectionId])) as Credentials;
      return { ...head, status: 'active', auth, ...(row.expiresAt === null ? {} : { expiresAt: iso(row.expiresAt) }) };
    } catch (cause) {
      log.error({ connectionId, reason: (cause as Error).message }, 'connection.not_opened');
      return { ...head, status: 'refresh_failed', reason: 'The stored credentials cannot be opened.' };
    }
  }
}

export function checkVersion(current: number, wanted: number | undefined): void {
  if (wanted !== undefined && wanted !== current) {
    throw new RegistryProblem('precondition_failed', `the version is ${current}, not ${wanted}: read it again`);
  }
}

function viewOf(row: ConnectionRow): ConnectionView {
  return {
    id: row.id,
    toolkit: row.toolkit,
    name: row.name,
    kind: row.kind,
    status: row.status,
    statusReason: row.statusReason,
    expiresAt: isoOrNull(row.expiresAt),
    version: row.version,
    createdAt: iso(row.createdAt),
    updatedAt: iso(row.updatedAt),
  };
}
