/**
 * An activity definition, as a person writes it: on which events or schedule, with which context, which tasks.
 *
 * This is the shape alone; what no schema can say (expressions, zones, templates) is checked in `check-definition.ts`.
 */
import { z } from 'zod';
import { isDuration } from './duration.ts';

const text = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .refine((value) => value.isWellFormed() && !value.includes('\0'), 'holds a character that can not be stored');
const duration = z
  .string()
  .refine(isDuration, 'is no duration; accepted: an integer and ms, s, m, h or d, such as 90s')
  .meta({ pattern: '^[0-9]{1,9}(ms|s|m|h|d)$', description: 'An integer and ms, s, m, h or d, such as 90s.' });
const name = z.string().regex(/^[a-z][a-z0-9_]{0,62}$/, 'accepted: a lower-case name such as repos_stale');
const slug = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'accepted: lower-case letters, digits and hyphens, such as weekly-sbom');
/** Reverse-DNS: lower-case parts joined by dots, as they become tokens of a NATS subject. */
export const eventType = z
  .string()
  .max(200)
  .regex(
    /^[a-z0-9-]+(\.[a-z0-9-]+)*$/,
    'accepted: lower-case parts joined by dots, such as com.example.repo.registered',
  );
const expression = text(4_096).describe('A CEL expression.');
const scalar = z.union([z.string().max(1_000), z.number(), z.boolean(), z.null()]);

const misfire = z
  .strictObject({
    policy: z.enum(['skip', 'catchup', 'compress', 'catchup_all', 'catchup_latest']).default('skip'),
    grace: duration.default('60s').describe('skip: how late a tick may begin.'),
    window: duration.default('7d').describe('catchup and compress: how old a tick may be.'),
    max: z.int().min(1).max(1_000).default(10).describe('catchup: runs at most for this many of the newest ticks due.'),
  })
  .prefault({});

const cronEntry = z.strictObject({
  cron: text(200).describe('Five fields: minute, hour, day of month, month, day of week.'),
  timezone: text(64).default('UTC').describe('IANA name.'),
  jitter: duration.optional(),
  misfire,
  dst: z
    .strictObject({ repeat: z.enum(['once', 'both']).optional(), gap: z.enum(['skip', 'shift']).default('skip') })
    .prefault({}),
  dom_dow: z
    .literal('and')
    .optional()
    .describe('Needed when day of month and day of week are both set: both must hold.'),
});
const atEntry = z.strictObject({
  at: z.iso.datetime({ offset: true, error: 'is no instant; accepted: RFC 3339, such as 2027-01-31T09:00:00Z' }),
  misfire: z.strictObject({ window: duration.default('7d').describe('How late it may still run.') }).prefault({}),
});
const collectKey = expression.default('event.type').describe('Over `event`.');
const eventEntry = z.strictObject({
  event: z.strictObject({
    type: eventType,
    filters: z
      .record(z.string().min(1).max(200), z.union([scalar, z.array(scalar).min(1).max(100)]))
      .optional()
      .describe('All of them must be equal in the event’s data; a list means any of its values.'),
    where: expression.optional().describe('Over `event`. An error is no match, and is shown as the reason.'),
    debounce: z
      .strictObject({ key: collectKey, period: duration, max_wait: duration.default('1h') })
      .optional()
      .describe('One run for all events of a key, once none has come for `period`, or `max_wait` after the first.'),
    batch: z
      .strictObject({ key: collectKey, size: z.int().min(2).max(1_000), max_wait: duration.default('1m') })
      .optional()
      .describe('One run for `size` events of a key, or for fewer `max_wait` after the first.'),
    deliver: z
      .enum(['start', 'signal'])
      .optional()
      .describe(
        'signal: hand it to the run of its key that is open, which plans its tasks too; start one where none is.',
      ),
    key: expression.optional().describe('For deliver: signal, over `event`.'),
  }),
});

const http = {
  url: text(2_048).describe('http or https; no placeholder in its host.'),
  headers: z.record(z.string().regex(/^[A-Za-z0-9-]{1,100}$/), text(4_096)).optional(),
};
const contextSource = z.strictObject({
  http: z
    .strictObject({
      ...http,
      query: z.record(z.string().min(1).max(200), z.union([text(2_000), z.number(), z.boolean()])).optional(),
    })
    .optional(),
  sql: z
    .strictObject({ connection: name, query: text(16_384), params: z.array(z.unknown()).max(50).optional() })
    .optional(),
  events: z
    .strictObject({ type: eventType, last: z.int().min(1).max(100).default(1), within: duration.default('7d') })
    .optional()
    .describe('The last events of a type, and how many there were.'),
  static: z.unknown().optional(),
  timeout: duration.default('10s'),
  optional: z.boolean().default(false).describe('A failure gives null instead of failing the run.'),
});

const unique = z
  .strictObject({
    key: text(500).describe('A template.'),
    while: z.literal('open').optional(),
    for: duration.optional(),
  })
  .refine(
    (value) => (value.while === undefined) !== (value.for === undefined),
    'exactly one of while and for is needed',
  );
const taskShape = {
  title: text(500).optional(),
  labels: z.array(text(200)).max(20).default([]),
  unique: unique.optional(),
  timeout: duration.default('5m').describe('Of one attempt.'),
  attempts: z.int().min(1).max(100).default(5),
};
const task = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('http'),
    params: z
      .strictObject({
        ...http,
        method: z.enum(['GET', 'POST', 'PUT', 'PATCH', 'DELETE']).default('POST'),
        json: z.unknown().optional(),
      })
      .describe('Idempotency-Key is sent with every attempt.'),
    ...taskShape,
  }),
  z.strictObject({
    type: z.literal('event'),
    params: z.strictObject({ type: eventType, subject: text(500).optional(), data: z.unknown().default({}) }),
    ...taskShape,
  }),
  z.strictObject({
    type: z.literal('workflow'),
    params: z.strictObject({ workflow: text(200), queue: text(200), args: z.array(z.unknown()).max(10).default([]) }),
    ...taskShape,
  }),
  z.strictObject({
    type: z.literal('human'),
    params: z
      .strictObject({
        instructions: text(4_096).optional(),
        assignee: text(200).optional(),
        due_in: duration.optional(),
      })
      .prefault({}),
    ...taskShape,
  }),
  z.strictObject({ type: z.literal('noop'), params: z.record(z.string(), z.unknown()).default({}), ...taskShape }),
]);

const rule = z
  .strictObject({
    id: name,
    for_each: text(500).optional().describe('Path to a list, or to an object gone through by sorted key.'),
    key: expression.optional().describe('Names an item; its index otherwise.'),
    when: expression.optional(),
    limit: z.int().min(1).max(5_000).default(500),
    on_limit: z.enum(['fail', 'truncate']).default('fail'),
    task: task.optional(),
    tasks: z.array(task).min(1).max(20).optional(),
  })
  .refine(
    (value) => (value.task === undefined) !== (value.tasks === undefined),
    'exactly one of task and tasks is needed',
  );

/** An activity definition. Its JSON Schema is served by the API. */
export const definitionSchema = z
  .strictObject({
    slug,
    name: text(200).optional(),
    description: text(20_000).optional(),
    enabled: z.boolean().default(true),
    on: z
      .array(z.union([cronEntry, atEntry, eventEntry]))
      .max(20)
      .default([])
      .describe('At most one cron or at, any number of events. None: started by hand only.'),
    context: z.record(name, contextSource).default({}),
    rules: z.array(rule).min(1).max(50),
    dedupe: z
      .strictObject({
        strategy: z.enum(['event', 'scheduled', 'subject', 'key']),
        key: expression.optional().describe('For strategy key, over `event`.'),
        window: duration.optional().describe('For subject and key: the same key starts one run in each window.'),
      })
      .optional(),
    concurrency: z
      .strictObject({
        key: expression.default('activity.id').describe('Over `event` and `activity`.'),
        limit: z.int().min(1).max(1_000).default(1),
        when_busy: z.enum(['queue', 'skip', 'replace']).default('queue'),
      })
      .optional(),
    spawn: z
      .strictObject({
        concurrency: z.int().min(1).max(200).default(50).describe('Tasks of a run at work at once.'),
        tolerate: z
          .union([z.int().min(0), z.string().regex(/^\d{1,3}%$/, 'accepted: a count, or a percentage such as 10%')])
          .default(0)
          .describe('Failed tasks a run may have and still succeed.'),
        on_failure: z
          .enum(['stop', 'continue'])
          .default('continue')
          .describe('Once more tasks failed than are tolerated.'),
      })
      .prefault({}),
    breaker: z
      .strictObject({
        failures: z.int().min(0).max(1_000).default(0).describe('Failed runs in a row that trip it; 0: never.'),
      })
      .prefault({}),
    rate: z.strictObject({ starts_per_minute: z.int().min(1).max(60_000) }).optional(),
    dry_run: z.boolean().default(false).describe('Plans every task and sends none.'),
  })
  .meta({ title: 'Activity definition' });

export type ActivityDefinition = z.output<typeof definitionSchema>;
export type DefinitionInput = z.input<typeof definitionSchema>;
export type CronEntry = z.output<typeof cronEntry>;
export type AtEntry = z.output<typeof atEntry>;
export type EventEntry = z.output<typeof eventEntry>;
export type ContextSource = z.output<typeof contextSource>;
export type Rule = z.output<typeof rule>;
export type TaskTemplate = z.output<typeof task>;

/** The tasks of a rule, written one or many. */
export function tasksOf({ task: one, tasks }: Rule): readonly TaskTemplate[] {
  return tasks ?? (one === undefined ? [] : [one]);
}

export const cronEntryOf = (definition: ActivityDefinition): CronEntry | undefined =>
  definition.on.find((entry): entry is CronEntry => 'cron' in entry);
export const atEntryOf = (definition: ActivityDefinition): AtEntry | undefined =>
  definition.on.find((entry): entry is AtEntry => 'at' in entry);
export const eventEntriesOf = (definition: ActivityDefinition): readonly EventEntry[] =>
  definition.on.filter((entry): entry is EventEntry => 'event' in entry);
export { atEntry, cronEntry, eventEntry };
