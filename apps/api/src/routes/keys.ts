/** Routes of API keys. A key is shown once, when it is made; nobody can give a key more than its own scopes. */
import { timeSchema } from '@milkrun/control-plane';
import { type ApiKeyView, type Registry, SCOPES } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../access.ts';
import { humanText, idParams } from '../http-conventions.ts';
import { Problem } from '../problems.ts';
import type { App } from '../server.ts';

const keySchema = z.object({
  id: z.string(),
  name: z.string(),
  scopes: z.array(z.enum(SCOPES)),
  createdAt: z.string(),
  expiresAt: z.string().nullable(),
  revokedAt: z.string().nullable(),
  lastUsedAt: z.string().nullable(),
});

const createBody = z.strictObject({
  name: humanText(100),
  scopes: z.array(z.enum(SCOPES)).min(1),
  expiresAt: timeSchema.optional(),
});

const bodyOf = ({ id, name, scopes, createdAt, expiresAt, revokedAt, lastUsedAt }: ApiKeyView) => ({
  id,
  name,
  scopes: [...scopes],
  createdAt,
  expiresAt,
  revokedAt,
  lastUsedAt,
});

export function keyRoutes(app: App, { keys }: Registry): void {
  const config = { policy: 'keys:write', idempotent: false } as const;
  app.post(
    '/api-keys',
    {
      config,
      schema: {
        summary: 'Create an API key; it is shown now and never again',
        body: createBody,
        response: { 201: z.object({ key: keySchema, secret: z.string() }) },
      },
    },
    async (request, reply) => {
      const { scopes: own, tenantId } = callerOf(request);
      const excess = request.body.scopes.find((scope) => !own.includes(scope));
      if (excess !== undefined) throw new Problem(403, `Your own key lacks the scope ${excess}.`);
      const { key, secret } = await keys.create({ actor: actorOf(request), tenantId, ...request.body });
      return reply
        .code(201)
        .header('cache-control', 'no-store')
        .send({ key: bodyOf(key), secret });
    },
  );
  app.get(
    '/api-keys',
    {
      config,
      schema: { summary: 'List API keys', response: { 200: z.object({ items: z.array(keySchema), next: z.null() }) } },
    },
    async (request) => ({ items: (await keys.list(callerOf(request).tenantId)).map(bodyOf), next: null }),
  );
  app.delete(
    '/api-keys/:id',
    { config, schema: { summary: 'Revoke an API key at once', params: idParams, response: { 204: z.null() } } },
    async (request, reply) => {
      await keys.revoke(actorOf(request), request.params.id);
      return reply.code(204).send(null);
    },
  );
}
