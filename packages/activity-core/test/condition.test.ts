/** Conditions: CEL with bounds, and no way out of it. */
import { expect, it } from 'vitest';
import { celRoots, compileCondition, compileKey } from '../src/index.ts';

const event = {
  data: {
    n: 1,
    d: 2.5,
    s: 'text',
    list: [1, 2, 3],
    none: null,
    nested: { ok: true },
    big: Array.from({ length: 1_001 }, (_, i) => i),
  },
};
const holds = (source: string): boolean => compileCondition(source, ['event']).holds(celRoots({ event }));

it.each([
  ['event.data.n == 1', true],
  ['event.data.n == 1.0', true],
  ['event.data.d > 2', true],
  ['event.data.s.startsWith("te") && size(event.data.list) == 3', true],
  ['event.data.list.exists(x, x > 2)', true],
  ['event.data.list.filter(x, x > 1).map(x, x * 2) == [4, 6]', true],
  ['has(event.data.missing)', false],
  ['has(event.data.missing) && event.data.missing.deeper == 1', false],
  ['event.data.none == null', true],
  ['"s" in event.data', true],
  ['timestamp("2026-01-02T00:00:00Z") - timestamp("2026-01-01T00:00:00Z") == duration("24h")', true],
])('A61: %s is %s', (source, expected) => {
  expect(holds(source)).toBe(expected);
});

it.each([
  ['event.data.missing == 1', 'No such key: missing'],
  ['event.data.nested.deeper.x', 'No such key: deeper'],
  ['event.data.list[7] == 1', 'index out of bounds'],
  ['event.data.s', 'gave a string, not true or false'],
  ['event.data.n + event.data.s == 1', 'no such overload'],
])('A62: %s is an error, never false', (source, message) => {
  expect(() => holds(source)).toThrow(message);
});

it.each([
  ['event.data.s.matches("(a+)+$")', 'matches() may not be called'],
  ['now() > timestamp("2026-01-01T00:00:00Z")', 'now() may not be called'],
  ['event.data.s.split("") == []', 'split() may not be called'],
  ['env.HOME == "x"', '"env" is not known here'],
  ['"1" == 1', 'no such overload: string == int'],
  ['1 +', 'Unexpected token'],
  [`event.data.n == 1${' || event.data.n == 1'.repeat(60)}`, 'Exceeded'],
  [`${'['.repeat(30)}1${']'.repeat(30)} == []`, 'Exceeded'],
  ['event.data.list.al(x, true)', 'al() may not be called; did you mean all?'],
])('A61: %s is refused when it is saved', (source, message) => {
  expect(() => compileCondition(source, ['event'])).toThrow(message);
});

it.each(['constructor', '__proto__', 'toString', 'hasOwnProperty', 'valueOf'])(
  'A61: %s is no key of any object, list or text',
  (name) => {
    for (const root of ['event.data', 'event.data.s', 'event.data.list', 'event']) {
      expect(() => holds(`${root}.${name} != null`)).toThrow();
    }
    expect(() => holds(`event.data["${name}"] != null`)).toThrow(`No such key: ${name}`);
  },
);

it('A61: lists beyond 1,000 elements and work beyond 10,000 elements are refused while they run', () => {
  expect(() => holds('event.data.big.all(x, x >= 0)')).toThrow('a list of 1001 elements; at most 1000');
  const list = Array.from({ length: 200 }, (_, i) => i);
  const nested = compileCondition('event.list.all(x, event.list.all(y, x + y >= 0))', ['event']);
  expect(() => nested.holds(celRoots({ event: { list } }))).toThrow('more than 10000 elements would be visited');
  expect(nested.holds(celRoots({ event: { list: list.slice(0, 50) } }))).toBe(true);
  expect(
    compileCondition('event.list.map(x, x + 1).filter(x, x > 3).size() == 197', ['event']).holds(
      celRoots({ event: { list } }),
    ),
  ).toBe(true);
});

it('A61: an evaluation changes nothing of the data it reads', () => {
  const before = structuredClone(event);
  holds('event.data.list.map(x, x + 1) == [2, 3, 4]');
  expect(event).toEqual(before);
});

it('keys are text whatever they are made of', () => {
  const key = (source: string): unknown => compileKey(source, ['event']).evaluate(celRoots({ event }));
  expect(key('event.data.n')).toBe('1');
  expect(key('event.data.s + "/" + string(event.data.n)')).toBe('text/1');
  expect(() => key('event.data.list')).toThrow('which is no key');
});
