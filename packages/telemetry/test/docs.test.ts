import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ALERTS } from '../src/alerts.ts';
import { dashboardExpressions } from '../src/dashboards.ts';
import { generatedFiles, urlOf } from '../src/docs.ts';
import { series } from '../src/promql.ts';

test.each([...generatedFiles()])(
  '%s is what the code says; `node packages/telemetry/src/docs.ts` writes it',
  (path, text) => {
    expect(readFileSync(urlOf(path), 'utf8')).toBe(text);
  },
);

test('an expression can not name a tag the catalogue does not have', () => {
  expect(series('polling.commit.rows', { outcome: ['fenced', 'already'] })).toBe(
    'polling_commit_rows_total{outcome=~"fenced|already"}',
  );
  expect(() => series('polling.commit.rows', { outcome: 'lost' })).toThrow('no tag outcome with the value lost');
});

test('every alert has its own name, a runbook with all four parts, and an expression', () => {
  expect(new Set(ALERTS.map(({ name }) => name)).size).toBe(ALERTS.length);
  for (const alert of ALERTS) {
    expect(alert.diagnosis.length, alert.name).toBeGreaterThan(0);
    expect(alert.mitigation.length, alert.name).toBeGreaterThan(0);
  }
});

test('the dashboards show every metric', () => {
  const all = dashboardExpressions().join('\n');
  for (const [, text] of generatedFiles()) expect(text).not.toContain('undefined');
  expect(all).toContain('polling_claim_due_lag_seconds_bucket');
  expect(all).toContain('telemetry_unknown_total');
});
