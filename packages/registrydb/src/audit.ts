/** The audit trail: one row for each change, in the transaction that makes it. */
import { and, desc, eq, lt } from 'drizzle-orm';
import { iso, type Runner } from './database.ts';
import type { Actor } from './problem.ts';
import { audit } from './schema.ts';

export interface AuditEntry {
  readonly id: number;
  readonly at: string;
  readonly actor: string;
  readonly action: string;
  readonly objectKind: string;
  readonly objectId: string;
  readonly reason: string | null;
}

export interface AuditInput {
  readonly actor: Actor;
  /** A participle: `created`, `disabled`, `rewound`. */
  readonly action: string;
  readonly kind:
    | 'trigger'
    | 'connection'
    | 'api_key'
    | 'activity'
    | 'run'
    | 'task'
    | 'dead_letter'
    | 'event_type'
    | 'webhook';
  readonly ids: readonly string[];
  readonly reason?: string | undefined;
  /** JSON text of what changed; never credentials. */
  readonly detail?: string | undefined;
}

export async function record(tx: Runner, { actor, action, kind, ids, reason, detail }: AuditInput): Promise<void> {
  if (ids.length === 0) return;
  const shared = { tenantId: actor.tenantId, actor: actor.name, action, objectKind: kind };
  await tx
    .insert(audit)
    .values(ids.map((objectId) => ({ ...shared, objectId, reason: reason ?? null, detail: detail ?? null })));
}

/** Newest first; `before` is the id of the last entry of the page before. */
export async function listAudit(
  db: Runner,
  tenantId: string,
  filter: { readonly objectKind: string; readonly objectId: string; readonly limit: number; readonly before?: number },
): Promise<readonly AuditEntry[]> {
  const rows = await db
    .select()
    .from(audit)
    .where(
      and(
        eq(audit.tenantId, tenantId),
        eq(audit.objectKind, filter.objectKind),
        eq(audit.objectId, filter.objectId),
        filter.before === undefined ? undefined : lt(audit.id, filter.before),
      ),
    )
    .orderBy(desc(audit.id))
    .limit(filter.limit);
  return rows.map(({ id, at, actor, action, objectKind, objectId, reason }) => ({
    id,
    at: iso(at),
    actor,
    action,
    objectKind,
    objectId,
    reason,
  }));
}
