/**
 * The poll function: the poll contract's request in, its answer out, as a Lambda handler or behind the local Invoke API.
 *
 * Never throws for what a connector can come to: a failure is an answer with a class. What a connector returns is
 * passed on as it is; the engine judges it, as it must with connectors that are not built with this.
 */
import type { Clock } from '@milkrun/core';
import { systemClock } from '@milkrun/core';
import { z } from 'zod';
import { ConfigInvalid, type Connector, type PollContext, type PollResult, type Settings } from './connector.ts';
import { type ErrorClass, PollError } from './errors.ts';
import { createHttp } from './http.ts';

const MESSAGE_LENGTH_MAX = 500;
/** What is left to put the answer together and carry it home. */
const ANSWER_MS = 250;

const requestSchema = z.object({
  trigger: z.object({
    id: z.string().min(1).max(128),
    slug: z.string().min(1).max(128),
    version: z.string().max(128).nullish(),
    config: z.unknown().optional(),
  }),
  auth: z.unknown().optional(),
  cursor: z.unknown(),
  since: z.iso.datetime({ offset: true }).nullish(),
  limits: z.object({
    deadlineMs: z.number().positive(),
    eventsMax: z.number().int().positive(),
  }),
});

export interface PollFailure {
  readonly error: { readonly class: ErrorClass; readonly message: string; readonly retryAfter?: number };
}

export type PollHandler = (request: unknown) => Promise<PollResult | PollFailure>;

export interface HandlerOptions {
  readonly settings?: Settings;
  readonly clock?: Clock;
}

/** Throws RangeError when two connectors share a slug. */
export function createHandler(connectors: readonly Connector[], options: HandlerOptions = {}): PollHandler {
  const { settings = {}, clock = systemClock } = options;
  const bySlug = new Map<string, Connector>();
  for (const connector of connectors) {
    if (bySlug.has(connector.slug)) throw new RangeError(`two connectors are called "${connector.slug}"`);
    bySlug.set(connector.slug, connector);
  }
  const http = createHttp({ settings, clock });

  return async (request) => {
    const parsed = requestSchema.safeParse(request);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      return failure('connector', `not a request of the poll contract: ${issue?.path.join('.')}: ${issue?.message}`);
    }
    const { trigger, auth, cursor, since, limits } = parsed.data;
    const connector = bySlug.get(trigger.slug);
    if (connector === undefined) return failure('permanent', `this function has no connector "${trigger.slug}"`);
    const late = new AbortController();
    const context: PollContext<unknown> = {
      trigger: { id: trigger.id, slug: trigger.slug, version: trigger.version ?? connector.version },
      config: trigger.config,
      auth: auth ?? null,
      cursor: cursor ?? null,
      since: since ?? undefined,
      eventsMax: limits.eventsMax,
      signal: late.signal,
      clock,
      http,
      settings,
    };
    const timer = setTimeout(() => late.abort(), Math.max(1, limits.deadlineMs - ANSWER_MS));
    try {
      const result = await connector.poll(context);
      return result.version === undefined ? { ...result, version: connector.version } : result;
    } catch (error) {
      if (late.signal.aborted) return failure('transient', 'the provider did not answer within the deadline');
      return failureOf(error);
    } finally {
      clearTimeout(timer);
    }
  };
}

function failureOf(error: unknown): PollFailure {
  if (error instanceof PollError) return failure(error.class, error.message, error.retryAfter);
  if (error instanceof ConfigInvalid) return failure('permanent', `configuration: ${error.message}`);
  return failure('connector', error instanceof Error ? `${error.name}: ${error.message}` : 'the connector failed');
}

function failure(errorClass: ErrorClass, message: string, retryAfter?: number): PollFailure {
  const error = { class: errorClass, message: message.slice(0, MESSAGE_LENGTH_MAX).toWellFormed() };
  return { error: retryAfter === undefined ? error : { ...error, retryAfter } };
}
