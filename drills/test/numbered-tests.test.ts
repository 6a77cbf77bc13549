import { expect, test } from 'vitest';
import { judgeRows } from '../lib/numbered-tests.ts';

test('a row without a test and a test that did not pass are violations, and a number inside a title counts for nothing', () => {
  const tests = [
    { title: 'A01 A02: holds', status: 'passed' },
    { title: 'A02: does not hold', status: 'failed' },
    { title: 'A03: was left out', status: 'skipped' },
    { title: 'A01: as A04: says', status: 'passed' },
  ];
  const said: string[] = [];
  const result = judgeRows(['A01', 'A02', 'A03', 'A04'], tests, (line) => void said.push(line));
  expect(result).toMatchObject({ tried: 4, violations: 3, missing: ['A04'] });
  expect(result.failed).toEqual(['A02 A02: does not hold', 'A03 A03: was left out']);
  expect(said).toContain('A01 ok A01 A02: holds');
});
