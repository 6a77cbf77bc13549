/** Routes of triggers. */
import { OTHER_CODES, VERDICTS } from '@milkrun/core';
import type { Registry, TriggerView } from '@milkrun/registrydb';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { actorOf, callerOf } from '../access.ts';
import type { EngineClient } from '../engine-client.ts';
import { ifVersionOf, pageOf, positionOf, setVersion, toPage, UUID, uuidParams } from '../http-conventions.ts';
import {
  createdTriggersSchema,
  createTriggerBody,
  createTriggersBody,
  enableBody,
  explainQuery,
  listTriggersQuery,
  patchTriggerBody,
  reasonBody,
  resumeBody,
  rewindBody,
  triggerBody,
  triggerSchema,
  triggerWithMovesSchema,
} from '../schemas.ts';
import type { App } from '../server.ts';

const BULK_BYTES_MAX = 16 * 1024 * 1024;

/** A code in one sentence. */
function meaningOf(code: string): string | null {
  if (code === 'disabled') return 'The trigger was turned off.';
  if (Object.hasOwn(VERDICTS, code)) return VERDICTS[code as keyof typeof VERDICTS].meaning;
  return Object.hasOwn(OTHER_CODES, code) ? OTHER_CODES[code as keyof typeof OTHER_CODES] : null;
}

const bodyOf = (view: TriggerView): z.infer<typeof triggerSchema> => triggerBody(view, meaningOf);

export function triggerRoutes(app: App, { triggers, audit }: Registry, engine: EngineClient): void {
  const read = { policy: 'triggers:read' } as const;
  const write = { policy: 'triggers:write' } as const;
  const one = { 200: triggerSchema };
  const answer = (reply: FastifyReply, view: TriggerView) => {
    setVersion(reply, view.configVersion);
    return bodyOf(view);
  };
  const optionsOf = (request: FastifyRequest, reason?: string | undefined) => ({
    ifVersion: ifVersionOf(request),
    reason,
  });

  app.post(
    '/triggers',
    {
      config: write,
      schema: {
        summary: 'Create a trigger, or change the one with the same deduplicationKey',
        body: createTriggerBody,
        response: { 200: triggerSchema, 201: triggerSchema },
      },
    },
    async (request, reply) => {
      const { trigger, created } = await triggers.upsert(actorOf(request), request.body);
      reply.code(created ? 201 : 200).header('location', `/triggers/${trigger.id}`);
      return answer(reply, trigger);
    },
  );
  app.post(
    '/triggers/bulk',
    {
      config: write,
      bodyLimit: BULK_BYTES_MAX,
      schema: {
        summary: 'Create or change up to 1,000 triggers, all or none',
        body: createTriggersBody,
        response: { 200: createdTriggersSchema },
      },
    },
    async (request) => ({ triggers: [...(await triggers.upsertMany(actorOf(request), request.body.triggers))] }),
  );
  app.get(
    '/triggers',
    {
      config: read,
      schema: {
        summary: 'List triggers, newest first',
        querystring: listTriggersQuery,
        response: { 200: pageOf(triggerSchema) },
      },
    },
    async (request) => {
      const { limit, cursor, ...filter } = request.query;
      const before = positionOf(cursor, UUID);
      const found = await triggers.list(callerOf(request).tenantId, { ...filter, before, limit: limit + 1 });
      return toPage(found, limit, ({ id }) => id, bodyOf);
    },
  );
  app.get(
    '/triggers/:id',
    {
      config: read,
      schema: {
        summary: 'One trigger, with why it is off, who polls it, and its moves between the pipelines',
        params: uuidParams,
        response: { 200: triggerWithMovesSchema },
      },
    },
    async (request, reply) => {
      const { tenantId } = callerOf(request);
      const view = await triggers.get(tenantId, request.params.id);
      return { ...answer(reply, view), moves: [...(await triggers.moves(tenantId, view.id))] };
    },
  );
  app.patch(
    '/triggers/:id',
    {
      config: write,
      schema: { summary: 'Change a trigger', params: uuidParams, body: patchTriggerBody, response: one },
    },
    async (request, reply) => {
      const { reason, ...patch } = request.body;
      const view = await triggers.patch(actorOf(request), request.params.id, patch, optionsOf(request, reason));
      return answer(reply, view);
    },
  );
  app.delete(
    '/triggers/:id',
    { config: write, schema: { summary: 'Delete a trigger', params: uuidParams, response: { 204: z.null() } } },
    async (request, reply) => {
      await triggers.remove(actorOf(request), request.params.id, optionsOf(request));
      return reply.code(204).send(null);
    },
  );
  app.post(
    '/triggers/:id/enable',
    { config: write, schema: { summary: 'Turn on', params: uuidParams, body: enableBody, response: one } },
    async (request, reply) => {
      const { resume, reason } = request.body;
      return answer(
        reply,
        await triggers.enable(actorOf(request), request.params.id, resume, optionsOf(request, reason)),
      );
    },
  );
  app.post(
    '/triggers/:id/disable',
    { config: write, schema: { summary: 'Turn off', params: uuidParams, body: reasonBody, response: one } },
    async (request, reply) =>
      answer(
        reply,
        await triggers.disable(actorOf(request), request.params.id, optionsOf(request, request.body.reason)),
      ),
  );
  app.post(
    '/triggers/:id/resume',
    { config: write, schema: { summary: 'Lift a halt', params: uuidParams, body: resumeBody, response: one } },
    async (request, reply) => {
      const { from, reason } = request.body;
      return answer(
        reply,
        await triggers.resume(actorOf(request), request.params.id, from, optionsOf(request, reason)),
      );
    },
  );
  app.post(
    '/triggers/:id/poll-now',
    { config: write, schema: { summary: 'Poll at once', params: uuidParams, body: reasonBody, response: one } },
    async (request, reply) =>
      answer(
        reply,
        await triggers.pollNow(actorOf(request), request.params.id, optionsOf(request, request.body.reason)),
      ),
  );
  app.post(
    '/triggers/:id/rewind',
    {
      config: write,
      schema: {
        summary: 'Go back to a cursor, or prime again from an instant',
        params: uuidParams,
        body: rewindBody,
        response: one,
      },
    },
    async (request, reply) => {
      const { cursor, since, reason } = request.body;
      const to = cursor === undefined ? { since: since as string } : { cursor };
      return answer(reply, await triggers.rewind(actorOf(request), request.params.id, to, optionsOf(request, reason)));
    },
  );
  app.get(
    '/triggers/:id/explain',
    {
      config: read,
      schema: {
        summary: 'What the engine did with it and will do',
        params: uuidParams,
        querystring: explainQuery,
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const { id } = await triggers.get(callerOf(request).tenantId, request.params.id);
      const range = new URLSearchParams();
      for (const [name, value] of Object.entries(request.query))
        if (value !== undefined) range.set(name, String(value));
      return engine.get(`/triggers/${id}/explain${range.size === 0 ? '' : `?${range}`}`);
    },
  );
  app.get(
    '/triggers/:id/audit',
    { config: read, schema: { summary: 'Who changed it', params: uuidParams, response: { 200: z.unknown() } } },
    async (request) => {
      const { tenantId } = callerOf(request);
      await triggers.get(tenantId, request.params.id);
      return {
        items: await audit(tenantId, { objectKind: 'trigger', objectId: request.params.id, limit: 200 }),
        next: null,
      };
    },
  );
}
