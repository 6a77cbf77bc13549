/** Definitions that come from files. */
import { parseDefinition, storedDefinitionOf } from '@milkrun/activity-core/definitions';
import type { Clock } from '@milkrun/core';
import type { ActivityView, Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf } from '../../access.ts';
import { Problem } from '../../problems.ts';
import type { App } from '../../server.ts';
import { checkedDefinition } from './checked.ts';
import { anyObject, refusal, WRITE } from './common.ts';
import { everyActivity } from './every-activity.ts';

const applyBody = z.strictObject({
  definitions: z.array(z.strictObject({ path: z.string().max(500), definition: anyObject })).max(1_000),
  prune: z.boolean().default(false).describe('Delete definitions that came from files and are not among these.'),
  dry_run: z.boolean().default(false),
});
const applied = z.object({
  results: z.array(
    z.object({ path: z.string(), slug: z.string().nullable(), result: z.string(), errors: z.array(z.unknown()) }),
  ),
});

export function fileRoutes(app: App, { activities }: Registry, clock: Clock): void {
  app.post(
    '/activity-definitions/apply',
    {
      config: WRITE,
      bodyLimit: 16 * 1024 * 1024,
      schema: {
        summary: 'Bring definitions from files into step, by slug',
        body: applyBody,
        response: { 200: applied },
      },
    },
    async (request) => {
      const actor = actorOf(request);
      const { definitions, prune, dry_run } = request.body;
      const results: z.infer<typeof applied>['results'] = [];
      const slugs = new Set<string>();
      const bySlug = new Map((await everyActivity(activities, actor.tenantId)).map((view) => [view.slug, view]));
      for (const { path, definition } of definitions) {
        let slug: string | null = null;
        try {
          const stored = storedDefinitionOf(checkedDefinition(definition, clock));
          slug = stored.slug;
          if (slugs.has(slug)) throw refusal([{ path: 'slug', message: `"${slug}" is given by two files` }]);
          slugs.add(slug);
          const before = bySlug.get(slug);
          if (before?.origin === 'api')
            throw refusal([{ path: 'slug', message: `"${slug}" was not made from a file and is left alone` }]);
          if (dry_run) {
            const same = before !== undefined && isSame(before, stored);
            results.push({
              path,
              slug,
              result: before === undefined ? 'created' : same ? 'unchanged' : 'updated',
              errors: [],
            });
          } else if (before === undefined) {
            await activities.create(actor, stored, 'file');
            results.push({ path, slug, result: 'created', errors: [] });
          } else {
            // A person's disable is not undone by a file that says nothing else.
            const after = await activities.update(
              actor,
              before.id,
              { ...stored, enabled: before.enabled },
              { reason: path },
            );
            results.push({
              path,
              slug,
              result: after.version === before.version ? 'unchanged' : 'updated',
              errors: [],
            });
          }
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          results.push({ path, slug, result: 'refused', errors: [...error.errors] });
        }
      }
      for (const view of prune ? bySlug.values() : []) {
        if (view.origin !== 'file' || slugs.has(view.slug)) continue;
        if (!dry_run) await activities.remove(actor, view.id, { reason: 'its file is gone' });
        results.push({ path: '', slug: view.slug, result: 'removed', errors: [] });
      }
      return { results };
    },
  );
}

function isSame({ spec }: ActivityView, stored: ReturnType<typeof storedDefinitionOf>): boolean {
  return storedDefinitionOf(parseDefinition(JSON.parse(spec))).fingerprint === stored.fingerprint;
}
