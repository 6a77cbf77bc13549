/** Health, metrics, figures of the fleet, the API's own description, and the console's files. */
import { join } from 'node:path';
import fastifyStatic from '@fastify/static';
import type { Registry } from '@milkrun/registrydb';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { z } from 'zod';
import { callerOf } from '../access.ts';
import type { EngineClient } from '../engine-client.ts';
import { Problem } from '../problems.ts';
import type { App } from '../server.ts';

const CONSOLE = join(import.meta.dirname, '..', '..', '..', 'console', 'public');
const CONSOLE_FILES = ['console.js', 'console.css'] as const;
const CONSOLE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

export interface OperationsDeps {
  readonly registry: Registry;
  readonly engine: EngineClient;
  readonly metrics: TelemetryMetrics;
  readonly closing: AbortSignal;
}

export async function operationsRoutes(
  app: App,
  { registry, engine, metrics, closing }: OperationsDeps,
): Promise<void> {
  const open = { policy: 'public' } as const;
  const hide = { hide: true };

  app.get(
    '/healthz',
    { config: open, schema: { summary: 'The process is alive', response: { 200: z.unknown() } } },
    async () => ({
      status: 'ok',
    }),
  );
  app.get(
    '/readyz',
    { config: open, schema: { summary: 'The process can work: its database answers', response: { 200: z.unknown() } } },
    async () => {
      if (closing.aborted) throw new Problem(503, 'The process is ending.');
      await registry.ping();
      return { status: 'ready' };
    },
  );
  app.get('/metrics', { config: open, schema: hide }, async (_request, reply) =>
    reply.type('text/plain; version=0.0.4; charset=utf-8').send(await metrics.exposition()),
  );
  app.get('/openapi.json', { config: open, schema: hide }, async () => app.swagger());
  app.get(
    '/fleet',
    {
      config: { policy: 'fleet:read' },
      schema: {
        summary: 'Figures of the fleet; engine is null when it does not answer',
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const figures = await registry.figures(callerOf(request).tenantId);
      try {
        return { ...figures, engine: await engine.get('/fleet'), engineProblem: null };
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        return { ...figures, engine: null, engineProblem: error.message };
      }
    },
  );

  await app.register(fastifyStatic, { root: CONSOLE, serve: false });
  const page = (file: string) => ({
    config: open,
    schema: hide,
    handler: (_request: unknown, reply: import('fastify').FastifyReply) =>
      reply.headers({ 'content-security-policy': CONSOLE_POLICY, 'referrer-policy': 'no-referrer' }).sendFile(file),
  });
  app.route({ method: 'GET', url: '/', ...page('index.html') });
  for (const file of CONSOLE_FILES) app.route({ method: 'GET', url: `/${file}`, ...page(file) });
}
