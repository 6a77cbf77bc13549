import fc from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalJson } from '../src/index.ts';

/** RFC 8785 as its text says it, for values a JSON parser makes. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  const members = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  // Integer-like names come first in every object of JavaScript, so pairs stand in for members.
  return { members: members.map(([name, member]) => [name, sorted(member)]) };
}

/** The members of canonical text in the order they are written. */
function written(text: string): unknown {
  const names: string[] = [];
  JSON.parse(text, (name, value) => {
    names.push(name);
    return value;
  });
  return { value: sorted(JSON.parse(text)), names };
}

test('canonical text holds the same value whatever the order of its members, and sorts them by code units', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = canonicalJson(value);
      expect(written(text)).toMatchObject({ value: sorted(JSON.parse(JSON.stringify(value))) });
      const turned = JSON.parse(JSON.stringify(value), (_name, member) =>
        member !== null && typeof member === 'object' && !Array.isArray(member)
          ? Object.fromEntries(Object.entries(member).toReversed())
          : member,
      );
      expect(canonicalJson(turned)).toBe(text);
    }),
  );
});

test.each([
  [{ b: 1, a: [true, null, 'x'], é: {}, '10': 1, '9': 2 }, '{"10":1,"9":2,"a":[true,null,"x"],"b":1,"é":{}}'],
  [{ z: undefined, a: undefined }, '{}'],
  [[undefined, () => 1], '[null,null]'],
  [undefined, 'null'],
  [[], '[]'],
  ['\u20ac$\u000f\nA\'B"\\', '"€$\\u000f\\nA\'B\\"\\\\"'],
  [[333333333.3333333, 1e30, 4.5, 2e-3, 1e-27, -0], '[333333333.3333333,1e+30,4.5,0.002,1e-27,0]'],
])('%j is %s', (value, text) => {
  expect(canonicalJson(value)).toBe(text);
});

test('a value that nests deeper than the stack has the text that a shallow one of its form has', () => {
  const levels = 60_000;
  let deep: unknown = { c: 'bottom', b: [], a: {} };
  for (let level = 0; level < levels; level += 1) {
    deep = { z: [1, deep, 'last'], gone: undefined, a: { y: 'é', x: undefined }, list: [undefined] };
  }
  const head = '{"a":{"y":"é"},"list":[null],"z":[1,';
  const text = canonicalJson(deep);
  expect(text.length).toBe(head.length * levels + '{"a":{},"b":[],"c":"bottom"}'.length + ',"last"]}'.length * levels);
  expect(text.startsWith(head + head)).toBe(true);
  expect(text.slice(head.length * levels)).toBe(`{"a":{},"b":[],"c":"bottom"}${',"last"]}'.repeat(levels)}`);
});
