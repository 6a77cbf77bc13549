import { expect, test } from 'vitest';
import { bucketsOf, quantile, slopePerMinute, totalsBy } from '../lib/measures.ts';

const at = (one: number, five: number, all: number): string => `# TYPE lag_seconds histogram
lag_seconds_bucket{le="1"} ${one}
lag_seconds_bucket{le="5",shard="0"} ${five}
lag_seconds_bucket{le="+Inf"} ${all}
lag_seconds_sum 12
polls_total{code="ok"} 40
polls_total{code="poll.timeout",toolkit="a"} 2
polls_total{code="poll.timeout",toolkit="b"} 3
polls_total_created{code="ok"} 1
`;

test('a quantile is of what came since, and linear inside its bucket', () => {
  const [before, now] = [bucketsOf(at(100, 100, 100), 'lag_seconds'), bucketsOf(at(190, 200, 200), 'lag_seconds')];
  expect(quantile(now, 0.5, before)).toBeCloseTo(50 / 90);
  expect(quantile(now, 0.95, before)).toBeCloseTo(3);
  expect(quantile(before, 0.99, before)).toBeUndefined();
  // Beyond the last bound nothing more is known than the bound.
  expect(quantile(bucketsOf(at(0, 1, 100), 'lag_seconds'), 0.99)).toBe(5);
});

test('counters are summed by a label', () => {
  expect(totalsBy(at(0, 0, 0), 'polls_total', 'code')).toEqual({ ok: 40, 'poll.timeout': 5 });
});

test('the slope is that of the line through the samples', () => {
  expect(slopePerMinute([3, 4, 5, 6].map((minute) => [minute, 500 + 2.5 * minute]))).toBeCloseTo(2.5);
  expect(slopePerMinute([[3, 500]])).toBe(0);
});
