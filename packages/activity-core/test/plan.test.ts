/** Planning: from rules and a snapshot to tasks, all or none. */
import { expect, it } from 'vitest';
import { PlanFailed, parseDefinition, planTasks, taskIdOf } from '../src/index.ts';
import { minimal, rootsOf, weeklySbom } from './definitions.ts';

const repos = Array.from({ length: 48 }, (_, n) => ({ slug: `repo-${n}`, sbomAgeDays: n < 2 ? 3 : 31 + n }));
const rule = (over: Record<string, unknown>) =>
  parseDefinition(minimal({ rules: [{ id: 'r', task: { type: 'noop' }, ...over }] }));

function failureOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof PlanFailed) return `${error.code} ${error.message}`;
    throw error;
  }
  return 'none';
}

it('A70: 48 repositories, 46 stale: 46 tasks, each with its own title, target and labels', () => {
  const { tasks, truncated } = planTasks(parseDefinition(weeklySbom), rootsOf({ repos }));
  expect(truncated).toBe(false);
  expect(tasks).toHaveLength(46);
  expect(tasks[0]).toMatchObject({
    ruleId: 'stale',
    itemKey: 'repo-2',
    position: 0,
    type: 'http',
    title: 'Rescan SBOM of repo-2',
    params: { url: 'https://scan.example/jobs', method: 'POST', json: { repo: 'repo-2', age: 33 } },
    labels: ['sbom', 'repo-2'],
    uniqueKey: 'sbom/repo-2',
    uniqueForMs: null,
  });
  expect(new Set(tasks.map(({ title }) => title)).size).toBe(46);
});

it('A52: the same snapshot gives the same tasks in the same order', () => {
  const definition = parseDefinition(weeklySbom);
  const first = planTasks(definition, rootsOf({ repos }));
  expect(planTasks(definition, structuredClone(rootsOf({ repos })))).toEqual(first);
});

it('A60: no condition means always, a false one means no task, and a rule may have several actions', () => {
  const count = (over: Record<string, unknown>): number => planTasks(rule(over), rootsOf({})).tasks.length;
  expect(count({})).toBe(1);
  expect(count({ when: '1 == 2' })).toBe(0);
  const many = planTasks(
    rule({
      task: undefined,
      tasks: [
        { type: 'noop', title: 'a' },
        { type: 'noop', title: 'b' },
      ],
    }),
    rootsOf({}),
  );
  expect(many.tasks.map(({ ruleId, title }) => [ruleId, title])).toEqual([
    ['r', 'a'],
    ['r.1', 'b'],
  ]);
});

it('A62: a condition that touches a missing path fails the plan and names the rule', () => {
  expect(failureOf(() => planTasks(rule({ when: 'context.repo.stale' }), rootsOf({ repo: {} })))).toBe(
    'condition rules.r.when: context.repo.stale: No such key: stale',
  );
  expect(
    failureOf(() => planTasks(rule({ for_each: 'context.l', when: 'item.x' }), rootsOf({ l: [{ x: true }, {}] }))),
  ).toContain('rules.r[1].when');
});

it('A67: for_each binds item and index, one task each; an empty list is no task and no error', () => {
  const each = rule({ for_each: 'context.l', task: { type: 'noop', title: '${index}: ${item}' } });
  expect(planTasks(each, rootsOf({ l: ['a', 'b'] })).tasks.map(({ title }) => title)).toEqual(['0: a', '1: b']);
  expect(planTasks(each, rootsOf({ l: [] })).tasks).toEqual([]);
  const map = rule({ for_each: 'context.m', task: { type: 'noop', title: '${item.key}=${item.value}' } });
  expect(planTasks(map, rootsOf({ m: { b: 2, a: 1 } })).tasks.map(({ title }) => title)).toEqual(['a=1', 'b=2']);
});

it('A68: for_each over what is no list is an error', () => {
  const each = rule({ for_each: 'context.l' });
  expect(failureOf(() => planTasks(each, rootsOf({ l: 'text' })))).toContain(
    'not_a_list rules.r.for_each: context.l is a string',
  );
  expect(failureOf(() => planTasks(each, rootsOf({})))).toContain('context.l is not there');
  expect(failureOf(() => planTasks(each, rootsOf({ l: null })))).toContain('context.l is null');
});

it('A69: over the limit nothing is planned, unless truncating was asked for', () => {
  const l = Array.from({ length: 11 }, (_, n) => n);
  expect(failureOf(() => planTasks(rule({ for_each: 'context.l', limit: 10 }), rootsOf({ l })))).toBe(
    'fanout_limit rules.r: 11 items; the limit is 10, and no task was planned',
  );
  const cut = planTasks(rule({ for_each: 'context.l', limit: 10, on_limit: 'truncate' }), rootsOf({ l }));
  expect([cut.tasks.length, cut.truncated]).toEqual([10, true]);
  const many = Array.from({ length: 5_001 }, (_, n) => n);
  expect(failureOf(() => planTasks(rule({ for_each: 'context.l', limit: 5_000 }), rootsOf({ l: many })))).toContain(
    '5001 items',
  );
  expect(planTasks(rule({ for_each: 'context.l', limit: 5_000 }), rootsOf({ l: many.slice(1) })).tasks).toHaveLength(
    5_000,
  );
});

it('A57: task ids come from run, rule and item, so a new order of the list makes no new ids', () => {
  const definition = parseDefinition(weeklySbom);
  const idsOf = (list: readonly unknown[]): string[] =>
    planTasks(definition, rootsOf({ repos: list })).tasks.map(({ ruleId, itemKey }) =>
      taskIdOf('run-1', ruleId, itemKey),
    );
  expect(new Set(idsOf([...repos].reverse()))).toEqual(new Set(idsOf(repos)));
  expect(idsOf(repos)[0]).toBe('task-run-1:stale:repo-2');
  expect(taskIdOf('run-1', 'r', 'a b\n')).toMatch(/^task-run-1:r:~[0-9a-f]{32}$/);
});

it('A57: an item key that comes twice is an error', () => {
  const each = rule({ for_each: 'context.l', key: 'item.k' });
  expect(failureOf(() => planTasks(each, rootsOf({ l: [{ k: 'a' }, { k: 'a' }] })))).toContain(
    'duplicate_key rules.r[1].key: "a"',
  );
});

it('A64: a list inside text fails the plan with the field', () => {
  const bad = rule({ task: { type: 'noop', title: 'all: ${context.l}' } });
  expect(failureOf(() => planTasks(bad, rootsOf({ l: [1] })))).toContain('rules.r[0].task.title: context.l is a list');
});
