/** Who may call what. Deny by default: a route without a policy cannot be registered. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { Registry, Scope, VerifiedKey } from '@milkrun/registrydb';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { Problem } from './problems.ts';

/** `public`: anybody. `engine`: the engine's key alone. Else a key of a tenant with that scope. */
type Policy = 'public' | 'engine' | Scope;

declare module 'fastify' {
  interface FastifyContextConfig {
    policy?: Policy;
    /** False: the answer holds a secret and is not kept for Idempotency-Key. */
    idempotent?: boolean;
  }
  interface FastifyRequest {
    /** The caller's key; set on every route whose policy is a scope. */
    caller: VerifiedKey | null;
  }
}

/** Installs the check; routes registered afterwards need a `config.policy`. */
export function installAccess(app: FastifyInstance, registry: Registry, engineKey: string): void {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const engineDigest = digest(engineKey);

  app.decorateRequest('caller', null);
  app.addHook('onRoute', ({ method, url, config }) => {
    if (config?.policy === undefined) throw new Error(`route ${method} ${url} has no policy: say who may call it`);
  });
  app.addHook('onRequest', async (request, reply) => {
    const { policy } = request.routeOptions.config;
    // Only the answer to an unknown path has no policy of its own.
    if (policy === undefined || policy === 'public') return;
    const secret = bearerOf(request);
    if (secret === undefined) {
      reply.header('www-authenticate', 'Bearer');
      throw new Problem(401, 'Send the key as Authorization: Bearer.');
    }
    const isEngine = timingSafeEqual(digest(secret), engineDigest);
    if (policy === 'engine') {
      if (isEngine) return;
      if ((await registry.keys.verify(secret)) !== undefined)
        throw new Problem(403, 'Only the engine’s key may call this.');
      throw new Problem(401, 'The key is not known.');
    }
    if (isEngine) throw new Problem(403, 'The engine’s key may call the engine’s endpoints only.');
    const key = await registry.keys.verify(secret);
    if (key === undefined) throw new Problem(401, 'The key is not known, has expired or was revoked.');
    if (!key.scopes.includes(policy)) throw new Problem(403, `The key lacks the scope ${policy}.`);
    request.caller = key;
  });
}

/** The caller of a route whose policy is a scope. */
export function callerOf(request: FastifyRequest): VerifiedKey {
  if (request.caller === null) throw new Error('this route has no caller: its policy is not a scope');
  return request.caller;
}

/** Who does it, for the audit trail. */
export function actorOf(request: FastifyRequest): { tenantId: string; name: string } {
  const { id, name, tenantId } = callerOf(request);
  return { tenantId, name: `key:${id} (${name})` };
}

function bearerOf({ headers }: FastifyRequest): string | undefined {
  const [, token] = /^Bearer ([\x21-\x7e]{1,512})$/i.exec(headers.authorization ?? '') ?? [];
  return token;
}
