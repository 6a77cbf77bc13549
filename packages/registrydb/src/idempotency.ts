/** Idempotency of people's writes: the first call with a key runs, the others get its answer. */
import { and, eq, isNull, sql } from 'drizzle-orm';
import type { Store } from './database.ts';
import { idempotencyKeys } from './schema.ts';

export type Begun =
  /** Nobody has used the key: run, then `finish` or `forget`. */
  | { readonly kind: 'first' }
  | { readonly kind: 'done'; readonly status: number; readonly answer: string; readonly etag: string | null }
  | { readonly kind: 'running' }
  /** The key was used for another request. */
  | { readonly kind: 'other' };

export interface Idempotency {
  begin(tenantId: string, key: string, requestHash: Uint8Array): Promise<Begun>;
  finish(
    tenantId: string,
    key: string,
    answer: { readonly status: number; readonly answer: string; readonly etag: string | null },
  ): Promise<void>;
  /** The call failed without an effect: the key may be used again. */
  forget(tenantId: string, key: string): Promise<void>;
}

/** A call that never ended (its process died) frees its key after this long. */
const ABANDONED = sql`statement_timestamp() - interval '2 minutes'`;

export function createIdempotency({ db }: Store): Idempotency {
  const at = (tenantId: string, key: string) =>
    and(eq(idempotencyKeys.tenantId, tenantId), eq(idempotencyKeys.key, key));
  return {
    async begin(tenantId, key, requestHash) {
      await db
        .delete(idempotencyKeys)
        .where(
          and(at(tenantId, key), isNull(idempotencyKeys.status), sql`${idempotencyKeys.createdAt} < ${ABANDONED}`),
        );
      const made = await db
        .insert(idempotencyKeys)
        .values({ tenantId, key, requestHash })
        .onConflictDoNothing()
        .returning({ key: idempotencyKeys.key });
      if (made.length > 0) return { kind: 'first' };
      const [row] = await db.select().from(idempotencyKeys).where(at(tenantId, key));
      if (row === undefined) return { kind: 'running' };
      if (!Buffer.from(row.requestHash).equals(requestHash)) return { kind: 'other' };
      if (row.status === null) return { kind: 'running' };
      return { kind: 'done', status: row.status, answer: row.answer ?? '', etag: row.etag };
    },
    async finish(tenantId, key, { status, answer, etag }) {
      await db.update(idempotencyKeys).set({ status, answer, etag }).where(at(tenantId, key));
    },
    async forget(tenantId, key) {
      await db.delete(idempotencyKeys).where(and(at(tenantId, key), isNull(idempotencyKeys.status)));
    },
  };
}
