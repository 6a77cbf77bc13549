/**
 * Webhooks: people keep them, providers deliver to them. A delivery is verified over its bytes before anything else is done
 * with them, and what is wrong is answered alike for a webhook that is not there and a signature that does not fit.
 */
import { randomBytes } from 'node:crypto';
import { eventOf, eventType } from '@milkrun/activity-core/definitions';
import type { Clock, Metrics } from '@milkrun/core';
import type { Registry, WebhookView } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import {
  ifVersionOf,
  pageOf,
  pagingShape,
  positionOf,
  setVersion,
  toPage,
  UUID,
  uuidParams,
} from '../../http-conventions.ts';
import { Problem } from '../../problems.ts';
import type { App } from '../../server.ts';
import { verifyDelivery } from '../../signature.ts';
import { READ, refusing, WRITE } from './common.ts';
import type { Publisher } from './publishing.ts';

const body = z.strictObject({
  slug: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/),
  type: eventType.describe('Type of its events.'),
  scheme: z.enum(['standard', 'github']).default('standard'),
  tolerance_seconds: z
    .int()
    .min(1)
    .max(3_600)
    .default(300)
    .describe('How far the sender’s clock may be off; standard only.'),
  enabled: z.boolean().default(true),
});
const secretShape = z
  .string()
  .regex(
    /^(whsec_[A-Za-z0-9+/]{32,128}={0,2}|(?!whsec_)[\x21-\x7e]{16,256})$/,
    'accepted: whsec_ and base64 of 24 bytes or more, or 16 to 256 printable characters',
  );
const shown = z.object({
  id: z.string(),
  slug: z.string(),
  type: z.string(),
  scheme: z.enum(['standard', 'github']),
  tolerance_seconds: z.int(),
  enabled: z.boolean(),
  path: z.string().describe('Where the provider delivers.'),
  old_secret_until: z.string().nullable(),
  version: z.int(),
  created_at: z.string(),
  updated_at: z.string(),
});
const withSecret = shown.extend({ secret: z.string().describe('Shown this once.') });

const bodyOf = (view: WebhookView): z.infer<typeof shown> => ({
  id: view.id,
  slug: view.slug,
  type: view.type,
  scheme: view.scheme,
  tolerance_seconds: view.toleranceSeconds,
  enabled: view.enabled,
  path: `/webhooks/${view.id}`,
  old_secret_until: view.beforeUntil,
  version: view.version,
  created_at: view.createdAt,
  updated_at: view.updatedAt,
});
const inputOf = ({ slug, type, scheme, tolerance_seconds, enabled }: z.infer<typeof body>) => ({
  slug,
  type,
  scheme,
  toleranceSeconds: tolerance_seconds,
  enabled,
});
const newSecret = (): string => `whsec_${randomBytes(24).toString('base64')}`;

export function webhookRoutes(app: App, { webhooks }: Registry): void {
  app.get(
    '/webhooks',
    {
      config: READ,
      schema: { summary: 'Webhooks', querystring: z.strictObject(pagingShape), response: { 200: pageOf(shown) } },
    },
    async (request) => {
      const { limit, cursor } = request.query;
      const before = positionOf(cursor, UUID);
      const found = await webhooks.list(callerOf(request).tenantId, { limit: limit + 1, before });
      return toPage(found, limit, ({ id }) => id, bodyOf);
    },
  );
  app.post(
    '/webhooks',
    {
      config: { ...WRITE, idempotent: false },
      schema: {
        summary: 'Make a webhook; its secret is shown this once',
        body: body.extend({ secret: secretShape.optional().describe('Made when absent.') }),
        response: { 201: withSecret },
      },
    },
    async (request, reply) => {
      const { secret = newSecret(), ...input } = request.body;
      const view = await webhooks.create(actorOf(request), inputOf(input), secret);
      setVersion(reply, view.version).code(201).header('location', `/webhooks/${view.id}`);
      return { ...bodyOf(view), secret };
    },
  );
  app.get(
    '/webhooks/:id',
    { config: READ, schema: { summary: 'One webhook', params: uuidParams, response: { 200: shown } } },
    async (request, reply) => {
      const view = await webhooks.get(callerOf(request).tenantId, request.params.id);
      setVersion(reply, view.version);
      return bodyOf(view);
    },
  );
  app.put(
    '/webhooks/:id',
    { config: WRITE, schema: { summary: 'Change a webhook', params: uuidParams, body, response: { 200: shown } } },
    async (request, reply) => {
      const { id } = request.params;
      const view = await webhooks.update(actorOf(request), id, inputOf(request.body), ifVersionOf(request));
      setVersion(reply, view.version);
      return bodyOf(view);
    },
  );
  app.post(
    '/webhooks/:id/rotate',
    {
      config: { ...WRITE, idempotent: false },
      schema: {
        summary: 'A new secret; the old one is accepted for a while longer',
        params: uuidParams,
        body: z
          .strictObject({
            secret: secretShape.optional(),
            overlap_seconds: z.int().min(0).max(604_800).default(86_400),
          })
          .prefault({}),
        response: { 200: withSecret },
      },
    },
    async (request, reply) => {
      const { secret = newSecret(), overlap_seconds } = request.body;
      const view = await webhooks.rotate(actorOf(request), request.params.id, secret, overlap_seconds);
      setVersion(reply, view.version);
      return { ...bodyOf(view), secret };
    },
  );
  app.delete(
    '/webhooks/:id',
    { config: WRITE, schema: { summary: 'Delete a webhook', params: uuidParams, response: { 204: z.null() } } },
    async (request, reply) => {
      await webhooks.remove(actorOf(request), request.params.id, ifVersionOf(request));
      return reply.code(204).send(null);
    },
  );
}

interface IngressDeps {
  readonly registry: Registry;
  readonly publisher: Publisher;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/** Where providers deliver: apart from the other routes, for its bodies are bytes. */
export async function webhookIngress(app: App, { registry, publisher, clock, metrics }: IngressDeps): Promise<void> {
  await app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, bytes, done) => done(null, bytes));
    (scope as App).post(
      '/webhooks/:id',
      {
        config: { policy: 'public' },
        schema: {
          summary: 'Deliver a signed event',
          params: uuidParams,
          response: { 202: z.object({ id: z.string(), id_from: z.string(), key: z.string() }) },
        },
      },
      async (request, reply) => {
        const { id: webhookId } = request.params;
        const bytes = request.body instanceof Buffer ? request.body : Buffer.alloc(0);
        const keys = await registry.webhooks.keys(webhookId);
        const { headers } = request;
        const verified =
          keys === undefined
            ? ({ ok: false, reason: 'signature' } as const)
            : verifyDelivery({ ...keys, headers, body: bytes, nowMs: clock.now() });
        metrics.count('activity.webhook_deliveries', 1, { result: verified.ok ? 'taken' : verified.reason });
        if (!verified.ok || keys === undefined) {
          const old = !verified.ok && verified.reason === 'timestamp';
          throw new Problem(
            401,
            old ? 'The delivery is too old, or the clock of its sender is off.' : 'The signature does not fit.',
          );
        }
        const event = refusing(() => {
          const base = { specversion: '1.0', id: verified.id, source: `/webhooks/${webhookId}`, type: keys.type };
          const given = verified.by === 'webhook-id' ? headers['webhook-timestamp'] : undefined;
          // A delivery that comes again is the same event: its time is the sender's, or none.
          const at = typeof given === 'string' ? { time: new Date(Number(given) * 1000).toISOString() } : {};
          return eventOf({ ...base, ...at, data: dataOf(bytes) });
        });
        const [key = ''] = await publisher.publish(keys.tenantId, [event], () => '');
        return reply.code(202).send({ id: event.id, id_from: verified.by, key });
      },
    );
  });
}

function dataOf(bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown;
  } catch {
    throw new Problem(400, 'The body is not valid JSON.');
  }
}
