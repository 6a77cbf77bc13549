import { expect, it } from 'vitest';
import { count, duration, instantOf, relative, shownJson } from '../src/format.ts';

it.each([
  [0, '0 s'],
  [0.34, '340 ms'],
  [4.25, '4.3 s'],
  [59.6, '1 min'],
  [200, '3 min 20 s'],
  [7_200, '2 h'],
  [187_200, '2 d 4 h'],
  [-90, '−1 min 30 s'],
  [null, '–'],
  [Number.NaN, '–'],
])('%s seconds are %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});

it.each([
  [0, '0'],
  [3.44, '3.4'],
  [12_345.6, '12,346'],
  [undefined, '–'],
])('%s is shown as %s', (value, text) => {
  expect(count(value)).toBe(text);
});

it('reads the times of the API and those of PostgreSQL', () => {
  const wanted = Date.UTC(2026, 10, 25, 10, 0, 0, 123);
  for (const text of ['2026-11-25T10:00:00.123Z', '2026-11-25 10:00:00.123+00', '2026-11-25 15:30:00.123+05:30']) {
    expect(instantOf(text), text).toBe(wanted);
  }
});

it('says how long ago, how soon, and what is no time as it is', () => {
  const now = Date.UTC(2026, 0, 1);
  expect(relative('2025-12-31T23:56:00Z', now)).toBe('4 min ago');
  expect(relative('2026-01-01T00:00:20Z', now)).toBe('in 20 s');
  expect(relative('infinity', now)).toBe('infinity');
  expect(relative(null, now)).toBe('–');
});

it('cuts long JSON and says so', () => {
  expect(shownJson({ a: 1 })).toBe('{\n  "a": 1\n}');
  expect(shownJson('x'.repeat(30), 10)).toBe('xxxxxxxxxx\n… 20 characters more');
});
