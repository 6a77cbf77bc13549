/**
 * A mapping for statsd_exporter, so that what is sent as StatsD comes out under the same Prometheus names, with the same
 * buckets, and the same dashboards and alerts serve both ways.
 */
import { CATALOGUE, type MetricSpec, prometheusNameOf } from './catalogue.ts';

export function renderStatsdMapping(): string {
  const mappings = (Object.entries(CATALOGUE) as [string, MetricSpec][]).map(([name, spec]) => {
    const histogram =
      spec.type === 'histogram'
        ? `    observer_type: histogram\n    histogram_options:\n      buckets: [${(spec.buckets ?? []).join(', ')}]\n`
        : '';
    return `  - match: ${name}\n    name: ${prometheusNameOf(name, spec)}\n${histogram}`;
  });
  return `# Generated from the catalogue by \`node packages/telemetry/src/docs.ts\`; for statsd_exporter's --statsd.mapping-config.
mappings:
${mappings.join('')}`;
}
