/**
 * API keys: `mrk_{id}_{secret}_{crc}`, 256 bits of secret, kept as HMAC-SHA-256 under a pepper. The checksum lets a
 * scanner tell a leaked key.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Clock, Rng } from '@milkrun/core';
import { and, desc, eq, isNull, sql } from 'drizzle-orm';
import { record } from './audit.ts';
import { iso, isoOrNull, type Store } from './database.ts';
import { type Actor, RegistryProblem } from './problem.ts';
import { apiKeys, tenants } from './schema.ts';
import { deriveKey } from './sealing.ts';

/** What a key may be allowed. The engine's three endpoints have a key of their own and no scope here. */
export const SCOPES = [
  'triggers:read',
  'triggers:write',
  'connections:read',
  'connections:write',
  'events:read',
  'activities:read',
  'activities:write',
  'fleet:read',
  'keys:write',
] as const;
export type Scope = (typeof SCOPES)[number];

export interface VerifiedKey {
  readonly id: string;
  readonly name: string;
  readonly tenantId: string;
  readonly scopes: readonly Scope[];
}

export interface ApiKeyView extends VerifiedKey {
  readonly createdAt: string;
  readonly expiresAt: string | null;
  readonly revokedAt: string | null;
  readonly lastUsedAt: string | null;
}

export interface ApiKeys {
  /** Makes the tenant when there is none of that id. */
  ensureTenant(id: string, name: string): Promise<void>;
  /** The whole key is in `secret`, now and never again. */
  create(input: {
    readonly actor: Actor;
    readonly tenantId: string;
    readonly name: string;
    readonly scopes: readonly Scope[];
    readonly expiresAt?: string | undefined;
  }): Promise<{ readonly key: ApiKeyView; readonly secret: string }>;
  /**
   * Makes a key whose text was chosen elsewhere (the first key of an installation), once; gives it the scopes named.
   * Throws when the text is shorter than 16 characters.
   */
  ensure(input: {
    readonly secret: string;
    readonly tenantId: string;
    readonly name: string;
    readonly scopes: readonly Scope[];
  }): Promise<void>;
  /** The key's owner and scopes, or undefined for an unknown, expired or revoked one. */
  verify(secret: string): Promise<VerifiedKey | undefined>;
  list(tenantId: string): Promise<readonly ApiKeyView[]>;
  /** At once, everywhere. */
  revoke(actor: Actor, id: string): Promise<void>;
}

const FORMAT = /^mrk_([0-9a-f]{16})_[0-9a-f]{64}_([0-9a-f]{8})$/;
const checksumOf = (text: string): string => crc32(text).toString(16).padStart(8, '0');

export function createApiKeys({ db, transact }: Store, masterKey: Uint8Array, clock: Clock, rng: Rng): ApiKeys {
  const pepper = deriveKey(masterKey, 'api keys');
  /** A key of ours carries its id; of a key chosen elsewhere it is the head of its hash. */
  function idOf(secret: string): string {
    const [, id, checksum] = FORMAT.exec(secret) ?? [];
    if (id !== undefined && checksum === checksumOf(secret.slice(0, -9))) return id;
    return `own_${hashOf(secret).toString('hex').slice(0, 16)}`;
  }
  const hashOf = (secret: string): Buffer => createHmac('sha256', pepper).update(secret).digest();
  return {
    async ensureTenant(id, name) {
      await db.insert(tenants).values({ id, name }).onConflictDoNothing();
    },
    async create({ actor, tenantId, name, scopes, expiresAt }) {
      const id = Buffer.from(rng.bytes(8)).toString('hex');
      const start = `mrk_${id}_${Buffer.from(rng.bytes(32)).toString('hex')}`;
      const secret = `${start}_${checksumOf(start)}`;
      const key = await transact(async (tx) => {
        const values = { id, tenantId, name, hash: hashOf(secret), scopes: [...scopes] };
        const [row] = await tx
          .insert(apiKeys)
          .values({ ...values, expiresAt: expiresAt === undefined ? null : new Date(expiresAt) })
          .returning();
        await record(tx, { actor, action: 'created', kind: 'api_key', ids: [id] });
        return viewOf(row as typeof apiKeys.$inferSelect);
      });
      return { key, secret };
    },
    async ensure({ secret, tenantId, name, scopes }) {
      if (secret.length < 16) throw new TypeError('the first API key must have at least 16 characters');
      const values = { id: idOf(secret), tenantId, name, hash: hashOf(secret), scopes: [...scopes] };
      await db
        .insert(apiKeys)
        .values(values)
        .onConflictDoUpdate({ target: apiKeys.id, set: { scopes: values.scopes } });
    },
    async verify(secret) {
      const id = idOf(secret);
      const [row] = await db.select().from(apiKeys).where(eq(apiKeys.id, id));
      if (row === undefined || !timingSafeEqual(Buffer.from(row.hash), hashOf(secret))) return undefined;
      if (row.revokedAt !== null || (row.expiresAt !== null && row.expiresAt.getTime() <= clock.now()))
        return undefined;
      await db
        .update(apiKeys)
        .set({ lastUsedAt: sql`statement_timestamp()` })
        .where(
          and(
            eq(apiKeys.id, id),
            sql`(${apiKeys.lastUsedAt} is null or ${apiKeys.lastUsedAt} < statement_timestamp() - interval '1 minute')`,
          ),
        );
      const { name, tenantId, scopes } = row;
      return { id, name, tenantId, scopes: scopes as Scope[] };
    },
    async list(tenantId) {
      const rows = await db
        .select()
        .from(apiKeys)
        .where(eq(apiKeys.tenantId, tenantId))
        .orderBy(desc(apiKeys.createdAt));
      return rows.map(viewOf);
    },
    async revoke(actor, id) {
      await transact(async (tx) => {
        const rows = await tx
          .update(apiKeys)
          .set({ revokedAt: sql`statement_timestamp()` })
          .where(and(eq(apiKeys.id, id), eq(apiKeys.tenantId, actor.tenantId), isNull(apiKeys.revokedAt)))
          .returning({ id: apiKeys.id });
        if (rows.length === 0) throw new RegistryProblem('not_found', `no usable API key ${id}`);
        await record(tx, { actor, action: 'revoked', kind: 'api_key', ids: [id] });
      });
    },
  };
}

function viewOf(row: typeof apiKeys.$inferSelect): ApiKeyView {
  return {
    id: row.id,
    name: row.name,
    tenantId: row.tenantId,
    scopes: row.scopes as Scope[],
    createdAt: iso(row.createdAt),
    expiresAt: isoOrNull(row.expiresAt),
    revokedAt: isoOrNull(row.revokedAt),
    lastUsedAt: isoOrNull(row.lastUsedAt),
  };
}
