/**
 * Interpolation of a task's fields: `${path}` and `${path ?? "literal"}`.
 *
 * Guarantees: own properties only; a field that is nothing but one placeholder keeps the value's type; inside text only
 * text, numbers, true and false are put, anything else is an error with the field's path; one pass, so a value that itself
 * holds `${…}` stays what it is; everything is bounded. `$${` writes a literal `${`.
 */
import { isPlainObject, type PathPart, PathRefused, parsePath, rootProblem, valueAt } from './path.ts';
import { type Problem, pathText } from './problem.ts';

/** Placeholders of one task, bytes of one rendered text and of all of a task's fields. */
export const TEMPLATE_LIMITS = { placeholders: 256, textBytes: 4_096, taskBytes: 262_144, depth: 32 } as const;

/** A field that could not be rendered; the message names it. */
export class TemplateFailed extends Error {
  override readonly name = 'TemplateFailed';
  readonly field: string;

  constructor(field: string, message: string) {
    super(`${field}: ${message}`);
    this.field = field;
  }
}

interface Placeholder {
  readonly source: string;
  readonly parts: readonly PathPart[];
  readonly fallback: { readonly value: string | number | boolean | null } | undefined;
}

type Piece = string | Placeholder;

const PLACEHOLDER_CHARACTERS_MAX = 512;

/** `$${`, or a placeholder up to its closing brace; a brace inside a quoted text does not close it. */
const TOKEN = /\$\$\{|\$\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}|\$\{/g;

/** Splits a text into literal text and placeholders. Throws PathRefused with a sentence. */
function parseText(text: string): readonly Piece[] {
  const pieces: Piece[] = [];
  let literal = '';
  let done = 0;
  for (const match of text.matchAll(TOKEN)) {
    literal += text.slice(done, match.index);
    done = match.index + match[0].length;
    if (match[0] === '$${') {
      literal += '${';
      continue;
    }
    if (match[1] === undefined) throw new PathRefused('"${" is not closed; write $${ for a literal ${');
    if (literal !== '') pieces.push(literal);
    literal = '';
    pieces.push(placeholderOf(match[1]));
  }
  literal += text.slice(done);
  if (literal !== '' || pieces.length === 0) pieces.push(literal);
  return pieces;
}

function placeholderOf(source: string): Placeholder {
  if (source.length > PLACEHOLDER_CHARACTERS_MAX) {
    throw new PathRefused(`a placeholder is longer than ${PLACEHOLDER_CHARACTERS_MAX} characters`);
  }
  // A member name in quotes may hold question marks; everything before the operator is path.
  const path = /^(?:[^"?]|"(?:[^"\\]|\\.)*")*/.exec(source)?.[0] ?? '';
  const rest = source.slice(path.length);
  if (rest !== '' && !rest.startsWith('??'))
    throw new PathRefused(`"\${${source}}" is no path; a default is written ?? "text"`);
  return {
    source: source.trim(),
    parts: parsePath(path.trim()),
    fallback: rest === '' ? undefined : { value: literalOf(rest.slice(2).trim()) },
  };
}

function literalOf(text: string): string | number | boolean | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new PathRefused(`"${text}" is no literal; accepted: "text", a number, true, false, null`);
  }
  if (typeof value === 'object' && value !== null) throw new PathRefused(`"${text}" is no single value`);
  return value as string | number | boolean | null;
}

/** The texts of a value with the path of each, keys of objects included. */
function* textsIn(value: unknown, path: readonly PropertyKey[]): Generator<readonly [readonly PropertyKey[], string]> {
  if (typeof value === 'string') yield [path, value];
  else if (Array.isArray(value)) for (const [at, member] of value.entries()) yield* textsIn(member, [...path, at]);
  else if (isPlainObject(value))
    for (const [name, member] of Object.entries(value)) yield* textsIn(member, [...path, name]);
}

/** What is wrong with the templates in `value`, found when a definition is saved. */
export function templateProblems(value: unknown, path: readonly PropertyKey[], roots: readonly string[]): Problem[] {
  const problems: Problem[] = [];
  let placeholders = 0;
  for (const [at, text] of textsIn(value, path)) {
    try {
      for (const piece of parseText(text)) {
        if (typeof piece === 'string') continue;
        placeholders += 1;
        const unknown = rootProblem(piece.parts, roots);
        if (unknown !== undefined) problems.push({ path: pathText(at), message: `\${${piece.source}}: ${unknown}` });
      }
    } catch (error) {
      problems.push({ path: pathText(at), message: (error as Error).message });
    }
  }
  if (placeholders > TEMPLATE_LIMITS.placeholders) {
    const message = `holds ${placeholders} placeholders; accepted: at most ${TEMPLATE_LIMITS.placeholders}`;
    problems.push({ path: pathText(path), message });
  }
  return problems;
}

/** Whether a text holds a placeholder at all. Throws PathRefused for one that can not be read. */
export function hasPlaceholder(text: string): boolean {
  return parseText(text).some((piece) => typeof piece !== 'string');
}

/** What literally stands before the first placeholder. */
export function literalPrefix(text: string): string {
  const [first] = parseText(text);
  return typeof first === 'string' ? first : '';
}

/** Renders every text of a value. Throws TemplateFailed with the path of the field. */
export function render(value: unknown, roots: Readonly<Record<string, unknown>>, field: string): unknown {
  const rendered = renderValue(value, roots, field, 0);
  const bytes = Buffer.byteLength(JSON.stringify(rendered) ?? 'null');
  if (bytes > TEMPLATE_LIMITS.taskBytes) {
    throw new TemplateFailed(field, `${bytes} bytes; at most ${TEMPLATE_LIMITS.taskBytes} are accepted`);
  }
  return rendered;
}

function renderValue(value: unknown, roots: Readonly<Record<string, unknown>>, field: string, depth: number): unknown {
  if (depth > TEMPLATE_LIMITS.depth) throw new TemplateFailed(field, `deeper than ${TEMPLATE_LIMITS.depth} levels`);
  if (typeof value === 'string') return renderText(value, roots, field);
  if (Array.isArray(value)) return value.map((member, at) => renderValue(member, roots, `${field}[${at}]`, depth + 1));
  if (!isPlainObject(value)) return value;
  const out: Record<string, unknown> = {};
  for (const [name, member] of Object.entries(value)) {
    // Defined, not assigned: a member named __proto__ stays a member.
    Object.defineProperty(out, name, {
      value: renderValue(member, roots, `${field}.${name}`, depth + 1),
      enumerable: true,
      writable: true,
      configurable: true,
    });
  }
  return out;
}

function renderText(text: string, roots: Readonly<Record<string, unknown>>, field: string): unknown {
  const pieces = parseText(text);
  const [only] = pieces;
  if (pieces.length === 1 && only !== undefined && typeof only !== 'string') return foundFor(only, roots, field);
  let out = '';
  for (const piece of pieces) {
    out += typeof piece === 'string' ? piece : scalarText(foundFor(piece, roots, field), piece, field);
    if (out.length > TEMPLATE_LIMITS.textBytes) break;
  }
  if (Buffer.byteLength(out) > TEMPLATE_LIMITS.textBytes && pieces.length > 1) {
    throw new TemplateFailed(field, `rendered text is longer than ${TEMPLATE_LIMITS.textBytes} bytes`);
  }
  return out;
}

function foundFor({ parts, fallback, source }: Placeholder, roots: Readonly<Record<string, unknown>>, field: string) {
  const [root, ...rest] = parts;
  const found = Object.hasOwn(roots, String(root)) ? valueAt(roots[String(root)], rest) : undefined;
  if (found !== undefined) return found;
  if (fallback !== undefined) return fallback.value;
  throw new TemplateFailed(field, `${source} is not there; a default is written \${${source} ?? "text"}`);
}

function scalarText(value: unknown, { source }: Placeholder, field: string): string {
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return String(value);
  const kind = value === null ? 'null' : Array.isArray(value) ? 'a list' : 'an object';
  throw new TemplateFailed(field, `${source} is ${kind}, which can not stand inside text`);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed.
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g;

/** A title or a label: one line, no control characters, cut with a mark. */
export function lineText(text: string, charactersMax: number): string {
  const line = text
    .replace(/\r?\n|[\t\u2028\u2029]/g, ' ')
    .replace(CONTROL, '')
    .toWellFormed();
  const characters = [...line];
  return characters.length <= charactersMax ? line : `${characters.slice(0, charactersMax - 1).join('')}…`;
}
