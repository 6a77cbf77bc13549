/** What the routes of activities share. Names of fields are those of the definitions, in snake_case. */
import { type DefinitionProblem, Refused } from '@milkrun/activity-core/definitions';
import type { ActivityView, Registry } from '@milkrun/registrydb';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { callerOf } from '../../access.ts';
import { ifVersionOf, reasonShape, setVersion } from '../../http-conventions.ts';
import { type FieldError, Problem } from '../../problems.ts';

export const READ = { policy: 'activities:read' } as const;
export const WRITE = { policy: 'activities:write' } as const;

export const SLUG_OR_ID = /^[a-z0-9][a-z0-9-]{0,62}$/;
export const nameParams = z.strictObject({ id: z.string().regex(SLUG_OR_ID).describe('Id or slug.') });
export const anyObject = z.record(z.string(), z.unknown());
export const reasonBody = z.strictObject(reasonShape).prefault({});
export const instant = z.iso.datetime({ offset: true });

export const activitySchema = z.object({
  id: z.string(),
  slug: z.string(),
  name: z.string(),
  enabled: z.boolean(),
  trigger_type: z.enum(['cron', 'at', 'event', 'manual']),
  version: z.int(),
  status: z.enum(['active', 'done', 'tripped']),
  status_reason: z.string().nullable(),
  failures_in_row: z.int(),
  origin: z.enum(['api', 'file']),
  covered_at: z.string().nullable().describe('The latest tick dealt with.'),
  disabled_at: z.string().nullable(),
  schedule_synced_at: z.string().nullable(),
  created_at: z.string(),
  updated_at: z.string(),
  definition: z.unknown(),
});

export const bodyOf = (view: ActivityView): z.infer<typeof activitySchema> => ({
  id: view.id,
  slug: view.slug,
  name: view.name,
  enabled: view.enabled,
  trigger_type: view.triggerType,
  version: view.version,
  status: view.status,
  status_reason: view.statusReason,
  failures_in_row: view.failuresInRow,
  origin: view.origin,
  covered_at: view.coveredAt,
  disabled_at: view.disabledAt,
  schedule_synced_at: view.scheduleSyncedAt,
  created_at: view.createdAt,
  updated_at: view.updatedAt,
  definition: { ...(JSON.parse(view.spec) as object), enabled: view.enabled },
});

export function answer(reply: FastifyReply, view: ActivityView) {
  setVersion(reply, view.version);
  return bodyOf(view);
}

export const optionsOf = (request: FastifyRequest, reason?: string | undefined) => ({
  ifVersion: ifVersionOf(request),
  reason,
});

/** An activity of the caller's tenant, by id or slug. */
export const named = ({ activities }: Registry, request: FastifyRequest, name: string): Promise<ActivityView> =>
  activities.get(callerOf(request).tenantId, name);

export const refusal = (problems: readonly DefinitionProblem[]): Problem => {
  const errors: FieldError[] = problems.map(({ path, message }) => ({ path, message }));
  const [first] = errors;
  return new Problem(
    400,
    first === undefined ? 'It is not valid.' : `${first.path || 'body'}: ${first.message}`,
    errors,
  );
};

/** `under`: the field of the request that is read. */
export function refusing<T>(work: () => T, under?: string): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Refused) {
      const at = (path: string): string => [under, path].filter(Boolean).join('.');
      throw refusal(error.problems.map(({ path, message }) => ({ path: at(path), message })));
    }
    throw error;
  }
}
