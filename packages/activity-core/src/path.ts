/**
 * Paths into plain JSON data: `event.data.repo["full name"][0]`.
 *
 * Only own properties of plain objects and elements of lists are reached. The three names that lead to prototypes are
 * refused when a path is parsed, so no definition that holds one is ever saved.
 */
import type { Problem } from './problem.ts';

export type PathPart = string | number;

const IDENTIFIER = /^[A-Za-z_][A-Za-z0-9_]*/;
const INDEX = /^\[(\d{1,9})\]/;
const MEMBER = /^\["((?:[^"\\]|\\["\\])*)"\]/;
const FORBIDDEN = new Set(['__proto__', 'prototype', 'constructor']);
const PARTS_MAX = 32;

export class PathRefused extends Error {
  override readonly name = 'PathRefused';
}

/** Parses a path; throws PathRefused with a sentence. */
export function parsePath(text: string): readonly PathPart[] {
  const first = IDENTIFIER.exec(text)?.[0];
  if (first === undefined) throw new PathRefused(`"${text}" is no path: it begins with a name such as event`);
  const parts: PathPart[] = [first];
  let rest = text.slice(first.length);
  while (rest !== '') {
    const name = rest.startsWith('.') ? IDENTIFIER.exec(rest.slice(1))?.[0] : undefined;
    const index = INDEX.exec(rest);
    const member = MEMBER.exec(rest);
    if (name !== undefined) {
      parts.push(name);
      rest = rest.slice(1 + name.length);
    } else if (index !== null) {
      parts.push(Number(index[1]));
      rest = rest.slice(index[0].length);
    } else if (member !== null) {
      parts.push((member[1] as string).replace(/\\(["\\])/g, '$1'));
      rest = rest.slice(member[0].length);
    } else {
      throw new PathRefused(
        `"${text}" is no path: after "${text.slice(0, text.length - rest.length)}" comes "${rest}"`,
      );
    }
  }
  if (parts.length > PARTS_MAX) throw new PathRefused(`"${text}" has more than ${PARTS_MAX} parts`);
  const forbidden = parts.find((part) => typeof part === 'string' && FORBIDDEN.has(part));
  if (forbidden !== undefined) throw new PathRefused(`"${forbidden}" may not be read`);
  return parts;
}

/** The value at a path, or `undefined` when some part of it is not there. JSON data holds no `undefined` of its own. */
export function valueAt(root: unknown, parts: readonly PathPart[]): unknown {
  let at = root;
  for (const part of parts) {
    if (typeof part === 'number') {
      if (!Array.isArray(at)) return undefined;
      at = at[part];
    } else {
      if (!isPlainObject(at) || !Object.hasOwn(at, part)) return undefined;
      at = at[part];
    }
  }
  return at;
}

/** An object as JSON makes it: with no prototype of its own making. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Whether the roots a path or an expression begins with are there to be read. */
export function rootProblem(parts: readonly PathPart[], roots: readonly string[]): string | undefined {
  const [root] = parts;
  return typeof root === 'string' && roots.includes(root)
    ? undefined
    : `"${String(root)}" is not known here; accepted: ${roots.join(', ')}`;
}

/** A problem for a field, from whatever was thrown. */
export function problemAt(path: string, error: unknown): Problem {
  return { path, message: error instanceof Error ? error.message : String(error) };
}
