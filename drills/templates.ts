/**
 * Templates over contexts, ordinary and hostile. What is well formed is rendered as a second, much simpler reading of the same
 * pieces says; what is not is refused; and nothing, whatever it is, changes a prototype, reaches what the data does not own, or
 * takes long.
 */
import { PathRefused, render, TemplateFailed, templateProblems } from '@milkrun/activity-core';
import { verdicts } from './lib/fleet-rig.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const EACH_MS_MAX = 5;
/** A pause of the machine or of the collector is told from cost by doing the same again. */
const AGAIN = 5;
const ROOTS = ['event', 'context', 'item'];
const PROTOTYPES = [Object, Array, String, Number, Boolean, Function, RegExp, Map, Error, Promise].map(
  ({ prototype }) => prototype as object,
);

export const drill: Drill = {
  name: 'templates',
  about: 'Templates give what their data owns, change no prototype and are quick, whatever they and the data say.',
  defaults: { count: 1_000_000 },
  fullCount: 1_000_000,
  ciCount: 30_000,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const found = verdicts(log);
    const random = randomFrom(seed);
    const before = shapesOf();
    const figures = { rendered: 0, refused: 0, hostile: 0, compared: 0, slowOnce: 0, slowestMs: 0 };
    for (let n = 0; n < count; n += 1) {
      const made = random() < 0.6 ? wellFormed(random) : hostile(random);
      const context = contextOf(random);
      if (made.wanted === undefined) figures.hostile += 1;
      let result: Result = attempt(made.template, context);
      if (result.ms > EACH_MS_MAX) {
        figures.slowOnce += 1;
        for (let again = 0; again < AGAIN && result.ms > EACH_MS_MAX; again += 1) {
          const next = attempt(made.template, context);
          if (next.ms < result.ms) result = next;
        }
      }
      figures.slowestMs = Math.max(figures.slowestMs, result.ms);
      const about = (): string => `case ${n}: ${JSON.stringify(made.template).slice(0, 300)}`;
      if (result.ms > EACH_MS_MAX) found.missed(`${about()} takes ${result.ms.toFixed(1)} ms`);
      if (result.unexpected !== undefined) found.missed(`${about()} threw ${result.unexpected}`);
      if (result.value === undefined) figures.refused += 1;
      else figures.rendered += 1;
      const leaked = result.value === undefined ? undefined : escapeIn(result.value.rendered);
      if (leaked !== undefined) found.missed(`${about()} gave ${leaked}`);
      if (made.wanted !== undefined) {
        figures.compared += 1;
        const wanted = made.wanted(context);
        const got = result.value === undefined ? REFUSED : JSON.stringify(result.value.rendered);
        if (got !== wanted) found.missed(`${about()} gave ${got}, not ${wanted}`);
      }
      if (shapesOf() !== before) {
        found.missed(`${about()} changed a prototype`);
        break;
      }
    }
    if (figures.rendered === 0 || figures.refused === 0) found.missed('not both of rendered and refused occurred');
    return {
      tried: count,
      violations: found.count,
      ...figures,
      slowestMs: Number(figures.slowestMs.toFixed(2)),
      eachMsMax: EACH_MS_MAX,
    };
  },
};

interface Result {
  readonly ms: number;
  /** Undefined when it was refused or failed as it may. */
  readonly value?: { readonly rendered: unknown };
  readonly unexpected?: string;
}

/** As a definition is saved, then as its task is planned. */
function attempt(template: unknown, roots: Readonly<Record<string, unknown>>): Result {
  const startedAt = performance.now();
  const since = (): number => performance.now() - startedAt;
  try {
    if (templateProblems(template, ['params'], ROOTS).length > 0) return { ms: since() };
    const rendered = render(template, roots, 'params');
    return { ms: since(), value: { rendered } };
  } catch (error) {
    const ms = since();
    return error instanceof TemplateFailed || error instanceof PathRefused ? { ms } : { ms, unexpected: String(error) };
  }
}

const REFUSED = 'refused';

/** How many members each prototype has, and whether a fresh object has one it should not. */
function shapesOf(): string {
  let shape = '';
  for (const prototype of PROTOTYPES) shape += `${Reflect.ownKeys(prototype).length} `;
  const fresh = {} as Record<string, unknown>;
  return `${shape}${fresh.polluted === undefined && fresh.isAdmin === undefined}`;
}

/** Something that plain data can not hold: a function, or an object that is neither plain nor a list. */
function escapeIn(value: unknown, depth = 0): string | undefined {
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`;
  if (typeof value === 'string') return /\[native code\]|function Object|class Object/.test(value) ? value : undefined;
  if (typeof value !== 'object' || value === null) return undefined;
  if (depth > 64) return 'what is nested without end';
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null)
    return 'an object with a class';
  if (PROTOTYPES.includes(value)) return 'a prototype';
  for (const name of Object.keys(value)) {
    const inside = escapeIn((value as Record<string, unknown>)[name], depth + 1);
    if (inside !== undefined) return inside;
  }
  return undefined;
}

const pick = <T>(list: readonly T[], random: () => number): T => list[Math.floor(random() * list.length)] as T;
const upTo = (n: number, random: () => number): number => Math.floor(random() * (n + 1));

const NAMES = [
  'a',
  'b',
  'data',
  'n',
  'list',
  'text',
  'nested',
  'toString',
  'hasOwnProperty',
  'valueOf',
  'length',
  '_x9',
];
const LEAVES: readonly unknown[] = [
  ...[0, 1, -1.5, 1e21, true, false, null, '', 'plain', 'ä€𝄞', '\ud800', 'a\nb'],
  ...['${event.data}', '${', '}', '$${', '"', '{{7*7}}', '<%= 1 %>', '#{1}', '${context.secret}', '__proto__'],
];

function dataOf(random: () => number, depth: number): unknown {
  const kind = random();
  if (depth <= 0 || kind < 0.45) return pick(LEAVES, random);
  if (kind < 0.6) return Array.from({ length: upTo(4, random) }, () => dataOf(random, depth - 1));
  const members = Array.from({ length: upTo(4, random) }, () => {
    const name = random() < 0.05 ? pick(['__proto__', 'constructor', 'prototype'], random) : pick(NAMES, random);
    return `${JSON.stringify(name)}:${JSON.stringify(dataOf(random, depth - 1))}`;
  });
  // Through text, as data comes in: `__proto__` then is a member like any other.
  return JSON.parse(`{${members.join(',')}}`);
}

function contextOf(random: () => number): Readonly<Record<string, unknown>> {
  return { event: dataOf(random, 4), context: dataOf(random, 3), item: dataOf(random, 2) };
}

interface Made {
  readonly template: unknown;
  /** JSON of what it has to give, or `refused`; undefined where only the promises for anything at all are held against it. */
  readonly wanted?: (context: Readonly<Record<string, unknown>>) => string;
}

type Part = { readonly literal: string } | { readonly path: readonly (string | number)[]; readonly fallback?: unknown };

/** A field put together from pieces, read a second time piece by piece. */
function wellFormed(random: () => number): Made {
  const parts: Part[] = Array.from({ length: random() < 0.4 ? 1 : upTo(5, random) }, () => partOf(random));
  const template = { field: parts.map(written).join('') };
  return { template, wanted: (context) => expected(parts, context) };
}

function partOf(random: () => number): Part {
  if (random() < 0.35)
    return { literal: pick(['', 'x', ' and ', '$ ', '{', '}', '$$ ', '${', 'ä€', '\\', '"'], random) };
  const path: (string | number)[] = [pick(ROOTS, random)];
  for (let n = upTo(3, random); n > 0; n -= 1) path.push(random() < 0.2 ? upTo(4, random) : pick(NAMES, random));
  if (random() < 0.6) return { path };
  return { path, fallback: pick(['none', 0, -2.5, true, null, 'say "}" ?? \\', ''], random) };
}

function written(part: Part): string {
  if ('literal' in part) return part.literal.replaceAll('${', () => '$${');
  const [root, ...rest] = part.path;
  const steps = rest.map((step, at) => {
    if (typeof step === 'number') return `[${step}]`;
    return at % 2 === 0 ? `.${step}` : `["${step}"]`;
  });
  return `\${${String(root)}${steps.join('')}${part.fallback === undefined ? '' : ` ?? ${JSON.stringify(part.fallback)}`}}`;
}

function expected(parts: readonly Part[], context: Readonly<Record<string, unknown>>): string {
  // What stands side by side may read as something else: `$` before `${`. Those are left to the promises for anything.
  const values: unknown[] = [];
  for (const part of parts) {
    if ('literal' in part) {
      values.push(part.literal);
      continue;
    }
    let at: unknown = context;
    for (const step of part.path) {
      const owns = typeof at === 'object' && at !== null && Object.hasOwn(at, step);
      const fits = Array.isArray(at) === (typeof step === 'number');
      at = owns && fits ? (at as Record<string | number, unknown>)[step] : undefined;
    }
    const value = at === undefined ? part.fallback : at;
    if (value === undefined) return REFUSED;
    values.push(value);
  }
  const [only] = parts;
  const shown = parts.filter((part) => !('literal' in part) || part.literal !== '');
  if (shown.length === 1 && only !== undefined && !('literal' in (shown[0] as Part))) {
    return JSON.stringify({ field: values[parts.indexOf(shown[0] as Part)] });
  }
  let text = '';
  for (const value of values) {
    if (value === null || typeof value === 'object') return REFUSED;
    text += String(value);
  }
  return JSON.stringify({ field: text });
}

const EVIL = [
  ...[
    '${__proto__}',
    '${event.__proto__.polluted}',
    '${constructor}',
    '${event.constructor.constructor("return 1")()}',
  ],
  ...['${event["__proto__"]["polluted"]}', '${event["constructor"]}', '${event.data.toString}', '${event[0][1][2]}'],
  ...['${process.env}', '${globalThis}', '${this}', '${event;alert(1)}', '${event?.data}', '${event ?? event}'],
  ...[
    '${event ?? {"a":1}}',
    '${event ?? "${event}"}',
    '${${event}}',
    '${event',
    '${',
    '$${${event}',
    '${"a"}',
    '${ event . data }',
  ],
  ...[
    '${event["a\\"b"]}',
    '${event["a\\\\"]}',
    '${event["}"]}',
    '${event ?? "}"}',
    '${event.data ?? "\\u0000"}',
    '${event..data}',
  ],
  ...[
    '{{event}}',
    '<%= event %>',
    '#{event}',
    '`${event}`',
    '${event.hasOwnProperty}',
    '${item.valueOf}',
    '${event.length}',
  ],
];

function hostile(random: () => number): Made {
  const kind = random();
  const text = (): string =>
    Array.from({ length: 1 + upTo(4, random) }, () => pick(EVIL, random)).join(pick(['', ' ', '"', '\\'], random));
  if (kind < 0.4) return { template: text() };
  if (kind < 0.6) return { template: mutated(text(), random) };
  if (kind < 0.8) {
    // Names of fields that lead to prototypes, with templates in names and values.
    const name = pick(['__proto__', 'constructor', 'prototype', '${event.text}', 'polluted'], random);
    return {
      template: JSON.parse(
        `{${JSON.stringify(name)}:{"polluted":${JSON.stringify(text())},"isAdmin":[${JSON.stringify(text())}]}}`,
      ),
    };
  }
  if (kind < 0.995) {
    let deep: unknown = text();
    for (let n = upTo(40, random); n > 0; n -= 1) deep = random() < 0.5 ? [deep] : { a: deep };
    return { template: deep };
  }
  // Long ones, made to send a reader of patterns back and forth.
  const unit = pick(
    ['${"', '"\\', '${event["', '?', '${event ?? "', '$${', '${event.text}', '{', '\\"', '${\\"', '${a\\"\\'],
    random,
  );
  return { template: unit.repeat(1 + upTo(6_000, random)) };
}

function mutated(text: string, random: () => number): string {
  let out = text;
  for (let n = 1 + upTo(3, random); n > 0; n -= 1) {
    const at = upTo(out.length, random);
    out =
      out.slice(0, at) +
      pick(['$', '{', '}', '"', '\\', '?', '.', '[', ']', '\u0000', '\u2028', ' '], random) +
      out.slice(at + upTo(2, random));
  }
  return out;
}
