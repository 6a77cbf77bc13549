/**
 * What a connector is: which configuration it takes, what its events look like, how they are told apart, and `poll`.
 *
 * A connector keeps nothing between polls but its cursor. It may be called twice with the same cursor and must then
 * find the same items under the same keys; telling new from known is the engine's job.
 */
import type { Clock } from '@milkrun/core';
import { z } from 'zod';
import type { Http } from './http.ts';

/**
 * - `unique`: the whole listing at every poll, items with keys; at most 5,000 of them.
 * - `hash`: the same without keys.
 * - `watermark`: items since the cursor, less an overlap; any number of them.
 */
export type Dedupe = 'unique' | 'hash' | 'watermark';

export interface PollItem {
  /** The provider's identity of the item, 1 to 512 bytes; id plus version where items change. */
  readonly key?: string;
  /** RFC 3339. */
  readonly occurredAt?: string;
  readonly data: unknown;
}

export interface PollResult {
  /** Oldest first. */
  readonly events: readonly PollItem[];
  /** Any JSON up to 16 KiB. */
  readonly cursor: unknown;
  /** Ask for the next page now. */
  readonly more?: boolean;
  /** Seconds. */
  readonly retryAfter?: number;
  readonly version?: string;
  /** This version gives other keys to known items: the trigger primes again. */
  readonly rekeys?: boolean;
}

export interface PollContext<Config> {
  readonly trigger: { readonly id: string; readonly slug: string; readonly version: string };
  readonly config: Config;
  /** Credentials as the control plane gave them, or a reference. */
  readonly auth: unknown;
  /** The cursor of the last result, or null at first. */
  readonly cursor: unknown;
  /** RFC 3339; sent until the trigger has primed. */
  readonly since: string | undefined;
  readonly eventsMax: number;
  /** Aborts when the answer would come too late. */
  readonly signal: AbortSignal;
  readonly clock: Clock;
  /** HTTP under the SSRF guard, bounded, with failures already classified. */
  readonly http: Http;
  /** What the operator set for the poll function. */
  readonly settings: Settings;
}

/** Settings of the poll function, by name: `NPM_REGISTRY`, `OUTBOUND_ALLOW`. */
export type Settings = Readonly<Record<string, string | undefined>>;

export interface ConnectorDefinition<Schema extends z.ZodType> {
  readonly toolkit: string;
  /** Unique in a function; what a trigger names. */
  readonly slug: string;
  readonly title: string;
  readonly version: string;
  readonly configSchema: Schema;
  /** Of one event's `data`. */
  readonly eventSchema: z.ZodType;
  /** May depend on the configuration. */
  readonly dedupe: Dedupe | ((config: z.output<Schema>) => Dedupe);
  /** With watermark. */
  readonly overlapSeconds?: number;
  readonly defaultIntervalSeconds: number;
  readonly minimumIntervalSeconds: number;
  /** False: what a poll returned cannot be asked for again. */
  readonly repeatable: boolean;
  poll(context: PollContext<z.output<Schema>>): Promise<PollResult>;
}

export interface PollPolicy {
  readonly dedupe: Dedupe;
  readonly overlapSeconds?: number;
  readonly repeatable: boolean;
}

/** A connector with its configuration's type closed over: what handlers, catalogues and the conformance kit take. */
export interface Connector {
  readonly toolkit: string;
  readonly slug: string;
  readonly title: string;
  readonly version: string;
  readonly defaultIntervalSeconds: number;
  readonly minimumIntervalSeconds: number;
  readonly eventSchema: z.ZodType;
  /** For forms and documentation. */
  readonly configJsonSchema: unknown;
  /** The problems of a configuration, each `path: what`; empty when it may be polled with. */
  configProblems(config: unknown): readonly string[];
  /** `poll` of the trigger's feed record. Throws ConfigInvalid. */
  policyOf(config: unknown): PollPolicy;
  /** Throws ConfigInvalid, PollError or whatever the connector throws. */
  poll(context: PollContext<unknown>): Promise<PollResult>;
}

export class ConfigInvalid extends Error {
  override readonly name = 'ConfigInvalid';
}

/** Throws RangeError for a definition that contradicts itself. */
export function defineConnector<Schema extends z.ZodType>(definition: ConnectorDefinition<Schema>): Connector {
  const { toolkit, slug, title, version, eventSchema, configSchema, repeatable, overlapSeconds } = definition;
  const { defaultIntervalSeconds, minimumIntervalSeconds } = definition;
  for (const name of [toolkit, slug]) {
    if (!/^[a-z0-9][a-z0-9_-]{0,63}$/.test(name))
      throw new RangeError(`"${name}" is no name for a toolkit or connector`);
  }
  if (!(minimumIntervalSeconds > 0 && minimumIntervalSeconds <= defaultIntervalSeconds)) {
    throw new RangeError(`${slug}: the minimum interval must lie between 0 and the default interval`);
  }
  if (definition.dedupe === 'watermark' && overlapSeconds === undefined) {
    throw new RangeError(`${slug}: watermark needs overlapSeconds`);
  }
  const parse = (config: unknown): z.output<Schema> => {
    const parsed = configSchema.safeParse(config);
    if (!parsed.success) throw new ConfigInvalid(problemsOf(parsed.error).join('; '));
    return parsed.data;
  };
  return Object.freeze({
    toolkit,
    slug,
    title,
    version,
    defaultIntervalSeconds,
    minimumIntervalSeconds,
    eventSchema,
    configJsonSchema: z.toJSONSchema(configSchema, { io: 'input' }),
    configProblems(config: unknown) {
      const parsed = configSchema.safeParse(config);
      return parsed.success ? [] : problemsOf(parsed.error);
    },
    policyOf(config: unknown): PollPolicy {
      const parsed = parse(config);
      const dedupe = typeof definition.dedupe === 'function' ? definition.dedupe(parsed) : definition.dedupe;
      return dedupe === 'watermark' && overlapSeconds !== undefined
        ? { dedupe, overlapSeconds, repeatable }
        : { dedupe, repeatable };
    },
    async poll(context: PollContext<unknown>) {
      return definition.poll({ ...context, config: parse(context.config) });
    },
  });
}

function problemsOf(error: z.ZodError): string[] {
  return error.issues.map(({ path, message }) => `${path.length === 0 ? 'config' : path.join('.')}: ${message}`);
}
