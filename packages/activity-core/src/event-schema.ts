/**
 * Schemas of event types: JSON Schema 2020-12, refused when saved where it could take long to check.
 *
 * Patterns may take for ever and `uniqueItems` compares all with all; a schema that refers to itself, or whose references
 * unfold to many, may multiply the work. None is accepted, so checking an event is bounded by the size of both.
 */
import { nearest, type RegisteredType } from '@milkrun/core';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { type Problem, pathText, Refused } from './problem.ts';

/** Bytes of a schema; nodes once its references are unfolded. */
const LIMITS = { bytes: 65_536, nodes: 2_000 } as const;
const REFUSED: Readonly<Record<string, string>> = {
  pattern: 'a pattern may take for ever; use enum, const, minLength and maxLength',
  patternProperties: 'a pattern may take for ever; use properties',
  uniqueItems: 'compares all items with all',
  format: 'is not checked, and would look as if it were',
  $dynamicRef: 'use $ref',
  $recursiveRef: 'use $ref',
  $id: 'references within the schema need none',
  $async: 'is no JSON Schema',
};
/** Values of these hold schemas by name, not keywords. */
const BY_NAME = new Set(['properties', '$defs', 'definitions', 'dependentSchemas']);
const DATA = new Set(['enum', 'const', 'default', 'examples', 'required', 'dependentRequired']);

/** The first thing wrong with data, such as `data.amount: must be >= 0`; undefined when it fits. */
export type SchemaCheck = (data: unknown) => string | undefined;

/** Compiles a schema. Throws Refused with every field that is wrong, under `schema`. */
export function compileEventSchema(schema: unknown): SchemaCheck {
  const problems: Problem[] = [];
  const bytes = Buffer.byteLength(JSON.stringify(schema) ?? '');
  if (bytes > LIMITS.bytes) throw refusal([], `${bytes} bytes; accepted: at most ${LIMITS.bytes}`);
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) throw refusal([], 'is no object');
  inspect(schema, ['schema'], problems);
  if (problems.length > 0) throw new Refused(problems);
  unfolded(schema, schema, [], { nodes: 0 });
  // Strict: a keyword it does not know is refused, so that a misspelt one does not let everything pass.
  const ajv = new Ajv2020({ strict: true, strictRequired: false, strictTypes: false, allErrors: false, logger: false });
  let validate: ReturnType<typeof ajv.compile>;
  try {
    validate = ajv.compile(schema);
  } catch (error) {
    const { message } = error as Error;
    const unknown = /unknown keyword: "([^"]+)"/.exec(message)?.[1];
    const meant = unknown === undefined ? undefined : nearest(unknown, Object.keys(ajv.RULES.all));
    throw refusal([], meant === undefined ? message : `${message}; did you mean ${meant}?`);
  }
  return (data) => {
    if (validate(data)) return undefined;
    const [error] = validate.errors ?? [];
    return `${pathText(['data', ...(error?.instancePath.split('/').slice(1) ?? [])])}: ${error?.message ?? 'does not fit'}`;
  };
}

function inspect(at: unknown, path: readonly string[], problems: Problem[]): void {
  if (Array.isArray(at)) {
    for (const [n, member] of at.entries()) inspect(member, [...path, String(n)], problems);
    return;
  }
  if (typeof at !== 'object' || at === null) return;
  for (const [key, value] of Object.entries(at)) {
    const why = REFUSED[key];
    if (why !== undefined && Object.hasOwn(REFUSED, key)) {
      problems.push({ path: pathText([...path, key]), message: `is not accepted: ${why}` });
    } else if (BY_NAME.has(key) && typeof value === 'object' && value !== null) {
      for (const [name, member] of Object.entries(value)) inspect(member, [...path, key, name], problems);
    } else if (!DATA.has(key)) inspect(value, [...path, key], problems);
  }
}

/** Counts the nodes with every reference in its place. Throws Refused for too many, a loop, or a reference elsewhere. */
function unfolded(root: object, at: unknown, refs: readonly string[], count: { nodes: number }): void {
  if (typeof at !== 'object' || at === null) return;
  count.nodes += 1;
  if (count.nodes > LIMITS.nodes) throw refusal([], `its references unfold to more than ${LIMITS.nodes} nodes`);
  for (const [key, value] of Object.entries(at)) {
    if (DATA.has(key)) continue;
    if (key !== '$ref') {
      unfolded(root, value, refs, count);
      continue;
    }
    if (typeof value !== 'string' || !value.startsWith('#'))
      throw refusal(['$ref'], 'accepted: a reference within the schema, such as #/$defs/line');
    if (refs.includes(value)) throw refusal(['$ref'], `${value} refers to itself`);
    unfolded(root, pointed(root, value), [...refs, value], count);
  }
}

function pointed(root: object, ref: string): unknown {
  return ref
    .slice(1)
    .split('/')
    .slice(1)
    .reduce<unknown>((at, part) => {
      const name = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
      return typeof at === 'object' && at !== null && Object.hasOwn(at, name) ? Reflect.get(at, name) : undefined;
    }, root);
}

const refusal = (path: readonly string[], message: string): Refused =>
  new Refused([{ path: pathText(['schema', ...path]), message }]);

/** `open`: types that nobody registered are taken. `approved`: those alone that were approved. */
export type EventTypePolicy = 'open' | 'approved';

/** Why an event is refused, or undefined. */
export type TypeCheck = (
  event: { readonly type: string; readonly data: unknown },
  tenantId: string,
  registered: RegisteredType | null,
) => string | undefined;

const CHECKS_MAX = 1_000;
/** The product's own events and those of its schedules: known, whatever is registered. */
const OWN = 'dev.milkrun.';

/** Compiles each version of a schema once. */
export function createTypeCheck(policy: EventTypePolicy): TypeCheck {
  const compiled = new Map<string, SchemaCheck>();
  return ({ type, data }, tenantId, registered) => {
    if (type.startsWith(OWN)) return undefined;
    if (registered?.state !== 'approved') {
      return policy === 'open' ? undefined : `type: ${type} is not an approved event type`;
    }
    if (registered.schema === null) return undefined;
    const key = JSON.stringify([tenantId, type, registered.schema]);
    let check = compiled.get(key);
    if (check === undefined) {
      check = compileEventSchema(JSON.parse(registered.schema));
      if (compiled.size >= CHECKS_MAX) compiled.clear();
      compiled.set(key, check);
    }
    return check(data);
  };
}
