import { expect, test } from 'vitest';
import { isSameCursor } from '../src/same-cursor.ts';

test.each([
  [null, null],
  ['"a"', '"a"'],
  ['{"page": "x", "after": 7}', '{"after":7,"page":"x"}'],
  ['[1, {"é": null}]', '[1,{"\\u00e9":null}]'],
])('%s is %s', (stored, after) => {
  expect(isSameCursor(stored, after)).toBe(true);
});

test.each([
  [null, '1'],
  ['1', null],
  ['1', '2'],
  ['1', '"1"'],
  ['[]', '{}'],
  ['{"a": 1}', '{"b":1}'],
  ['{"a": 1}', '{"a":1,"b":1}'],
  ['{"toString": 1}', '{"a":1}'],
  ['{}', '{"__proto__":{}}'],
  // Equal for JavaScript, different numbers.
  ['9007199254740993', '9007199254740992'],
  ['{"a": 9007199254740993}', '{"a":9007199254740992}'],
])('%s is not %s', (stored, after) => {
  expect(isSameCursor(stored, after)).toBe(false);
});

test('what is nested too deeply counts as changed', () => {
  const deep = (inner: string): string => '['.repeat(4_000) + inner + ']'.repeat(4_000);
  expect(isSameCursor(deep('1 '), deep('1'))).toBe(false);
});
