/**
 * Conditions: CEL, compiled when a definition is saved, evaluated in steps and never in workflow code.
 *
 * An evaluation is bounded by what it does, not by the clock, so the same expression over the same data always gives the
 * same answer: at most 200 nodes, 12 levels, lists of 1,000 elements and 10,000 visited elements in all. Only the functions
 * of the table can be called; `matches` is not among them, because a backtracking pattern can take for ever.
 */
import { type ASTNode, Environment } from '@marcbachmann/cel-js';
import { nearest } from '@milkrun/core';
import { isPlainObject } from './path.ts';

/** Nodes, levels, elements of one list, visited elements of one evaluation, characters of the source. */
const CONDITION_LIMITS = { nodes: 200, depth: 12, elements: 1_000, visits: 10_000, characters: 4_096 } as const;

const FUNCTIONS = new Set([
  ...['has', 'size', 'contains', 'startsWith', 'endsWith', 'lowerAscii', 'upperAscii', 'trim', 'indexOf', 'substring'],
  ...['all', 'exists', 'exists_one', 'map', 'filter'],
  ...['int', 'uint', 'double', 'string', 'bool', 'dyn', 'type', 'timestamp', 'duration'],
  ...['getDate', 'getDayOfMonth', 'getDayOfWeek', 'getDayOfYear', 'getFullYear', 'getHours', 'getMinutes', 'getMonth'],
  ...['getSeconds', 'getMilliseconds'],
]);
const COMPREHENSIONS = new Set(['all', 'exists', 'exists_one', 'map', 'filter']);

export class ConditionRefused extends Error {
  override readonly name = 'ConditionRefused';
}

/** An evaluation that gave no answer: a missing path, a wrong type, a limit. Its message names the expression. */
export class ConditionFailed extends Error {
  override readonly name = 'ConditionFailed';
}

declare const cel: unique symbol;
/** Values of roots as CEL sees them, made by `celRoots`; a root that is not among them is null. */
export type CelRoots = Readonly<Record<string, unknown>> & { readonly [cel]: true };

export interface Expression {
  readonly source: string;
  /** Throws ConditionFailed. */
  evaluate(roots: CelRoots): unknown;
}

export interface Condition {
  readonly source: string;
  /** Throws ConditionFailed, also when the answer is neither true nor false. */
  holds(roots: CelRoots): boolean;
}

/** Counts of the evaluation in progress; evaluation is synchronous, so there is one at a time. */
const budget = { visits: 0 };

/** Compiles a condition over the given roots. Throws ConditionRefused with a sentence. */
export function compileCondition(source: string, roots: readonly string[]): Condition {
  const { expression, type } = compile(source, roots);
  if (type !== 'bool' && type !== 'dyn') {
    throw new ConditionRefused(`the condition gives ${type}; accepted: an expression that gives true or false`);
  }
  return {
    source,
    holds(values) {
      const answer = expression.evaluate(values);
      if (typeof answer === 'boolean') return answer;
      throw new ConditionFailed(`${source}: gave ${kindOf(answer)}, not true or false`);
    },
  };
}

/** Compiles an expression whose answer becomes a text: a dedupe, unique, item or concurrency key. */
export function compileKey(source: string, roots: readonly string[]): Expression {
  const { expression } = compile(source, roots);
  return {
    source,
    evaluate(values) {
      const answer = expression.evaluate(values);
      if (['string', 'bigint', 'number', 'boolean'].includes(typeof answer)) return String(answer);
      throw new ConditionFailed(
        `${source}: gave ${kindOf(answer)}, which is no key; accepted: text, a number, true or false`,
      );
    },
  };
}

function compile(source: string, roots: readonly string[]): { readonly expression: Expression; readonly type: string } {
  if (source.length > CONDITION_LIMITS.characters) {
    throw new ConditionRefused(`longer than ${CONDITION_LIMITS.characters} characters`);
  }
  const parsed = refusing(() => environment(roots, CONDITION_LIMITS.nodes, CONDITION_LIMITS.depth).parse(source));
  const comprehensions: ASTNode[] = [];
  inspect(parsed.ast, comprehensions);
  const checked = parsed.check();
  if (!checked.valid) throw new ConditionRefused(withHint(firstLine(checked.error), roots));
  // The bounded form has more nodes than what a person wrote, so it is parsed under limits of its own.
  const bounded = refusing(() =>
    environment(roots, CONDITION_LIMITS.nodes * 4, CONDITION_LIMITS.depth * 4).parse(
      boundedSource(source, comprehensions),
    ),
  );
  return {
    type: String(checked.type),
    expression: {
      source,
      evaluate(values) {
        budget.visits = 0;
        const given: Record<string, unknown> = Object.create(null);
        for (const root of roots) given[root] = Object.hasOwn(values, root) ? values[root] : null;
        try {
          return bounded(given) as unknown;
        } catch (error) {
          throw new ConditionFailed(`${source}: ${firstLine(error)}`, { cause: error });
        }
      },
    },
  };
}

function environment(roots: readonly string[], maxAstNodes: number, maxDepth: number): Environment {
  const made = new Environment({
    unlistedVariablesAreDyn: false,
    homogeneousAggregateLiterals: false,
    limits: { maxAstNodes, maxDepth, maxListElements: 100, maxMapEntries: 100, maxCallArguments: 8 },
  });
  for (const root of roots) made.registerVariable(root, 'dyn');
  made.registerFunction('boundedList(dyn): dyn', (list: unknown) => {
    const size = Array.isArray(list)
      ? list.length
      : list instanceof Map
        ? list.size
        : Object.keys(list as object).length;
    if (size > CONDITION_LIMITS.elements) {
      throw new RangeError(`a list of ${size} elements; at most ${CONDITION_LIMITS.elements} are gone through`);
    }
    budget.visits += size;
    if (budget.visits > CONDITION_LIMITS.visits) {
      throw new RangeError(`more than ${CONDITION_LIMITS.visits} elements would be visited`);
    }
    return list;
  });
  return made;
}

/** Refuses calls that are not in the table and collects the comprehensions. */
function inspect(node: unknown, comprehensions: ASTNode[]): void {
  if (Array.isArray(node)) {
    for (const member of node) inspect(member, comprehensions);
    return;
  }
  if (typeof node !== 'object' || node === null || !('op' in node)) return;
  const { op, args } = node as ASTNode;
  if (op === 'call' || op === 'rcall') {
    const name = args[0] as string;
    if (!FUNCTIONS.has(name)) {
      const why = name === 'matches' ? ' (a pattern may take for ever): use contains, startsWith or endsWith' : '';
      const meant = nearest(name, FUNCTIONS);
      throw new ConditionRefused(
        `${name}() may not be called${why || (meant === undefined ? '' : `; did you mean ${meant}?`)}`,
      );
    }
    if (op === 'rcall' && COMPREHENSIONS.has(name)) comprehensions.push(node as ASTNode);
  }
  inspect(args, comprehensions);
}

/** The same expression with every list that is gone through put under the budget. */
function boundedSource(source: string, comprehensions: readonly ASTNode[]): string {
  const inserts: { readonly at: number; readonly text: string; readonly order: number }[] = [];
  for (const { args } of comprehensions) {
    const { start, end } = (args as [string, ASTNode])[1];
    // At one place closing comes before opening, an outer opening before an inner one.
    inserts.push({ at: start, text: 'boundedList(', order: 1e6 - end });
    inserts.push({ at: end, text: ')', order: -1 });
  }
  inserts.sort((a, b) => a.at - b.at || a.order - b.order);
  let out = '';
  let done = 0;
  for (const { at, text } of inserts) {
    out += source.slice(done, at) + text;
    done = at;
  }
  return out + source.slice(done);
}

/** JSON data as CEL sees it: whole numbers are its integers, objects have no prototype. */
function celValueOf(value: unknown): unknown {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(celValueOf);
  if (!isPlainObject(value)) return value ?? null;
  const out: Record<string, unknown> = Object.create(null);
  for (const [name, member] of Object.entries(value)) out[name] = celValueOf(member);
  return out;
}

/** Converts JSON data once, for many evaluations. */
export function celRoots(values: Readonly<Record<string, unknown>>): CelRoots {
  return celValueOf(values) as CelRoots;
}

function refusing<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new ConditionRefused(firstLine(error), { cause: error });
  }
}

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? '';

function withHint(message: string, roots: readonly string[]): string {
  const unknown = /^Unknown variable: (\w+)/.exec(message)?.[1];
  if (unknown === undefined) return message;
  const meant = nearest(unknown, roots);
  return `"${unknown}" is not known here; ${meant === undefined ? `accepted: ${roots.join(', ')}` : `did you mean ${meant}?`}`;
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
