import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { METRICS_DOC, renderMetricsDoc } from '../src/docs.ts';

test('docs/metrics.md is what the catalogue says; `node packages/telemetry/src/docs.ts` writes it', () => {
  expect(readFileSync(METRICS_DOC, 'utf8')).toBe(renderMetricsDoc());
});
