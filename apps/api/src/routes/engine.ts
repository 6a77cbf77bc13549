/** The engine's three endpoints (design section 3): feed, credentials, deliveries. */
import {
  connectionBatchSchema,
  eventSchema,
  hasUnstorable,
  issueText,
  LIMITS,
  stateBodySchema,
} from '@milkrun/control-plane';
import type { Metrics } from '@milkrun/core';
import type { IncomingEvent, Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { Problem } from '../problems.ts';
import type { App } from '../server.ts';

const changesQuery = z.object({
  after: z.string().max(1024).optional(),
  limit: z.coerce.number().int().min(1).max(LIMITS.pageLimit).default(LIMITS.pageLimit),
  wait: z.coerce.number().int().min(0).max(LIMITS.waitSeconds).default(0),
});

type StateBody = z.infer<typeof stateBodySchema>;
type Status = { triggerId: string; status: 'accepted' | 'gone' | 'rejected'; eventId?: string; reason?: string };

/** A reader that hears of nothing (no LISTEN behind its pooler) looks again after this long. */
const LOOK_AGAIN_MS = 1000;
const STATE_BYTES_MAX = 4 * 1024 * 1024;
const ASK_BYTES_MAX = 8 * 1024 * 1024;

export function engineRoutes(app: App, registry: Registry, metrics: Metrics, closing: AbortSignal): void {
  const config = { policy: 'engine' } as const;

  app.get(
    '/triggers/changes',
    {
      config,
      schema: {
        summary: 'The change feed; waits for the first change',
        querystring: changesQuery,
        response: { 200: z.string() },
      },
    },
    async (request, reply) => {
      const { after, limit, wait } = request.query;
      const gone = new AbortController();
      reply.raw.on('close', () => gone.abort());
      const signal = AbortSignal.any([gone.signal, closing]);
      const until = performance.now() + wait * 1000;
      for (;;) {
        const heard = registry.feed.heard();
        const page = await registry.feed.read(after ?? null, limit);
        if (page === 'expired') throw new Problem(410, 'Read the feed again from its beginning.');
        const left = until - performance.now();
        if (page.changes.length > 0 || left <= 0 || signal.aborted) {
          const text = `{"changes":[${page.changes.join(',')}],"next":${JSON.stringify(page.next)},"more":${page.more}}`;
          return reply
            .type('application/json')
            .serializer((value: string) => value)
            .send(text);
        }
        await registry.feed.wait(heard, Math.min(left, LOOK_AGAIN_MS), signal);
      }
    },
  );

  app.post(
    '/conn/batch',
    {
      config,
      bodyLimit: ASK_BYTES_MAX,
      schema: {
        summary: 'Credentials of connections, answered by id',
        body: connectionBatchSchema,
        response: { 200: z.unknown() },
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      return { connections: await registry.connections.authFor(request.body.connections) };
    },
  );

  app.post(
    '/state',
    {
      config,
      bodyLimit: STATE_BYTES_MAX,
      schema: {
        summary: 'Events and decisions of the engine, stored once by id',
        body: stateBodySchema,
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const sorted = sortOut(request.body);
      const { known, stored } = await registry.storeState({
        triggers: [...sorted.triggers].map(([triggerId, { pollState, configVersion }]) => ({
          triggerId,
          pollState,
          configVersion,
        })),
        events: [...sorted.triggers.values()].flatMap(({ events }) => events),
        lifecycle: request.body.lifecycle,
      });
      const taken = [...sorted.triggers]
        .filter(([id]) => known.has(id))
        .reduce((sum, [, { events }]) => sum + events.length, 0);
      metrics.count('api.events_stored', stored, { outcome: 'stored' });
      metrics.count('api.events_stored', taken - stored, { outcome: 'duplicate' });
      metrics.count('api.events_stored', sorted.refused.length, { outcome: 'refused' });
      const accepted = [...sorted.triggers.keys()].map(
        (triggerId): Status => ({ triggerId, status: known.has(triggerId) ? 'accepted' : 'gone' }),
      );
      return {
        results: [...accepted, ...sorted.refused],
        lifecycle: request.body.lifecycle.map(({ triggerId, at }) => ({ triggerId, at })),
      };
    },
  );
}

/** By trigger: what is fit to be stored, and one refusal for each trigger with an event that is not. */
function sortOut({ results }: StateBody) {
  const triggers = new Map<
    string,
    { events: IncomingEvent[]; pollState: string | null; configVersion: number | null }
  >();
  const refused = new Map<string, Status>();
  for (const { triggerId, events, pollState, configVersion } of results) {
    const own = triggers.get(triggerId) ?? { events: [], pollState: null, configVersion: null };
    triggers.set(triggerId, own);
    own.pollState = pollState ?? own.pollState;
    own.configVersion = configVersion ?? own.configVersion;
    for (const event of events) {
      const checked = checkEvent(triggerId, event);
      if ('record' in checked) own.events.push(checked);
      else if (!refused.has(triggerId)) refused.set(triggerId, { triggerId, status: 'rejected', ...checked });
    }
  }
  for (const triggerId of refused.keys()) triggers.delete(triggerId);
  return { triggers, refused: [...refused.values()] };
}

/** The event as it is stored, or why it is refused, under its id when it has a usable one. */
function checkEvent(triggerId: string, value: unknown): IncomingEvent | { eventId?: string; reason: string } {
  const id = eventSchema.shape.id.safeParse((value as { id?: unknown } | null)?.id);
  const refuse = (reason: string) => (id.success ? { eventId: id.data, reason } : { reason });
  const parsed = eventSchema.safeParse(value);
  if (!parsed.success) return refuse(issueText(parsed.error));
  if (parsed.data.triggerid !== triggerId) return refuse('triggerid: names another trigger');
  let record: string;
  try {
    record = JSON.stringify(value);
  } catch {
    return refuse('nests too deeply');
  }
  if (Buffer.byteLength(record) > LIMITS.eventBytes) return refuse(`larger than ${LIMITS.eventBytes} bytes`);
  if (hasUnstorable(record)) return refuse('holds a NUL or a lone surrogate');
  const { type, time } = parsed.data;
  return { eventId: parsed.data.id, triggerId, type, occurredAt: time ?? null, record };
}
