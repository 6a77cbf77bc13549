/**
 * The engine's operations API: nobody but the engine opens workerdb, so API, console and CLI ask here. Every route but the
 * two health checks wants `ENGINE_KEY` when one is set.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { parsePush } from '@milkrun/control-plane';
import { type FeedChange, type FeedPageResult, isUuid, type Log, nearest, OTHER_CODES, VERDICTS } from '@milkrun/core';
import type { WorkerDb } from '@milkrun/workerdb';
import fastify, { type FastifyInstance } from 'fastify';
import type { Figures } from './figures.ts';

export interface EngineApiDeps {
  readonly db: WorkerDb;
  readonly key: string | undefined;
  readonly figures: (since?: string) => Promise<Figures>;
  readonly pushChanges: (changes: readonly FeedChange[]) => Promise<FeedPageResult>;
  /** Signals every timer shard: something was made due. */
  readonly armAll: () => Promise<void>;
  readonly testTrigger: (triggerId: string) => Promise<object | undefined>;
  readonly log: Log;
  readonly ready: () => boolean;
  readonly healthy: () => boolean;
}

const PUBLIC = new Set(['/healthz', '/readyz']);
const LIST_MAX = 500;
const LOOPBACK = /^(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/;

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
    throw Object.assign(new Error(`"${id.slice(0, 64)}" is no trigger id: a UUID is`), { statusCode: 400 });
  };
  const found = <T>(value: T | undefined, triggerId: string): T => {
    if (value !== undefined) return value;
    throw Object.assign(new Error(`the engine has no trigger ${triggerId}`), { statusCode: 404 });
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
  app.get('/dead-letters', async () => ({ items: await db.deadLetters(LIST_MAX) }));
  app.get('/doctor', async () => {
    const report = await db.liveness();
    return { ...report, violations: report.violations.map((one) => ({ ...one, repaired: false })) };
  });
  app.get('/triggers/:id', async (request) => {
    const id = triggerIdOf(request.params);
    return found(await db.trigger(id), id);
  });
  app.get('/triggers/:id/explain', async (request) => {
    const id = triggerIdOf(request.params);
    const trigger = found(await db.trigger(id), id);
    const timeline = await db.timeline(id, LIST_MAX);
    return { trigger, now: sentenceOf(trigger), timeline };
  });
  app.post('/triggers/:id/test', async (request) => {
    const id = triggerIdOf(request.params);
    return found(await deps.testTrigger(id), id);
  });
  app.post('/triggers/:id/poll-now', async (request) => {
    const id = triggerIdOf(request.params);
    const due = await db.pollNow('engine-api', id);
    if (due) await deps.armAll();
    return { due };
  });
  app.post('/triggers/changes', async (request, reply) => {
    const { changes, refused } = parsePush(request.body);
    const result = await deps.pushChanges(changes);
    return reply.code(refused.length > 0 ? 207 : 200).send({ ...result, refused });
  });
  app.post('/poll-all', async () => {
    const { now } = await db.fleet();
    const triggers = await db.pollAllNow('engine-api');
    await deps.armAll();
    return { since: now, triggers };
  });
  app.post('/halts/clear', async (request) => {
    const { code } = (request.body ?? {}) as { code?: unknown };
    const codes = [...Object.keys(VERDICTS), ...Object.keys(OTHER_CODES)];
    if (typeof code !== 'string' || !codes.includes(code)) {
      const meant = typeof code === 'string' ? nearest(code, codes) : undefined;
      throw Object.assign(
        new Error(`code must be a halt's code${meant === undefined ? '' : `; did you mean ${meant}?`}`),
        { statusCode: 400 },
      );
    }
    const cleared = await db.clearHalts('engine-api', code as keyof typeof VERDICTS);
    await deps.armAll();
    return { cleared };
  });
  app.post('/feed/confirm-deletes', async () => {
    const deleted = await db.confirmMassDelete('engine-api');
    if (deleted === undefined)
      throw Object.assign(new Error('no refused mass delete waits to be confirmed'), { statusCode: 409 });
    return { deleted };
  });
  app.post('/batches/:id/end', async (request) => {
    const ended = await db.end((request.params as { id: string }).id);
    await deps.armAll();
    return { ended };
  });
  return app;
}

/** Why it is or is not polled now, in one sentence. */
function sentenceOf(trigger: NonNullable<Awaited<ReturnType<WorkerDb['trigger']>>>): string {
  if (!trigger.enabled) return 'It is disabled.';
  if (trigger.haltedCode !== null) {
    const next =
      trigger.nextPollAt === null ? 'it waits for someone to lift the halt' : `it is probed at ${trigger.nextPollAt}`;
    return `It is halted with ${trigger.haltedCode} since ${trigger.haltedAt}; ${next}.`;
  }
  if (trigger.batch !== null)
    return `It is leased by batch ${trigger.batch.batchId}, hop ${trigger.batch.hop}, step ${trigger.batch.step}.`;
  if (trigger.dueSeconds !== null && trigger.dueSeconds >= 0)
    return `It is due since ${Math.round(trigger.dueSeconds)} s and waits for a batch.`;
  return `It is polled next at ${trigger.nextPollAt}.`;
}
