/** Health of a worker that has no operations API: `/healthz` and `/readyz` alone. */
import type { WorkerHost } from '@milkrun/worker-host';
import fastify, { type FastifyInstance } from 'fastify';

export function createHealthApi(deps: {
  readonly host: Pick<WorkerHost, 'ready' | 'healthy'>;
  readonly ping: () => Promise<void>;
}): FastifyInstance {
  const app = fastify({ logger: false });
  app.get('/healthz', async (_request, reply) => {
    const healthy = deps.host.healthy();
    return reply.code(healthy ? 200 : 503).send({ healthy });
  });
  app.get('/readyz', async (_request, reply) => {
    const database = await deps.ping().then(
      () => true,
      () => false,
    );
    const temporal = deps.host.ready();
    return reply.code(temporal && database ? 200 : 503).send({ ready: temporal && database, temporal, database });
  });
  return app;
}
