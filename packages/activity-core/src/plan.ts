/**
 * From rules and a snapshot to tasks: pure, so the same snapshot gives the same tasks in the same order.
 *
 * All tasks are planned before any is written. An error anywhere means no task at all: a run fails, and says where, rather
 * than do half of what was meant or, worse, nothing with a green light.
 */
import { type CelRoots, celRoots, compileCondition, compileKey } from './condition.ts';
import { type ActivityDefinition, type Rule, type TaskTemplate, tasksOf } from './definition.ts';
import { durationMs } from './duration.ts';
import { isPlainObject, parsePath, valueAt } from './path.ts';
import { lineText, render } from './template.ts';

/** Tasks of one run. */
export const TASKS_MAX = 5_000;
const ITEMS_MAX = 100_000;
const TITLE_CHARACTERS = 200;
const LABEL_CHARACTERS = 100;

/** The values rules may read. */
export interface PlanRoots {
  readonly event: Readonly<Record<string, unknown>>;
  readonly context: Readonly<Record<string, unknown>>;
  readonly run: Readonly<Record<string, unknown>>;
  readonly activity: Readonly<Record<string, unknown>>;
}

export interface PlannedTask {
  /** The rule, or `{rule}.{n}` for the further tasks of a rule. */
  readonly ruleId: string;
  readonly itemKey: string;
  readonly position: number;
  readonly type: TaskTemplate['type'];
  readonly title: string;
  readonly params: unknown;
  readonly labels: readonly string[];
  readonly uniqueKey: string | null;
  /** Milliseconds the key stays taken; null: while the task that holds it is open. */
  readonly uniqueForMs: number | null;
  readonly timeoutMs: number;
  readonly attempts: number;
}

export interface Plan {
  readonly tasks: readonly PlannedTask[];
  /** Some rule cut its list: the run is `partial`. */
  readonly truncated: boolean;
}

export type PlanFailure = 'condition' | 'template' | 'not_a_list' | 'fanout_limit' | 'duplicate_key' | 'key';

/** No tasks were planned; `field` is where. */
export class PlanFailed extends Error {
  override readonly name = 'PlanFailed';
  readonly code: PlanFailure;
  readonly field: string;

  constructor(code: PlanFailure, field: string, message: string) {
    super(`${field}: ${message}`);
    this.code = code;
    this.field = field;
  }
}

export const RULE_ROOTS = ['event', 'context', 'run', 'activity'] as const;
export const ITEM_ROOTS = [...RULE_ROOTS, 'item', 'index'] as const;

/** Throws PlanFailed. */
export function planTasks(definition: ActivityDefinition, roots: PlanRoots): Plan {
  const values = celRoots({ ...roots });
  const tasks: PlannedTask[] = [];
  let truncated = false;
  for (const rule of definition.rules) {
    const field = `rules.${rule.id}`;
    const selected = rule.for_each === undefined ? alone(rule, field, values) : eachItem(rule, field, roots, values);
    if (selected.length > rule.limit) {
      if (rule.on_limit === 'fail') throw overLimit(field, selected.length, rule.limit);
      truncated = true;
      selected.length = rule.limit;
    }
    for (const { item, index, key } of selected) {
      for (const [n, template] of tasksOf(rule).entries()) {
        const ruleId = n === 0 ? rule.id : `${rule.id}.${n}`;
        const given = { ...roots, ...(rule.for_each === undefined ? {} : { item, index }) };
        tasks.push({
          ruleId,
          itemKey: key,
          position: tasks.length,
          ...rendered(template, given, `${field}[${key}].task`),
        });
        if (tasks.length > TASKS_MAX) throw overLimit(field, tasks.length, TASKS_MAX);
      }
    }
  }
  return { tasks, truncated };
}

interface Selected {
  readonly item: unknown;
  readonly index: number;
  readonly key: string;
}

function alone(rule: Rule, field: string, values: CelRoots): Selected[] {
  return holds(rule, field, RULE_ROOTS, values) ? [{ item: null, index: 0, key: '0' }] : [];
}

function eachItem(rule: Rule, field: string, roots: PlanRoots, values: CelRoots): Selected[] {
  const items = itemsOf(rule.for_each as string, field, roots);
  const keyOf = rule.key === undefined ? undefined : compileKey(rule.key, ITEM_ROOTS);
  const selected: Selected[] = [];
  const keys = new Set<string>();
  for (const [index, item] of items.entries()) {
    const given = { ...values, ...celRoots({ item, index }) } as CelRoots;
    if (!holds(rule, `${field}[${index}]`, ITEM_ROOTS, given)) continue;
    let key = String(index);
    if (keyOf !== undefined) {
      try {
        key = String(keyOf.evaluate(given));
      } catch (error) {
        throw new PlanFailed('key', `${field}[${index}].key`, (error as Error).message);
      }
      if (key === '' || key.length > 500)
        throw new PlanFailed('key', `${field}[${index}].key`, 'is empty or longer than 500');
      if (keys.has(key))
        throw new PlanFailed('duplicate_key', `${field}[${index}].key`, `"${key}" names an earlier item too`);
      keys.add(key);
    }
    selected.push({ item, index, key });
  }
  return selected;
}

function itemsOf(path: string, field: string, roots: PlanRoots): readonly unknown[] {
  const [root, ...rest] = parsePath(path);
  const found = valueAt(roots[root as keyof PlanRoots], rest);
  const items = Array.isArray(found)
    ? found
    : isPlainObject(found)
      ? Object.keys(found)
          .sort()
          .map((key) => ({ key, value: found[key] }))
      : undefined;
  if (items === undefined) {
    const kind = found === undefined ? 'is not there' : found === null ? 'is null' : `is a ${typeof found}`;
    throw new PlanFailed('not_a_list', `${field}.for_each`, `${path} ${kind}; accepted: a list or an object`);
  }
  if (items.length > ITEMS_MAX) throw overLimit(field, items.length, ITEMS_MAX);
  return items;
}

function holds({ when }: Rule, field: string, names: readonly string[], values: CelRoots): boolean {
  if (when === undefined) return true;
  try {
    return conditionOf(when, names).holds(values);
  } catch (error) {
    throw new PlanFailed('condition', `${field}.when`, (error as Error).message);
  }
}

/** One rule is evaluated for thousands of items in a row: the last condition is kept. */
let last: { readonly key: string; readonly condition: ReturnType<typeof compileCondition> } | undefined;

function conditionOf(source: string, names: readonly string[]) {
  const key = `${names.length} ${source}`;
  if (last?.key !== key) last = { key, condition: compileCondition(source, names) };
  return last.condition;
}

function rendered(template: TaskTemplate, roots: Readonly<Record<string, unknown>>, field: string) {
  try {
    const { type, title, params, labels, unique, timeout, attempts } = template;
    const shown = render({ title: title ?? type, labels, key: unique?.key ?? null, params }, roots, field) as {
      title: unknown;
      labels: unknown[];
      key: unknown;
      params: unknown;
    };
    return {
      type,
      title: lineText(textOf(shown.title, `${field}.title`), TITLE_CHARACTERS),
      labels: shown.labels.map((label, n) => lineText(textOf(label, `${field}.labels[${n}]`), LABEL_CHARACTERS)),
      params: shown.params,
      uniqueKey: shown.key === null ? null : textOf(shown.key, `${field}.unique.key`),
      uniqueForMs: unique?.for === undefined ? null : durationMs(unique.for),
      timeoutMs: durationMs(timeout),
      attempts,
    };
  } catch (error) {
    if (error instanceof PlanFailed) throw error;
    throw new PlanFailed('template', '', (error as Error).message);
  }
}

function textOf(value: unknown, field: string): string {
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return String(value);
  throw new PlanFailed('template', field, 'has to be text');
}

const overLimit = (field: string, count: number, limit: number): PlanFailed =>
  new PlanFailed('fanout_limit', field, `${count} items; the limit is ${limit}, and no task was planned`);
