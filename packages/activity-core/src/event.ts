/**
 * Events as activities see them: CloudEvents 1.0, whatever shape they arrived in.
 *
 * Accepted: a CloudEvents record (structured), `ce-*` headers over a body (binary), and the two envelopes of older
 * publishers. Everything else is refused with the field that is wrong; nothing is guessed.
 */
import { z } from 'zod';
import { eventType } from './definition.ts';
import { type Problem, pathText, Refused } from './problem.ts';

/** Bytes of `data`, extensions, characters of an id. */
export const EVENT_LIMITS = { dataBytes: 262_144, extensions: 20, idCharacters: 512, hops: 16 } as const;

export interface ActivityEvent {
  readonly id: string;
  /** URI-reference of who made it; source and id together are what makes it unique. */
  readonly source: string;
  readonly type: string;
  /** RFC 3339, or null. */
  readonly time: string | null;
  readonly subject: string | null;
  readonly dataschema: string | null;
  readonly data: unknown;
  /** Such as traceparent, correlationid, causationid, hops. */
  readonly extensions: Readonly<Record<string, string | number | boolean>>;
}

const line = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused.
    .refine((value) => value.isWellFormed() && !/[\u0000-\u001f\u007f]/.test(value), 'holds a control character');
const instant = z.iso.datetime({ offset: true, error: 'is no instant; accepted: RFC 3339' });
const EXTENSION = /^[a-z0-9]{1,20}$/;

/** A CloudEvents 1.0 record. Its JSON Schema is served by the API. */
export const cloudEventSchema = z
  .object({
    specversion: z.literal('1.0'),
    id: line(EVENT_LIMITS.idCharacters),
    source: line(1_024),
    type: eventType,
    time: instant.optional(),
    subject: line(1_024).optional(),
    datacontenttype: z
      .string()
      .regex(/^application\/([a-z0-9.+-]+\+)?json(;.*)?$/i, 'accepted: application/json')
      .optional(),
    dataschema: line(1_024).optional(),
    data: z.unknown().optional(),
  })
  .catchall(z.union([z.string().max(4_096), z.number(), z.boolean()]))
  .meta({ title: 'CloudEvents 1.0 record' });

/** The first envelope: `event_id … payload`. */
const seedEnvelope = z.strictObject({
  event_id: line(EVENT_LIMITS.idCharacters),
  type: eventType,
  source: line(1_024),
  occurred_at: instant,
  subject: line(1_024),
  trace_id: line(200),
  schema_version: line(200).default('1.0'),
  payload: z.record(z.string(), z.unknown()).default({}),
});
/** The second: `id … attributes`. */
const publisherEnvelope = z.strictObject({
  id: line(EVENT_LIMITS.idCharacters),
  type: eventType,
  version: line(200).default('1.0'),
  timestamp: instant,
  publisher: line(1_024),
  attributes: z.record(z.string(), z.unknown()).default({}),
});

/** Reads an event from what was parsed from JSON. Throws Refused. */
export function eventOf(value: unknown): ActivityEvent {
  if (isRecord(value) && !('specversion' in value)) {
    if ('event_id' in value) return fromSeed(parsed(seedEnvelope, value));
    if ('publisher' in value) return fromPublisher(parsed(publisherEnvelope, value));
  }
  const {
    specversion: _,
    id,
    source,
    type,
    time,
    subject,
    datacontenttype: __,
    dataschema,
    data,
    ...extensions
  } = parsed(cloudEventSchema, value);
  const wrong = Object.keys(extensions).find((name) => !EXTENSION.test(name));
  const refuse = (path: string, message: string): never => {
    throw new Refused([{ path, message }]);
  };
  if (wrong !== undefined)
    refuse(wrong, 'is no name of an extension; accepted: at most 20 lower-case letters and digits');
  if (Object.keys(extensions).length > EVENT_LIMITS.extensions)
    refuse('', `more than ${EVENT_LIMITS.extensions} extensions`);
  const bytes = Buffer.byteLength(JSON.stringify(data ?? null));
  if (bytes > EVENT_LIMITS.dataBytes) refuse('data', `${bytes} bytes; accepted: at most ${EVENT_LIMITS.dataBytes}`);
  return {
    id,
    source,
    type,
    time: time ?? null,
    subject: subject ?? null,
    dataschema: dataschema ?? null,
    data: data ?? null,
    extensions: extensions as ActivityEvent['extensions'],
  };
}

/** How many events were made by events before it; 0 for one from outside. */
export function hopsOf({ extensions }: ActivityEvent): number {
  const hops = Number(extensions.hops ?? 0);
  return Number.isSafeInteger(hops) && hops >= 0 ? hops : 0;
}

/** The event as the root `event` of expressions and templates, and as a structured CloudEvents record. */
export function recordOf(event: ActivityEvent): Record<string, unknown> {
  const { id, source, type, time, subject, dataschema, data, extensions } = event;
  return {
    specversion: '1.0',
    id,
    source,
    type,
    ...(time === null ? {} : { time }),
    ...(subject === null ? {} : { subject }),
    ...(dataschema === null ? {} : { dataschema }),
    datacontenttype: 'application/json',
    ...extensions,
    data,
  };
}

function fromSeed(seed: z.output<typeof seedEnvelope>): ActivityEvent {
  const isW3c = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/.test(seed.trace_id);
  return {
    id: seed.event_id,
    source: seed.source,
    type: seed.type,
    time: seed.occurred_at,
    subject: seed.subject,
    dataschema: seed.schema_version,
    data: seed.payload,
    extensions: isW3c ? { traceparent: seed.trace_id } : { correlationid: seed.trace_id },
  };
}

function fromPublisher(given: z.output<typeof publisherEnvelope>): ActivityEvent {
  return {
    id: given.id,
    source: given.publisher,
    type: given.type,
    time: given.timestamp,
    subject: null,
    dataschema: given.version,
    data: given.attributes,
    extensions: {},
  };
}

function parsed<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new Refused(result.error.issues.map(({ path, message }): Problem => ({ path: pathText(path), message })));
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
