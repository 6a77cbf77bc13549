/** Builds the HTTP server: hooks first, then routes. Nothing listens yet. */

import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import fastifySwagger from '@fastify/swagger';
import type { EventTypePolicy } from '@milkrun/activity-core/definitions';
import { parseJson } from '@milkrun/control-plane';
import type { Clock, Log } from '@milkrun/core';
import type { Registry } from '@milkrun/registrydb';
import type { TelemetryMetrics } from '@milkrun/telemetry';
import { type FastifyBaseLogger, type FastifyInstance, fastify, type RawServerDefault } from 'fastify';
import { jsonSchemaTransform, serializerCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod';
import { installAccess } from './access.ts';
import type { EngineClient } from './engine-client.ts';
import { problemSchema } from './http-conventions.ts';
import { installIdempotency } from './idempotent.ts';
import { createErrorHandler, Problem, sendProblem } from './problems.ts';
import { activityRoutes } from './routes/activities.ts';
import { connectionRoutes } from './routes/connections.ts';
import { CONSOLE, consoleRoutes } from './routes/console.ts';
import { engineRoutes } from './routes/engine.ts';
import { eventRoutes } from './routes/events.ts';
import { fleetRoutes } from './routes/fleet.ts';
import { keyRoutes } from './routes/keys.ts';
import { operationsRoutes } from './routes/operations.ts';
import { triggerRoutes } from './routes/triggers.ts';
import { validatorCompiler } from './validation.ts';

export type App = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  ZodTypeProvider
>;

export interface ServerDeps {
  readonly registry: Registry;
  readonly engine: EngineClient;
  readonly engineKey: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: TelemetryMetrics;
  readonly eventTypes: EventTypePolicy;
  /** Aborted when the process is ending: waiting readers are answered. */
  readonly closing: AbortSignal;
  /** Folder of the built console; that of this repository when absent. */
  readonly consoleFiles?: string | undefined;
}

const BODY_BYTES_MAX = 256 * 1024;

export async function buildServer(deps: ServerDeps): Promise<App> {
  const { registry, engine, engineKey, clock, log, metrics, closing, consoleFiles } = deps;
  const app: App = fastify({
    bodyLimit: BODY_BYTES_MAX,
    exposeHeadRoutes: false,
    forceCloseConnections: true,
    genReqId: () => randomUUID(),
    keepAliveTimeout: 75_000,
    requestTimeout: 60_000,
    routerOptions: { maxParamLength: 256 },
  }).withTypeProvider<ZodTypeProvider>();
  app.setValidatorCompiler(validatorCompiler as never);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler(createErrorHandler(log));
  app.setNotFoundHandler((request, reply) =>
    sendProblem(reply, 404, `There is no ${request.method} ${request.url.split('?')[0]}.`),
  );
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    try {
      // An empty body is no body: verbs without fields may be called with either.
      done(null, body === '' ? undefined : parseJson(String(body)));
    } catch {
      done(new Problem(400, 'The body is not valid JSON.'));
    }
  });
  await app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Milkrun',
        version: '1',
        description: 'Triggers, connections, events and activities of a tenant.',
      },
      components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
      security: [{ key: [] }],
    },
    transform: jsonSchemaTransform,
  });
  installHeaders(app);
  app.addHook('onRoute', ({ schema }) => {
    if (schema?.response) Object.assign(schema.response, { '4xx': problemSchema });
  });
  installAccess(app as never, registry, engineKey);
  installIdempotency(app as never, registry);
  installReport(app, log, metrics);
  triggerRoutes(app, registry, engine);
  connectionRoutes(app, registry);
  eventRoutes(app, registry);
  await activityRoutes(app, { registry, clock, metrics, eventTypes: deps.eventTypes });
  keyRoutes(app, registry);
  engineRoutes(app, registry, metrics, closing);
  fleetRoutes(app, registry, engine);
  operationsRoutes(app, { registry, metrics, closing });
  await consoleRoutes(app, consoleFiles ?? CONSOLE);
  return app;
}

function installHeaders(app: App): void {
  app.addHook('onSend', async (request, reply, payload) => {
    reply.header('x-request-id', request.id).header('x-content-type-options', 'nosniff');
    if (reply.getHeader('cache-control') === undefined) reply.header('cache-control', 'no-store');
    return payload;
  });
}

const AREAS: readonly (readonly [RegExp, string])[] = [
  [/^\/(triggers\/changes|conn\/batch|state)$/, 'engine'],
  [/^\/triggers/, 'triggers'],
  [/^\/connections/, 'connections'],
  [/^\/(events|dead-letters)/, 'events'],
  [/^\/(activity-|schemas|webhooks)/, 'activities'],
  [/^\/(healthz|readyz|metrics|openapi\.json|fleet.*)$/, 'operations'],
  [/^\/(assets\/.*)?$/, 'console'],
];

/** One line and two figures for each request, at its end. */
function installReport(app: App, log: Log, metrics: TelemetryMetrics): void {
  app.addHook('onResponse', async (request, reply) => {
    const { url: route = '' } = request.routeOptions;
    const area = AREAS.find(([form]) => form.test(route))?.[1] ?? 'other';
    const status = reply.statusCode;
    metrics.count('api.requests', 1, { area, status: `${Math.floor(status / 100)}xx` });
    if (route !== '/triggers/changes') metrics.observe('api.request_duration', reply.elapsedTime / 1000, { area });
    if (area === 'operations' || area === 'console' || (area === 'engine' && status < 400)) return;
    const key = request.caller?.id;
    log.info(
      {
        requestId: request.id,
        method: request.method,
        route,
        status,
        ms: Math.round(reply.elapsedTime),
        ...(key === undefined ? {} : { key }),
      },
      'request.completed',
    );
  });
}
