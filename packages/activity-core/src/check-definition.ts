/**
 * Accepts a definition or refuses it with every field that is wrong: nothing that could be known when it is saved is left
 * to fail in a run.
 */
import { nearest } from '@milkrun/core';
import { z } from 'zod';
import { compileCondition, compileKey } from './condition.ts';
import { parseCron } from './cron-expression.ts';
import {
  type ActivityDefinition,
  atEntry,
  cronEntry,
  cronEntryOf,
  definitionSchema,
  type EventEntry,
  eventEntry,
  tasksOf,
} from './definition.ts';
import { durationMs } from './duration.ts';
import { cloudEventSchema } from './event.ts';
import { parsePath, problemAt, rootProblem } from './path.ts';
import { ITEM_ROOTS, RULE_ROOTS } from './plan.ts';
import { type Problem, pathText, Refused } from './problem.ts';
import { fromSeedDefinition, isSeedDefinition, seedPath } from './seed-definition.ts';
import { hasPlaceholder, literalPrefix, templateProblems } from './template.ts';
import { zoneProblem } from './zone.ts';

const DEFINITION_BYTES_MAX = 262_144;
const SOURCE_ROOTS = ['event', 'activity', 'run'];
const SOURCE_KINDS = ['http', 'sql', 'events', 'static'] as const;

/** JSON Schemas by name, as the API serves them. */
export const JSON_SCHEMAS: Readonly<Record<string, object>> = {
  'activity-definition': z.toJSONSchema(definitionSchema, { io: 'input' }),
  'cloud-event': z.toJSONSchema(cloudEventSchema, { io: 'input' }),
};

/** The definition with its defaults filled in. Throws Refused. */
export function parseDefinition(given: unknown): ActivityDefinition {
  const isSeed = isSeedDefinition(given);
  const input = isSeed ? fromSeedDefinition(given) : given;
  const refuse = (problems: readonly Problem[]): never => {
    throw new Refused(isSeed ? problems.map((problem) => ({ ...problem, path: seedPath(problem.path) })) : problems);
  };
  const bytes = Buffer.byteLength(JSON.stringify(input) ?? '');
  if (bytes > DEFINITION_BYTES_MAX)
    refuse([{ path: '', message: `${bytes} bytes; accepted: at most ${DEFINITION_BYTES_MAX}` }]);
  const result = definitionSchema.safeParse(input, { reportInput: true });
  if (!result.success)
    return refuse(result.error.issues.flatMap((issue) => problemsOf(issue, definitionSchema, input)));
  const problems = [...problemsIn(result.data)];
  return problems.length === 0 ? result.data : refuse(problems);
}

function* problemsIn(definition: ActivityDefinition): Generator<Problem> {
  const timed = definition.on.filter((entry) => !('event' in entry));
  if (timed.length > 1) yield { path: 'on', message: `${timed.length} entries of cron and at; accepted: at most one` };
  for (const [n, entry] of definition.on.entries()) {
    const path = `on[${n}]`;
    if ('cron' in entry) {
      yield* attempt(`${path}.cron`, () => parseCron(entry.cron, entry.dom_dow === 'and'));
      const zone = zoneProblem(entry.timezone);
      if (zone !== undefined) yield { path: `${path}.timezone`, message: zone };
      if (entry.jitter !== undefined) yield* between(`${path}.jitter`, entry.jitter, '1s', '1d');
      yield* between(`${path}.misfire.grace`, entry.misfire.grace, '1s', '366d');
    }
    if ('event' in entry) yield* eventProblems(entry.event, `${path}.event`);
    else yield* between(`${path}.misfire.window`, entry.misfire.window, '10s', '366d');
  }
  yield* contextProblems(definition);
  const ids = new Set<string>();
  for (const [n, rule] of definition.rules.entries()) {
    const path = `rules[${n}]`;
    if (ids.has(rule.id)) yield { path: `${path}.id`, message: `"${rule.id}" is given twice` };
    ids.add(rule.id);
    yield* ruleProblems(rule, path);
  }
  const { concurrency, dedupe } = definition;
  if (concurrency !== undefined)
    yield* attempt('concurrency.key', () => compileKey(concurrency.key, ['event', 'activity']));
  if (dedupe !== undefined) yield* dedupeProblems(definition, dedupe);
}

function* eventProblems(event: EventEntry['event'], path: string): Generator<Problem> {
  const { where, debounce, batch, deliver, key } = event;
  if (where !== undefined) yield* attempt(`${path}.where`, () => compileCondition(where, ['event']));
  const ways = [debounce && 'debounce', batch && 'batch', deliver === 'signal' && 'deliver: signal'].filter(Boolean);
  if (ways.length > 1) yield { path, message: `has ${ways.join(' and ')}; accepted: one of them` };
  if ((deliver === 'signal') !== (key !== undefined))
    yield { path: `${path}.key`, message: 'is for deliver: signal, and needed there' };
  const keys = [
    [`${path}.debounce.key`, debounce?.key],
    [`${path}.batch.key`, batch?.key],
    [`${path}.key`, key],
  ] as const;
  for (const [at, text] of keys) if (text !== undefined) yield* attempt(at, () => compileKey(text, ['event']));
  if (debounce !== undefined) {
    yield* between(`${path}.debounce.period`, debounce.period, '100ms', '1d');
    yield* between(`${path}.debounce.max_wait`, debounce.max_wait, debounce.period, '7d');
  }
  if (batch !== undefined) yield* between(`${path}.batch.max_wait`, batch.max_wait, '100ms', '7d');
}

function* dedupeProblems(
  definition: ActivityDefinition,
  dedupe: NonNullable<ActivityDefinition['dedupe']>,
): Generator<Problem> {
  const { strategy, key, window } = dedupe;
  if ((strategy === 'key') !== (key !== undefined))
    yield { path: 'dedupe.key', message: 'is for strategy key, and needed there' };
  if (key !== undefined) yield* attempt('dedupe.key', () => compileKey(key, ['event']));
  const isWindowed = strategy === 'key' || strategy === 'subject';
  if (isWindowed !== (window !== undefined)) {
    yield { path: 'dedupe.window', message: 'is for the strategies subject and key, and needed there' };
  }
  if (window !== undefined) yield* between('dedupe.window', window, '1s', '366d');
  if (strategy === 'scheduled' && cronEntryOf(definition) === undefined) {
    yield { path: 'dedupe.strategy', message: '"scheduled" needs a cron entry; nearest accepted: event' };
  }
}

function* contextProblems({ context }: ActivityDefinition): Generator<Problem> {
  for (const [name, source] of Object.entries(context)) {
    const path = ['context', name];
    const kinds = SOURCE_KINDS.filter((kind) => source[kind] !== undefined);
    if (kinds.length !== 1) {
      yield {
        path: pathText(path),
        message: `has ${kinds.join(' and ') || 'no kind'}; accepted: exactly one of ${SOURCE_KINDS.join(', ')}`,
      };
    }
    if (source.http !== undefined) {
      yield* urlProblems(source.http.url, `${pathText(path)}.http.url`);
      yield* templateProblems(source.http, [...path, 'http'], SOURCE_ROOTS);
    }
    if (source.sql !== undefined) {
      yield* templateProblems(source.sql.params ?? [], [...path, 'sql', 'params'], SOURCE_ROOTS);
    }
    yield* between(`${pathText(path)}.timeout`, source.timeout, '100ms', '5m');
  }
}

function* ruleProblems(rule: ActivityDefinition['rules'][number], path: string): Generator<Problem> {
  const roots: readonly string[] = rule.for_each === undefined ? RULE_ROOTS : ITEM_ROOTS;
  if (rule.for_each !== undefined) {
    const { for_each: source } = rule;
    yield* attempt(`${path}.for_each`, () => {
      const problem = rootProblem(parsePath(source), ['event', 'context']);
      if (problem !== undefined) throw new Error(problem);
    });
  }
  if (rule.key !== undefined) {
    if (rule.for_each === undefined) yield { path: `${path}.key`, message: 'needs for_each' };
    else yield* attempt(`${path}.key`, () => compileKey(rule.key as string, ITEM_ROOTS));
  }
  if (rule.when !== undefined) yield* attempt(`${path}.when`, () => compileCondition(rule.when as string, roots));
  for (const [n, task] of tasksOf(rule).entries()) {
    const at = rule.tasks === undefined ? `${path}.task` : `${path}.tasks[${n}]`;
    const { title, labels, unique, params } = task;
    yield* templateProblems({ title, labels, unique, params }, [at], roots);
    yield* between(`${at}.timeout`, task.timeout, '1s', '30d');
    if (task.unique?.for !== undefined) yield* between(`${at}.unique.for`, task.unique.for, '1s', '366d');
    if (task.type === 'http') yield* urlProblems(task.params.url, `${at}.params.url`);
    if (task.type === 'workflow') {
      for (const field of ['workflow', 'queue'] as const) {
        if (hasPlaceholder(task.params[field]))
          yield { path: `${at}.params.${field}`, message: 'may not come from data' };
      }
    }
  }
}

/** The origin of a URL is written out: data may choose a path, never whom to call. */
function* urlProblems(url: string, path: string): Generator<Problem> {
  let prefix: string;
  try {
    prefix = literalPrefix(url);
  } catch {
    return; // Told by templateProblems.
  }
  if (!/^https?:\/\/[^/?#]+([/?#]|$)/.test(prefix) || (prefix !== url && !/^https?:\/\/[^/?#]+[/?#]/.test(prefix))) {
    yield {
      path,
      message: 'has to begin with http:// or https:// and a host that is written out, such as https://api.example.com/',
    };
    return;
  }
  const { username, password } = URL.canParse(prefix) ? new URL(prefix) : { username: '', password: '' };
  if (!URL.canParse(prefix)) yield { path, message: 'is no URL' };
  if (username !== '' || password !== '') yield { path, message: 'must not hold credentials' };
}

function* between(path: string, value: string, least: string, most: string): Generator<Problem> {
  const ms = durationMs(value);
  if (ms < durationMs(least)) yield { path, message: `${value} is less than ${least}; nearest accepted: ${least}` };
  if (ms > durationMs(most)) yield { path, message: `${value} is more than ${most}; nearest accepted: ${most}` };
}

function* attempt(path: string, work: () => unknown): Generator<Problem> {
  try {
    work();
  } catch (error) {
    yield problemAt(path, error);
  }
}

const ENTRIES = { cron: cronEntry, at: atEntry, event: eventEntry } as const;

/** One issue of the schema as problems with what would have been accepted. */
function problemsOf(
  issue: z.core.$ZodIssue,
  schema: z.ZodType,
  input: unknown,
  base: readonly PropertyKey[] = [],
): Problem[] {
  const path = pathText([...base, ...issue.path]);
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, issue.path, input);
    return issue.keys.map((key) => {
      const meant = nearest(key, known);
      const hint = meant === undefined ? `accepted: ${known.join(', ')}` : `did you mean ${meant}?`;
      return { path: pathText([...base, ...issue.path, key]), message: `unknown field; ${hint}` };
    });
  }
  if (issue.code === 'invalid_union' && issue.path[0] === 'on' && issue.path.length === 2)
    return entryProblems(issue, input);
  const values = acceptedValues(issue);
  if (values === undefined) return [{ path, message: issue.message }];
  const given = valueAtPath(input, issue.path);
  const meant = typeof given === 'string' ? nearest(given, values) : undefined;
  const shown = given === undefined ? 'is missing' : `${JSON.stringify(given)} is not accepted`;
  const message = meant === undefined ? `${shown}; accepted: ${values.join(', ')}` : `${shown}; did you mean ${meant}?`;
  return [{ path, message }];
}

/** The values of an enumeration, or the kinds a discriminated union tells apart. */
function acceptedValues(issue: z.core.$ZodIssue): string[] | undefined {
  if (issue.code === 'invalid_value') return issue.values.map(String);
  if (issue.code === 'invalid_union' && issue.path.at(-1) === 'type')
    return ['http', 'event', 'workflow', 'human', 'noop'];
  return undefined;
}

/** An entry of `on` is told by its one word: cron, at or event. */
function entryProblems(issue: z.core.$ZodIssue, input: unknown): Problem[] {
  const entry = valueAtPath(input, issue.path);
  const kinds = Object.keys(ENTRIES) as (keyof typeof ENTRIES)[];
  const kind = kinds.find((each) => typeof entry === 'object' && entry !== null && Object.hasOwn(entry, each));
  if (kind === undefined)
    return [{ path: pathText(issue.path), message: `accepted: an object with one of ${kinds.join(', ')}` }];
  const result = ENTRIES[kind].safeParse(entry, { reportInput: true });
  return (result.error?.issues ?? []).flatMap((inner) => problemsOf(inner, ENTRIES[kind], entry, issue.path));
}

function valueAtPath(root: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (at, part) => (typeof at === 'object' && at !== null ? Reflect.get(at, part) : undefined),
    root,
  );
}

/** Names of the fields an object at `path` may have. */
function keysAt(schema: unknown, path: readonly PropertyKey[], input: unknown): string[] {
  let schemas = unwrapped(schema);
  for (const [n, part] of path.entries()) {
    schemas = schemas.flatMap((one) => {
      if (one instanceof z.ZodObject) return unwrapped((one.shape as Record<PropertyKey, unknown>)[part]);
      if (one instanceof z.ZodRecord) return unwrapped(one.valueType);
      return one instanceof z.ZodArray ? unwrapped(one.element) : [];
    });
    const type = (valueAtPath(input, path.slice(0, n + 1)) as { type?: unknown } | undefined)?.type;
    const fitting = schemas.filter((one) => one instanceof z.ZodObject && literalOf(one.shape.type) === type);
    if (fitting.length > 0) schemas = fitting;
  }
  return [...new Set(schemas.flatMap((one) => (one instanceof z.ZodObject ? Object.keys(one.shape) : [])))];
}

const literalOf = (schema: unknown): unknown => (schema instanceof z.ZodLiteral ? schema.value : Symbol('none'));

/** The schemas behind optional, default and pipe wrappers and in the branches of unions. */
function unwrapped(schema: unknown): z.ZodType[] {
  if (schema instanceof z.ZodUnion) return schema.options.flatMap(unwrapped);
  if (schema instanceof z.ZodPipe) return unwrapped(schema.in);
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable) return unwrapped(schema.unwrap());
  if (schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault) return unwrapped(schema.unwrap());
  return schema instanceof z.ZodType ? [schema] : [];
}
