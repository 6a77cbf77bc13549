/** Definitions: written, read, enabled, and their versions. */
import { parseDefinition, storedDefinitionOf } from '@milkrun/activity-core/definitions';
import type { Clock } from '@milkrun/core';
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { pageOf, pagingShape, positionOf, reasonShape, toPage, UUID } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { checkedDefinition } from './checked.ts';
import {
  activitySchema,
  answer,
  anyObject,
  bodyOf,
  named,
  nameParams,
  optionsOf,
  READ,
  reasonBody,
  refusing,
  SLUG_OR_ID,
  WRITE,
} from './common.ts';

export function definitionRoutes(app: App, registry: Registry, clock: Clock): void {
  const { activities } = registry;
  const one = { 200: activitySchema };

  app.get(
    '/activity-definitions',
    {
      config: READ,
      schema: {
        summary: 'List activities',
        querystring: z.strictObject({
          ...pagingShape,
          trigger_type: z.enum(['cron', 'at', 'event', 'manual']).optional(),
        }),
        response: { 200: pageOf(activitySchema) },
      },
    },
    async (request) => {
      const { limit, cursor, trigger_type } = request.query;
      const after = positionOf(cursor, UUID);
      const found = await activities.list(callerOf(request).tenantId, {
        limit: limit + 1,
        after,
        triggerType: trigger_type,
      });
      return toPage(found, limit, ({ id }) => id, bodyOf);
    },
  );
  app.post(
    '/activity-definitions',
    { config: WRITE, schema: { summary: 'Create an activity', body: anyObject, response: { 201: activitySchema } } },
    async (request, reply) => {
      const view = await activities.create(
        actorOf(request),
        storedDefinitionOf(checkedDefinition(request.body, clock)),
      );
      reply.code(201).header('location', `/activity-definitions/${view.id}`);
      return answer(reply, view);
    },
  );
  app.get(
    '/activity-definitions/:id',
    { config: READ, schema: { summary: 'One activity', params: nameParams, response: one } },
    async (request, reply) => answer(reply, await named(registry, request, request.params.id)),
  );
  app.put(
    '/activity-definitions/:id',
    { config: WRITE, schema: { summary: 'Publish a new version', params: nameParams, body: anyObject, response: one } },
    async (request, reply) => {
      const { id } = await named(registry, request, request.params.id);
      const stored = storedDefinitionOf(checkedDefinition(request.body, clock));
      return answer(reply, await activities.update(actorOf(request), id, stored, optionsOf(request)));
    },
  );
  app.delete(
    '/activity-definitions/:id',
    {
      config: WRITE,
      schema: { summary: 'Delete an activity; its runs stay', params: nameParams, response: { 204: z.null() } },
    },
    async (request, reply) => {
      const { id } = await named(registry, request, request.params.id);
      await activities.remove(actorOf(request), id, optionsOf(request));
      return reply.code(204).send(null);
    },
  );
  app.post(
    '/activity-definitions/:id/enable',
    {
      config: WRITE,
      schema: {
        summary: 'Enable; recover: make up for the time it was disabled',
        params: nameParams,
        body: z.strictObject({ recover: z.boolean().default(false), ...reasonShape }).prefault({}),
        response: one,
      },
    },
    async (request, reply) => {
      const { id } = await named(registry, request, request.params.id);
      const { recover, reason } = request.body;
      return answer(
        reply,
        await activities.setEnabled(actorOf(request), id, true, { ...optionsOf(request, reason), recover }),
      );
    },
  );
  for (const verb of ['disable', 'reset'] as const) {
    app.post(
      `/activity-definitions/:id/${verb}`,
      {
        config: WRITE,
        schema: {
          summary: verb === 'disable' ? 'Disable; open runs finish' : 'Lift a trip',
          params: nameParams,
          body: reasonBody,
          response: one,
        },
      },
      async (request, reply) => {
        const { id } = await named(registry, request, request.params.id);
        const options = optionsOf(request, request.body.reason);
        const actor = actorOf(request);
        return answer(
          reply,
          verb === 'disable'
            ? await activities.setEnabled(actor, id, false, options)
            : await activities.reset(actor, id, options),
        );
      },
    );
  }
  app.get(
    '/activity-definitions/:id/versions',
    {
      config: READ,
      schema: { summary: 'All versions, newest first', params: nameParams, response: { 200: z.unknown() } },
    },
    async (request) => {
      const { id, tenantId } = await named(registry, request, request.params.id);
      const versions = await activities.versions(tenantId, id);
      return {
        items: versions.map(({ version, createdBy, reason, createdAt, spec }) => ({
          version,
          created_by: createdBy,
          reason,
          created_at: createdAt,
          definition: JSON.parse(spec) as unknown,
        })),
        next: null,
      };
    },
  );
  app.post(
    '/activity-definitions/:id/versions/:version/publish',
    {
      config: WRITE,
      schema: {
        summary: 'Publish an earlier version again, as a new one',
        params: z.strictObject({ id: z.string().regex(SLUG_OR_ID), version: z.coerce.number().int().min(1) }),
        body: reasonBody,
        response: one,
      },
    },
    async (request, reply) => {
      const { id, tenantId, enabled } = await named(registry, request, request.params.id);
      const { spec } = await activities.version(tenantId, id, request.params.version);
      const stored = storedDefinitionOf({ ...refusing(() => parseDefinition(JSON.parse(spec))), enabled });
      return answer(
        reply,
        await activities.update(actorOf(request), id, stored, optionsOf(request, request.body.reason)),
      );
    },
  );
}
