/** Everything that is rendered from the catalogue, the alerts and the dashboards; `node src/docs.ts` writes it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { renderAlertRules, renderAlertsDoc, renderAlertTests } from './alerts.ts';
import { CATALOGUE, type MetricSpec, prometheusNameOf } from './catalogue.ts';
import { DASHBOARDS, renderDashboard } from './dashboards.ts';
import { renderStatsdMapping } from './statsd-mapping.ts';

const ROOT = new URL('../../../', import.meta.url);

const HEAD = `# Metrics

Every metric Milkrun emits, generated from the catalogue in code (\`packages/telemetry/src/catalogue.ts\`); anything else a
process tried to emit is counted in \`telemetry.unknown\`. There are two outputs: **StatsD** with DogStatsD tags, sent to
\`STATSD_ADDRESS\` under the name in the heading (counters \`c\`, gauges \`g\`, histograms \`d\`; counters and gauges are merged for
two seconds), and **Prometheus** at \`/metrics\` on \`METRICS_PORT\` (the next free port for further processes on one machine).
Tags have closed sets of values and are never ids. Figures are per process: add them up, except where a gauge says otherwise.
`;

/** The whole page as Markdown. */
function renderMetricsDoc(): string {
  const sections = (Object.entries(CATALOGUE) as [string, MetricSpec][]).map(([name, spec]) => {
    const tags = Object.entries(spec.tags).map(
      ([tag, values]) => `- Tag \`${tag}\`: ${values.map((v) => `\`${v}\``).join(', ')}\n`,
    );
    const buckets = spec.buckets === undefined ? '' : `- Buckets: ${spec.buckets.join(', ')}\n`;
    return `
## \`${name}\`

${spec.about}

- ${spec.type[0]?.toUpperCase()}${spec.type.slice(1)}, ${spec.unit}; Prometheus \`${prometheusNameOf(name, spec)}\`
${tags.join('')}${buckets}`;
  });
  return HEAD + sections.join('');
}

/** Generated files by their path from the root. */
export function generatedFiles(): ReadonlyMap<string, string> {
  return new Map([
    ['docs/metrics.md', renderMetricsDoc()],
    ['docs/alerts.md', renderAlertsDoc()],
    ['infra/prometheus/alerts.yml', renderAlertRules()],
    ['infra/prometheus/alerts.test.yml', renderAlertTests()],
    ['infra/statsd-exporter.yml', renderStatsdMapping()],
    ...DASHBOARDS.map((one) => [`infra/grafana/dashboards/${one.name}.json`, renderDashboard(one)] as const),
  ]);
}

/** Where a generated file lies. */
export const urlOf = (path: string): URL => new URL(path, ROOT);

if (import.meta.main) {
  for (const [path, text] of generatedFiles()) {
    mkdirSync(new URL('.', urlOf(path)), { recursive: true });
    writeFileSync(urlOf(path), text);
  }
}
