/** The audit trail: one row for each change, in the transaction that makes it. */
import { and, desc, eq, inArray, lt } from 'drizzle-orm';
import { iso, type Runner } from './database.ts';
import type { Actor } from './problem.ts';
import { audit } from './schema.ts';
import { migrationOf } from './trigger-views.ts';

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

/** A trigger's move from one pipeline to the other. */
export interface TriggerMove {
  readonly at: string;
  readonly to: 'v2' | 'legacy';
  /** Who asked for it. */
  readonly by: string;
  readonly migration: string | null;
}

/** Newest first. */
export async function listMoves(
  db: Runner,
  tenantId: string,
  triggerId: string,
  limit: number,
): Promise<TriggerMove[]> {
  const rows = await db
    .select()
    .from(audit)
    .where(
      and(
        eq(audit.tenantId, tenantId),
        eq(audit.objectKind, 'trigger'),
        eq(audit.objectId, triggerId),
        inArray(audit.action, ['moved_to_v2', 'moved_to_legacy']),
      ),
    )
    .orderBy(desc(audit.id))
    .limit(limit);
  return rows.map(({ at, actor, action, detail }) => {
    const { handOff } = JSON.parse(detail ?? '{}') as { handOff?: string };
    return { at: iso(at), to: action === 'moved_to_v2' ? 'v2' : 'legacy', by: actor, migration: migrationOf(handOff) };
  });
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
