/** People's requests and answers. Unknown fields are refused; answers carry JSON values where the registry keeps text. */
import { configSchema, cursorSchema, idSchema, LIMITS, parseJson, timeSchema } from '@milkrun/control-plane';
import { SEEN_KEYS_MAX } from '@milkrun/core';
import type { ConnectionView, EventView, TriggerView } from '@milkrun/registrydb';
import { z } from 'zod';
import { humanText, pagingShape, reasonShape } from './http-conventions.ts';

const dedupe = z.enum(['unique', 'hash', 'watermark']);
const overlapSeconds = z.int().min(0).max(31_536_000);
const pollPolicy = z
  .strictObject({
    dedupe: dedupe.default('unique'),
    overlapSeconds: overlapSeconds.optional(),
    repeatable: z.boolean().default(true),
  })
  .refine(({ dedupe: strategy, overlapSeconds: overlap }) => overlap === undefined || strategy === 'watermark', {
    path: ['overlapSeconds'],
    error: 'only with dedupe "watermark"',
  });
const importedState = z.strictObject({
  cursor: cursorSchema.describe('Where the connector goes on; its own cursor, or null.'),
  seenKeys: z
    .array(
      z
        .string()
        .min(1)
        .max(512)
        .refine((text) => text.isWellFormed()),
    )
    .max(SEEN_KEYS_MAX)
    .default([])
    .describe('Keys of items that were told already, newest last.'),
});
const tags = z.array(idSchema).max(50);
const intervalSeconds = z.int().min(1).max(LIMITS.intervalSecondsMax);

export const createTriggerBody = z
  .strictObject({
    deduplicationKey: idSchema
      .optional()
      .describe('A second request with the same key changes this trigger instead of making one.'),
    name: humanText(200).optional(),
    tags: tags.default([]),
    toolkit: idSchema,
    slug: idSchema.describe('Which trigger of the toolkit.'),
    version: idSchema.default('1').describe('Version of the connector wanted.'),
    config: configSchema.describe('The connector’s configuration, an object of at most 64 KiB.'),
    connectionId: idSchema,
    intervalSeconds: intervalSeconds.describe('Seconds between two polls.'),
    enabled: z.boolean().default(true),
    since: timeSchema.optional().describe('The first poll also emits items dated at or after this instant.'),
    poll: pollPolicy.default({ dedupe: 'unique', repeatable: true }),
    state: importedState
      .optional()
      .describe(
        'What another poller remembers: a new trigger goes on from there instead of priming. A known one keeps its own.',
      ),
  })
  .refine(({ poll, state }) => state === undefined || poll.dedupe !== 'hash', {
    path: ['state'],
    error: 'not with dedupe "hash": items without keys can not be remembered from outside; give `since` instead',
  });

export const createTriggersBody = z
  .strictObject({ triggers: z.array(createTriggerBody).min(1).max(1_000) })
  .superRefine(({ triggers }, context) => {
    const seen = new Set<string>();
    for (const [at, { deduplicationKey: key }] of triggers.entries()) {
      if (key === undefined) continue;
      if (seen.has(key)) {
        context.addIssue({ code: 'custom', path: ['triggers', at, 'deduplicationKey'], message: 'is given twice' });
      }
      seen.add(key);
    }
  });
export const createdTriggersSchema = z.object({
  triggers: z
    .array(z.object({ id: z.string(), created: z.boolean().describe('False: it was there by its deduplicationKey.') }))
    .describe('In the order of the request.'),
});

export const patchTriggerBody = z.strictObject({
  name: humanText(200).nullable().optional(),
  tags: tags.optional(),
  version: idSchema.optional(),
  config: z.optional(configSchema),
  connectionId: idSchema.optional(),
  intervalSeconds: intervalSeconds.optional(),
  since: timeSchema.nullable().optional(),
  poll: pollPolicy.optional(),
  ...reasonShape,
});

const resumeFrom = z.enum(['cursor', 'now']).default('cursor');

export const enableBody = z.strictObject({ resume: resumeFrom, ...reasonShape }).prefault({});
export const resumeBody = z
  .strictObject({ from: resumeFrom.describe('cursor: where it stopped; now: primes again'), ...reasonShape })
  .prefault({});
export const reasonBody = z.strictObject(reasonShape).prefault({});
export const rewindBody = z
  .strictObject({ cursor: z.optional(cursorSchema), since: timeSchema.optional(), ...reasonShape })
  .refine(({ cursor, since }) => (cursor === undefined) !== (since === undefined), {
    error: 'exactly one of cursor and since is needed',
  });

export const explainQuery = z.strictObject({
  since: z.iso.datetime({ offset: true }).optional().describe('RFC 3339; a day before `until` when absent.'),
  until: z.iso.datetime({ offset: true }).optional().describe('RFC 3339; now when absent.'),
  limit: z.coerce.number().int().min(1).max(500).optional(),
});

export const listTriggersQuery = z.strictObject({
  ...pagingShape,
  toolkit: idSchema.optional(),
  slug: idSchema.optional(),
  connectionId: idSchema.optional(),
  deduplicationKey: idSchema.optional(),
  tag: idSchema.optional(),
  state: z.enum(['active', 'disabled', 'halted']).optional(),
  search: humanText(100)
    .min(1)
    .optional()
    .describe('Part of a name, key, toolkit or slug; the beginning of an id; a whole tag.'),
});

const pipelineName = z.enum(['v2', 'legacy']);

export const triggerSchema = z.object({
  id: z.string(),
  deduplicationKey: z.string().nullable(),
  name: z.string().nullable(),
  tags: z.array(z.string()),
  toolkit: z.string(),
  slug: z.string(),
  version: z.string(),
  config: z.unknown(),
  connectionId: z.string(),
  intervalSeconds: z.int(),
  enabled: z.boolean().describe('The user’s wish.'),
  since: z.string().nullable(),
  poll: z.object({ dedupe, overlapSeconds: overlapSeconds.nullable(), repeatable: z.boolean() }),
  configVersion: z.int(),
  createdAt: z.string(),
  updatedAt: z.string(),
  primed: z.boolean().describe('The first listing was recorded.'),
  pipeline: z.object({
    name: pipelineName.describe('Who polls it.'),
    movingTo: pipelineName.nullable().describe('While a migration hands it over.'),
    migration: z.string().nullable().describe('The migration that moves it now.'),
    since: z.string().nullable().describe('When this began to be so; null: from the beginning.'),
  }),
  status: z.object({
    state: z.enum(['active', 'disabled', 'halted']),
    code: z.string().nullable().describe('Why it is off.'),
    meaning: z.string().nullable(),
    since: z.string().nullable(),
    by: z.string().nullable().describe('Who turned it off: engine, or a key.'),
    reason: z.string().nullable(),
    ends: z.array(z.string()).describe('What turns it on again.'),
  }),
  warning: z.object({ code: z.string(), at: z.string() }).nullable(),
  lastEventAt: z.string().nullable(),
});

/** One trigger asked for by its id. */
export const triggerWithMovesSchema = triggerSchema.extend({
  moves: z
    .array(z.object({ at: z.string(), to: pipelineName, by: z.string(), migration: z.string().nullable() }))
    .describe('Its moves between the pipelines, newest first.'),
});

const secretText = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .refine((text) => text.isWellFormed());

const credentials = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('none') }),
  z.strictObject({
    type: z.literal('api_key'),
    apiKey: secretText(16_384),
    header: idSchema.optional(),
    query: idSchema.optional(),
  }),
  z.strictObject({ type: z.literal('basic'), username: secretText(1_024), password: z.string().max(16_384) }),
  z.strictObject({ type: z.literal('bearer'), token: secretText(16_384) }),
]);

export const createConnectionBody = z.strictObject({
  toolkit: idSchema,
  name: humanText(200).default(''),
  credentials,
  expiresAt: timeSchema.optional(),
});

export const patchConnectionBody = z.strictObject({
  name: humanText(200).optional(),
  credentials: credentials.optional(),
  status: z.enum(['active', 'expired', 'revoked', 'refresh_failed']).optional(),
  statusReason: humanText(500).optional(),
  expiresAt: timeSchema.nullable().optional(),
});

export const listConnectionsQuery = z.strictObject({ ...pagingShape, toolkit: idSchema.optional() });

export const connectionSchema = z.object({
  id: z.string(),
  toolkit: z.string(),
  name: z.string(),
  kind: z.enum(['none', 'api_key', 'basic', 'bearer']),
  status: z.enum(['active', 'expired', 'revoked', 'refresh_failed']),
  statusReason: z.string().nullable(),
  expiresAt: z.string().nullable(),
  version: z.int(),
  createdAt: z.string(),
  updatedAt: z.string(),
});

export const listEventsQuery = z.strictObject({ ...pagingShape, triggerId: z.guid().toLowerCase().optional() });

export const eventSchema = z.object({
  id: z.string(),
  triggerId: z.string(),
  storedAt: z.string(),
  event: z.unknown().describe('The CloudEvents 1.0 record.'),
});

/** What ends a halt, by the code that caused it. */
function endsOf({ state, code }: TriggerView['status']): string[] {
  if (state === 'active') return [];
  if (state === 'disabled') return ['enable the trigger'];
  const always = ['resume the trigger', 'disable and enable it', 'change its configuration or connection'];
  if (code?.startsWith('auth.')) {
    return ['renew the connection’s credentials', 'a successful probe, one every 6 hours', ...always];
  }
  return code === 'cursor_lost' ? ['rewind the trigger to a cursor or an instant', ...always] : always;
}

export function triggerBody(view: TriggerView, meaningOf: (code: string) => string | null) {
  const { config, status } = view;
  const meaning = status.code === null ? null : meaningOf(status.code);
  return {
    ...view,
    tags: [...view.tags],
    config: parseJson(config),
    status: { ...status, meaning, ends: endsOf(status) },
  };
}

export const connectionBody = (view: ConnectionView): z.infer<typeof connectionSchema> => ({ ...view });

export const eventBody = ({ id, triggerId, storedAt, record }: EventView) => ({
  id,
  triggerId,
  storedAt,
  event: parseJson(record),
});
