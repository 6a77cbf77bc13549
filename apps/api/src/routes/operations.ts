/** Health, metrics and the API's own description. */
import type { Registry } from '@milkrun/registrydb';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { z } from 'zod';
import { Problem } from '../problems.ts';
import type { App } from '../server.ts';

export interface OperationsDeps {
  readonly registry: Registry;
  readonly metrics: TelemetryMetrics;
  readonly closing: AbortSignal;
}

export function operationsRoutes(app: App, { registry, metrics, closing }: OperationsDeps): void {
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
}
