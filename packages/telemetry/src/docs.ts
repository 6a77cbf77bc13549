/** Renders `docs/metrics.md` from the catalogue; `node src/docs.ts` writes it. */
import { writeFileSync } from 'node:fs';
import { CATALOGUE, type MetricSpec, prometheusNameOf } from './catalogue.ts';

export const METRICS_DOC = new URL('../../../docs/metrics.md', import.meta.url);

const HEAD = `# Metrics

Every metric Milkrun emits, generated from the catalogue in code (\`packages/telemetry/src/catalogue.ts\`); anything else a
process tried to emit is counted in \`telemetry.unknown\`. There are two outputs: **StatsD** with DogStatsD tags, sent to
\`STATSD_ADDRESS\` under the name in the heading (counters \`c\`, gauges \`g\`, histograms \`d\`; counters and gauges are merged for
two seconds), and **Prometheus** at \`/metrics\` on \`METRICS_PORT\` (the next free port for further processes on one machine).
Tags have closed sets of values and are never ids. Figures are per process: add them up, except where a gauge says otherwise.
`;

/** The whole page as Markdown. */
export function renderMetricsDoc(): string {
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

if (import.meta.main) writeFileSync(METRICS_DOC, renderMetricsDoc());
