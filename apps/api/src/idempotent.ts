/** `Idempotency-Key` on people's writes: the first call runs, a repeat gets the same answer, another request is refused. */
import { createHash } from 'node:crypto';
import type { Registry } from '@milkrun/registrydb';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { callerOf } from './access.ts';
import { Problem } from './problems.ts';

const WRITES = new Set(['POST', 'PATCH', 'PUT', 'DELETE']);

export function installIdempotency(app: FastifyInstance, { idempotency }: Registry): void {
  const running = new WeakMap<FastifyRequest, string>();

  app.addHook('preHandler', async (request, reply) => {
    const { policy, idempotent = true } = request.routeOptions.config;
    const key = request.headers['idempotency-key'];
    if (key === undefined || policy === 'engine' || policy === 'public' || !idempotent || !WRITES.has(request.method))
      return;
    if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key)) {
      throw new Problem(400, 'Idempotency-Key must be 1 to 255 printable characters.');
    }
    const what = JSON.stringify([
      request.method,
      request.url,
      request.headers['if-match'] ?? null,
      request.body ?? null,
    ]);
    const { tenantId } = callerOf(request);
    const begun = await idempotency.begin(tenantId, key, createHash('sha256').update(what).digest());
    if (begun.kind === 'other') throw new Problem(422, 'This Idempotency-Key was used for another request.');
    if (begun.kind === 'running')
      throw new Problem(409, 'The first request with this Idempotency-Key is still running.');
    if (begun.kind === 'first') {
      running.set(request, key);
      return;
    }
    if (begun.etag !== null) reply.header('etag', begun.etag);
    return reply
      .code(begun.status)
      .header('idempotent-replayed', 'true')
      .type('application/json')
      .serializer((text: string) => text)
      .send(begun.answer);
  });

  app.addHook('onSend', async (request, reply, payload) => {
    const key = running.get(request);
    if (key === undefined) return payload;
    running.delete(request);
    const { tenantId } = callerOf(request);
    const answer = typeof payload === 'string' ? payload : '';
    // A refusal or a failure had no effect: the caller may mend the request and use the key again.
    if (reply.statusCode >= 300) await idempotency.forget(tenantId, key);
    else {
      const etag = reply.getHeader('etag');
      await idempotency.finish(tenantId, key, {
        status: reply.statusCode,
        answer,
        etag: typeof etag === 'string' ? etag : null,
      });
    }
    return payload;
  });
}
