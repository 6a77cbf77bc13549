/**
 * The HTTP contract as zod schemas, both directions (design section 3).
 *
 * Machine endpoints: unknown fields are ignored, types and sizes are strict. Opaque values (`config`, `auth`, `cursor`)
 * come out as JSON text, so nobody downstream re-encodes them.
 */
import { z } from 'zod';
import { hasUnstorable, opaqueText } from './json.ts';

export const LIMITS = Object.freeze({
  idChars: 128,
  cursorBytes: 16 * 1024,
  configBytes: 64 * 1024,
  authBytes: 1024 * 1024,
  pollStateBytes: 96 * 1024,
  eventBytes: 1024 * 1024,
  stateEvents: 500,
  stateBytes: 1024 * 1024,
  stateResults: 5000,
  lifecycleRecords: 1000,
  connectionAsks: 1000,
  pageLimit: 1000,
  waitSeconds: 30,
  reasonChars: 500,
  intervalSecondsMax: 31_536_000,
});

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const CONTROL = /[\u0000-\u001f\u007f]/;

const clean = (text: string): boolean => text.isWellFormed() && !CONTROL.test(text);

/** Ids of tenants, connections, toolkits, versions: 1 to 128 characters, none of them a control character. */
export const idSchema = z
  .string()
  .min(1)
  .max(LIMITS.idChars)
  .refine(clean, { error: 'control characters and lone surrogates are not accepted' });

/** A trigger id; upper case is accepted and lowered. */
export const triggerIdSchema = z.guid().toLowerCase();

/** RFC 3339 with an offset or Z; the year 0 exists for neither PostgreSQL nor anybody else. */
export const timeSchema = z.iso
  .datetime({ offset: true })
  .refine((text) => !text.startsWith('0000'), { error: 'there is no year 0' });

/** Free text that people read; control characters become spaces and it is cut, never refused. */
const reasonSchema = z.string().transform((text) => printable(text));

/** Text from outside made fit for a log line or a column. */
export function printable(text: string, charsMax: number = LIMITS.reasonChars): string {
  return text
    .toWellFormed()
    .replaceAll(/[\p{Cc}\p{Cf}]+/gu, ' ')
    .slice(0, charsMax);
}

/** An opaque value as JSON text of at most `bytesMax` bytes. */
function opaque(bytesMax: number, storable: boolean, accepts?: (value: unknown) => string | undefined) {
  return z.unknown().transform((value, context): string => {
    const refused = accepts?.(value);
    const result = refused === undefined ? opaqueText(value, { bytesMax, storable }) : { problem: refused };
    if ('text' in result) return result.text;
    context.addIssue({ code: 'custom', message: result.problem });
    return z.NEVER;
  });
}

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value);
const objectOnly = (value: unknown): string | undefined => (isObject(value) ? undefined : 'expected an object');

/** A connector's configuration: an object, kept as JSON text, at most 64 KiB. */
export const configSchema = opaque(LIMITS.configBytes, true, objectOnly);
/** A cursor: any JSON value, kept as JSON text, at most 16 KiB. */
export const cursorSchema = opaque(LIMITS.cursorBytes, true);
/** Credentials or a reference to them: an object, kept as JSON text. */
export const authSchema = opaque(LIMITS.authBytes, false, objectOnly);

/** What a trigger remembers, opaque text of at most 96 KiB. */
const pollStateSchema = z
  .string()
  .refine((text) => Buffer.byteLength(text) <= LIMITS.pollStateBytes, {
    error: `larger than ${LIMITS.pollStateBytes} bytes`,
  })
  .refine((text) => text.isWellFormed() && !text.includes('\u0000'), { error: 'holds a NUL or a lone surrogate' });

const versionNumber = z.int().min(0);

/** A field that another version may send as null where it means "absent". */
const absent = <T extends z.ZodType>(schema: T) =>
  schema.nullish().transform((value) => (value === null ? undefined : value));

export const pollPolicySchema = z.object({
  dedupe: z.enum(['unique', 'hash', 'watermark']).default('unique'),
  overlapSeconds: absent(z.int().min(0).max(31_536_000)),
  repeatable: z.boolean().default(true),
});

/** One record of the feed that creates or changes a trigger. */
export const upsertSchema = z.object({
  op: z.literal('upsert'),
  triggerId: triggerIdSchema,
  configVersion: versionNumber,
  tenantId: idSchema,
  toolkit: idSchema,
  slug: idSchema,
  version: idSchema,
  config: configSchema,
  connectionId: idSchema,
  intervalSeconds: z.int().min(1).max(LIMITS.intervalSecondsMax),
  enabled: z.boolean(),
  since: absent(timeSchema),
  createdAt: timeSchema,
  poll: absent(pollPolicySchema),
  primed: absent(z.boolean()),
  pollNow: absent(z.boolean()),
  /** Present, even as null: a rewind to that cursor. */
  cursor: z.optional(cursorSchema),
  pollState: absent(pollStateSchema),
  resume: absent(z.enum(['cursor', 'now'])),
  liftedVersion: absent(versionNumber),
  pipeline: absent(z.enum(['v2', 'legacy'])),
  ownershipEpoch: absent(z.int().min(0).max(2_147_483_647)),
});

export const deleteSchema = z.object({
  op: z.literal('delete'),
  triggerId: triggerIdSchema,
  configVersion: versionNumber,
});

export const feedPageSchema = z.object({
  changes: z.array(z.unknown()).max(10_000),
  next: z.string().min(1).max(1024).refine(clean),
  more: z.boolean(),
});

/** Body of `POST /triggers/changes` on the engine: the push twin of the feed. */
export const pushSchema = z.object({ changes: z.array(z.unknown()).min(1).max(LIMITS.pageLimit) });

export const connectionBatchSchema = z.object({
  connections: z
    .array(
      z.object({
        connectionId: idSchema,
        tenantId: idSchema,
        toolkit: idSchema,
        triggerIds: z.array(triggerIdSchema).max(100_000),
      }),
    )
    .max(LIMITS.connectionAsks),
});

export const connectionEnvelopeSchema = z.object({ connections: z.array(z.unknown()).max(100_000) });

const connectionIdentity = { connectionId: idSchema, tenantId: idSchema };

export const connectionAnswerSchema = z.discriminatedUnion('status', [
  z.object({
    ...connectionIdentity,
    status: z.literal('active'),
    auth: authSchema,
    expiresAt: absent(timeSchema),
  }),
  z.object({
    ...connectionIdentity,
    status: z.enum(['expired', 'revoked', 'not_found', 'refresh_failed']),
    reason: absent(reasonSchema),
  }),
]);

export const connectionIdentitySchema = z.object(connectionIdentity);

/** A CloudEvents 1.0 record as the engine sends it, kept as JSON text. */
export const eventSchema = z.object({
  specversion: z.literal('1.0'),
  id: idSchema,
  source: z.string().min(1).max(512),
  type: idSchema,
  time: absent(timeSchema),
  triggerid: triggerIdSchema,
  sequence: absent(z.string().max(128)),
});

export const lifecycleSchema = z.object({
  triggerId: triggerIdSchema,
  configVersion: versionNumber,
  state: z.enum(['halted', 'resumed', 'warning']),
  code: idSchema,
  at: timeSchema,
});

export const stateResultSchema = z.object({
  triggerId: triggerIdSchema,
  leaseEpoch: z.int().min(0),
  configVersion: absent(z.int().min(0)),
  triggerVersion: z.string().max(LIMITS.idChars),
  events: z.array(z.unknown()).max(LIMITS.stateEvents),
  last: z.boolean(),
  pollState: absent(pollStateSchema),
});

/** Body of `POST /state`. Events are looked at one by one, so that one bad event is refused alone. */
export const stateBodySchema = z.object({
  batchId: z.string().min(1).max(256),
  results: z.array(stateResultSchema).max(LIMITS.stateResults),
  lifecycle: absent(z.array(lifecycleSchema).max(LIMITS.lifecycleRecords)).transform((records) => records ?? []),
});

export const stateEnvelopeSchema = z.object({
  results: z.array(z.unknown()).max(100_000),
  lifecycle: absent(z.array(z.unknown()).max(100_000)).transform((records) => records ?? []),
});

export const stateStatusSchema = z.object({
  triggerId: triggerIdSchema,
  status: z.enum(['accepted', 'gone', 'rejected']),
  eventId: absent(idSchema),
  reason: absent(reasonSchema),
});

export const lifecycleEchoSchema = z.object({ triggerId: triggerIdSchema, at: timeSchema });

/** Where and why a value was refused, for a log line or a problem answer: `changes[3].config: expected an object`. */
export function issueText(error: z.ZodError): string {
  return printable(
    error.issues
      .slice(0, 3)
      .map((issue) => {
        const path = issue.path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
        return `${path.replace(/^\./, '') || 'value'}: ${issue.message}`;
      })
      .join('; '),
  );
}

export { hasUnstorable };
