/**
 * The engine's operations API: nobody but the engine opens workerdb, so API, console and CLI ask here. Every route but the
 * two health checks wants `ENGINE_KEY` when one is set.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { parsePush } from '@milkrun/control-plane';
import {
  type FeedChange,
  type FeedPageResult,
  isUuid,
  type LivenessReport,
  type Log,
  nearest,
  OTHER_CODES,
  VERDICTS,
} from '@milkrun/core';
import type { Migrations } from '@milkrun/migration';
import type { HoldTarget, Scope, WorkerDb } from '@milkrun/workerdb';
import fastify, { type FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { Figures } from './figures.ts';
import { migrationRoutes } from './migration-routes.ts';

export interface EngineApiDeps {
  readonly db: WorkerDb;
  readonly migrations: Migrations;
  readonly key: string | undefined;
  readonly figures: (since?: string) => Promise<Figures>;
  readonly pushChanges: (changes: readonly FeedChange[]) => Promise<FeedPageResult>;
  /** Signals every timer shard: something was made due. */
  readonly armAll: () => Promise<void>;
  readonly inspect: () => Promise<LivenessReport>;
  /** A check that repairs; each violation says what was done. */
  readonly repair: () => Promise<LivenessReport>;
  readonly testTrigger: (triggerId: string) => Promise<object | undefined>;
  readonly log: Log;
  readonly ready: () => boolean;
  readonly healthy: () => boolean;
}

const PUBLIC = new Set(['/healthz', '/readyz']);
const LIST_MAX = 500;
const LOOPBACK = /^(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/;

/** Whoever holds ENGINE_KEY; the control plane keeps who asked it. */
const ACTOR = 'engine-api';
const name = z.string().min(1).max(512);
const time = z.iso.datetime({ offset: true });
const scopeBody = z.strictObject({ toolkit: name.optional(), tenantId: name.optional() });
const haltsBody = z.strictObject({ ...scopeBody.shape, code: z.unknown() });
const targetBody = z.strictObject({ ...scopeBody.shape, all: z.literal(true).optional() });
const holdBody = z.strictObject({
  ...targetBody.shape,
  seconds: z.number().int().min(1).max(31_536_000),
  perMinute: z.number().int().min(1).max(1_000_000).optional(),
});
const shardsBody = z.strictObject({ count: z.number().int().min(1).max(64) });
const rangeQuery = z.strictObject({
  since: time.optional(),
  until: time.optional(),
  limit: z.coerce.number().int().min(1).max(LIST_MAX).optional(),
});

const lettersQuery = z.strictObject({
  tenantId: name.optional(),
  before: z
    .string()
    .regex(/^\d{1,18}$/)
    .optional(),
  limit: z.coerce.number().int().min(1).max(LIST_MAX).optional(),
});

const refused = (statusCode: number, message: string): Error => Object.assign(new Error(message), { statusCode });

/** Refuses with 400 and a sentence for each field that is wrong. */
function parsed<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value ?? {});
  if (result.success) return result.data;
  const sentences = result.error.issues.map(({ path, message }) => `${path.join('.') || 'body'}: ${message}`);
  throw refused(400, sentences.join('; '));
}

function scopeOf({ toolkit, tenantId }: { toolkit?: string | undefined; tenantId?: string | undefined }): Scope {
  return { ...(toolkit === undefined ? {} : { toolkit }), ...(tenantId === undefined ? {} : { tenantId }) };
}

function targetOf(target: z.infer<typeof targetBody>): HoldTarget {
  const { toolkit, tenantId, all } = target;
  const given: HoldTarget[] = [
    ...(toolkit === undefined ? [] : [{ toolkit }]),
    ...(tenantId === undefined ? [] : [{ tenantId }]),
    ...(all === undefined ? [] : [{ all }]),
  ];
  const [one] = given;
  if (one === undefined || given.length > 1) throw refused(400, 'name one of toolkit, tenantId and all');
  return one;
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

function problem(status: number, title: string, detail: string) {
  return { type: 'about:blank', status, title, detail };
}

export function createEngineApi(deps: EngineApiDeps): FastifyInstance {
  const { db } = deps;
  const app = fastify({ logger: false, bodyLimit: 16 * 1024 * 1024 });
  const wanted = deps.key === undefined ? undefined : digest(`Bearer ${deps.key}`);

  app.addHook('onRequest', async (request, reply) => {
    if (PUBLIC.has(request.routeOptions.url ?? '')) return;
    if (wanted === undefined) {
      // Without a key the loopback interface is the only guard, and a browser's page can reach it too.
      if (request.headers.origin === undefined && LOOPBACK.test(request.headers.host ?? '')) return;
      await reply
        .code(403)
        .type('application/problem+json')
        .send(problem(403, 'Forbidden', 'Set ENGINE_KEY to use the engine from elsewhere.'));
      return;
    }
    if (timingSafeEqual(digest(request.headers.authorization ?? ''), wanted)) return;
    await reply
      .code(401)
      .type('application/problem+json')
      .send(problem(401, 'Unauthorized', 'Send ENGINE_KEY as a bearer key.'));
  });
  app.setErrorHandler(async (error, request, reply) => {
    const invalid = error instanceof Error && error.name === 'ZodError';
    const status = invalid ? 400 : ((error as { statusCode?: number }).statusCode ?? 500);
    if (status >= 500) deps.log.error({ route: request.routeOptions.url, error: String(error) }, 'engine_api.failed');
    const detail =
      status < 500 && error instanceof Error ? error.message : 'The engine could not answer; its log says why.';
    await reply
      .code(status)
      .type('application/problem+json')
      .send(problem(status, status < 500 ? 'Bad request' : 'Engine failure', detail));
  });
  app.setNotFoundHandler(async (request, reply) => {
    await reply
      .code(404)
      .type('application/problem+json')
      .send(problem(404, 'Not found', `No route ${request.method} ${request.url}`));
  });

  const triggerIdOf = (params: unknown): string => {
    const { id } = params as { id: string };
    if (isUuid(id.toLowerCase())) return id.toLowerCase();
    throw refused(400, `"${id.slice(0, 64)}" is no trigger id: a UUID is`);
  };
  const found = <T>(value: T | undefined, triggerId: string): T => {
    if (value !== undefined) return value;
    throw refused(404, `the engine has no trigger ${triggerId}`);
  };

  app.get('/healthz', async (_request, reply) =>
    reply.code(deps.healthy() ? 200 : 503).send({ healthy: deps.healthy() }),
  );
  app.get('/readyz', async (_request, reply) => {
    const database = await db.ping().then(
      () => true,
      () => false,
    );
    const ready = deps.ready() && database;
    return reply.code(ready ? 200 : 503).send({ ready, temporal: deps.ready(), database });
  });
  app.get('/fleet', async (request) => deps.figures((request.query as { since?: string }).since));
  app.get('/shards', async () => ({ items: await db.shards() }));
  app.get('/batches', async (request) => {
    const { limit, ended } = request.query as { limit?: string; ended?: string };
    return { items: await db.batches(Math.min(LIST_MAX, Number(limit) || LIST_MAX), ended === 'true') };
  });
  app.get('/workers', async () => ({ items: await db.workers() }));
  app.get('/dead-letters', async (request) => {
    const { limit, tenantId, before } = parsed(lettersQuery, request.query);
    const filter = { ...(tenantId === undefined ? {} : { tenantId }), ...(before === undefined ? {} : { before }) };
    return { items: await db.deadLetters({ limit: limit ?? LIST_MAX, ...filter }) };
  });
  app.get('/dead-letters/:id', async (request) => {
    const { id } = request.params as { id: string };
    const letter = /^\d{1,18}$/.test(id) ? await db.deadLetter(id) : undefined;
    if (letter === undefined) throw refused(404, `there is no dead letter "${id.slice(0, 64)}"`);
    return letter;
  });
  app.get('/doctor', async () => deps.inspect());
  app.post('/doctor', async () => deps.repair());
  app.get('/holds', async () => ({ items: await db.holds() }));
  app.post('/holds', async (request) => {
    const { seconds, perMinute, ...rest } = parsed(holdBody, request.body);
    await db.setHold(ACTOR, targetOf(rest), { seconds, ...(perMinute === undefined ? {} : { perMinute }) });
    return { held: true };
  });
  app.post('/holds/clear', async (request) => {
    const cleared = await db.clearHold(ACTOR, targetOf(parsed(targetBody, request.body)));
    await deps.armAll();
    return { cleared };
  });
  app.post('/shards', async (request) => {
    const { count } = parsed(shardsBody, request.body);
    const before = await db.setTimerShards(ACTOR, count);
    await deps.armAll();
    return { before, count };
  });
  app.get('/triggers/:id', async (request) => {
    const id = triggerIdOf(request.params);
    return found(await db.trigger(id), id);
  });
  app.get('/triggers/:id/explain', async (request) => {
    const id = triggerIdOf(request.params);
    const { since, until, limit } = parsed(rangeQuery, request.query);
    return found(
      await db.explain(id, {
        limit: limit ?? LIST_MAX,
        ...(since === undefined ? {} : { since }),
        ...(until === undefined ? {} : { until }),
      }),
      id,
    );
  });
  app.post('/triggers/:id/test', async (request) => {
    const id = triggerIdOf(request.params);
    return found(await deps.testTrigger(id), id);
  });
  app.post('/triggers/:id/poll-now', async (request) => {
    const id = triggerIdOf(request.params);
    const due = await db.pollNow(ACTOR, id);
    if (due) await deps.armAll();
    return { due };
  });
  app.post('/triggers/changes', async (request, reply) => {
    const { changes, refused } = parsePush(request.body);
    const result = await deps.pushChanges(changes);
    return reply.code(refused.length > 0 ? 207 : 200).send({ ...result, refused });
  });
  app.post('/poll-all', async (request) => {
    const made = await db.pollAllNow(ACTOR, scopeOf(parsed(scopeBody, request.body ?? {})));
    await deps.armAll();
    return made;
  });
  app.post('/halts/clear', async (request) => {
    const { code, ...scope } = parsed(haltsBody, request.body ?? {});
    const codes = [...Object.keys(VERDICTS), ...Object.keys(OTHER_CODES)];
    if (typeof code !== 'string' || !codes.includes(code)) {
      const meant = typeof code === 'string' ? nearest(code, codes) : undefined;
      throw refused(400, `code must be a halt's code${meant === undefined ? '' : `; did you mean ${meant}?`}`);
    }
    const cleared = await db.clearHalts(ACTOR, code as keyof typeof VERDICTS, scopeOf(scope));
    await deps.armAll();
    return { cleared };
  });
  app.post('/feed/confirm-deletes', async () => {
    const deleted = await db.confirmMassDelete(ACTOR);
    if (deleted === undefined) throw refused(409, 'no refused mass delete waits to be confirmed');
    return { deleted };
  });
  app.post('/batches/:id/end', async (request) => {
    const ended = await db.endBatch(ACTOR, (request.params as { id: string }).id.slice(0, 128));
    await deps.armAll();
    return { ended };
  });
  migrationRoutes(app, deps);
  return app;
}
