/**
 * Routes of activities, their runs and their tasks. Nothing here speaks to Temporal: what has to happen there is written as
 * a command in the transaction that causes it.
 */
import { createTypeCheck, type EventTypePolicy, JSON_SCHEMAS } from '@milkrun/activity-core/definitions';
import type { Clock, Metrics } from '@milkrun/core';
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import type { App } from '../server.ts';
import { deadLetterRoutes } from './activities/dead-letters.ts';
import { definitionRoutes } from './activities/definitions.ts';
import { eventTypeRoutes } from './activities/event-types.ts';
import { activityEventRoutes } from './activities/events.ts';
import { fileRoutes } from './activities/files.ts';
import { createPublisher } from './activities/publishing.ts';
import { runRoutes } from './activities/runs.ts';
import { startRoutes } from './activities/starts.ts';
import { taskRoutes } from './activities/tasks.ts';
import { tickRoutes } from './activities/ticks.ts';
import { webhookIngress, webhookRoutes } from './activities/webhooks.ts';

interface ActivityRouteDeps {
  readonly registry: Registry;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly eventTypes: EventTypePolicy;
}

export async function activityRoutes(app: App, deps: ActivityRouteDeps): Promise<void> {
  const { registry, clock, metrics } = deps;
  const publisher = createPublisher(registry, createTypeCheck(deps.eventTypes));
  definitionRoutes(app, registry, clock);
  tickRoutes(app, registry, clock);
  startRoutes(app, registry, clock);
  fileRoutes(app, registry, clock);
  runRoutes(app, registry);
  taskRoutes(app, registry);
  activityEventRoutes(app, registry, publisher, clock);
  eventTypeRoutes(app, registry);
  webhookRoutes(app, registry);
  await webhookIngress(app, { registry, publisher, clock, metrics });
  deadLetterRoutes(app, registry);
  app.get(
    '/schemas/:name',
    {
      config: { policy: 'public' },
      schema: {
        summary: 'JSON Schemas',
        params: z.strictObject({ name: z.enum(Object.keys(JSON_SCHEMAS)) }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => JSON_SCHEMAS[request.params.name],
  );
}
