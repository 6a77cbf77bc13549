/** Validates requests with zod; a misspelt field is answered with the nearest one that exists. */
import { nearest } from '@milkrun/core';
import type { FastifySchemaCompiler } from 'fastify';
import { z } from 'zod';
import { type FieldError, Problem } from './problems.ts';

const pathOf = (parts: readonly PropertyKey[]): string =>
  parts
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
    .join('')
    .replace(/^\./, '');

/** fastify's validator: throws a `Problem` with status 400 that names every wrong field. */
export const validatorCompiler: FastifySchemaCompiler<z.ZodType> =
  ({ schema, httpPart }) =>
  (data) => {
    // fastify says null for no body at all.
    const result = schema.safeParse(httpPart === 'body' && data === null ? undefined : data);
    if (result.success) return { value: result.data };
    const errors = result.error.issues.flatMap((issue) => errorsOf(issue, schema));
    const [first] = errors;
    throw new Problem(
      400,
      first === undefined ? 'The request is not valid.' : `${first.path || 'body'}: ${first.message}`,
      errors,
    );
  };

function errorsOf(issue: z.core.$ZodIssue, schema: z.ZodType): FieldError[] {
  if (issue.code !== 'unrecognized_keys') return [{ path: pathOf(issue.path), message: issue.message }];
  const known = [...keysAt(schema, issue.path)];
  return issue.keys.map((key) => {
    const meant = nearest(key, known);
    const hint = meant === undefined ? `accepted: ${known.join(', ')}` : `did you mean ${meant}?`;
    return { path: pathOf([...issue.path, key]), message: `unknown field; ${hint}` };
  });
}

/** Names of the fields an object at `path` may have. */
function keysAt(schema: unknown, path: readonly PropertyKey[]): Set<string> {
  let at = unwrapped(schema);
  for (const part of path) {
    at = at.flatMap((one) => {
      if (one instanceof z.ZodObject) return unwrapped((one.shape as Record<PropertyKey, unknown>)[part]);
      return one instanceof z.ZodArray ? unwrapped(one.element) : [];
    });
  }
  return new Set(at.flatMap((one) => (one instanceof z.ZodObject ? Object.keys(one.shape) : [])));
}

/** The schemas behind optional, default and pipe wrappers and in the branches of unions. */
function unwrapped(schema: unknown): z.ZodType[] {
  if (schema instanceof z.ZodUnion) return schema.options.flatMap(unwrapped);
  if (schema instanceof z.ZodPipe) return unwrapped(schema.in);
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable || schema instanceof z.ZodDefault) {
    return unwrapped(schema.unwrap());
  }
  return schema instanceof z.ZodType ? [schema] : [];
}
