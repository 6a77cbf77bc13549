/** The Prometheus output: every series of the process, and Node's own, in one registry of prom-client. */
import { collectDefaultMetrics, type Metric, type MetricType as PromType, Registry } from 'prom-client';
import { CATALOGUE, type MetricSpec, prometheusNameOf } from './catalogue.ts';
import type { Series } from './series.ts';

interface PromValue {
  readonly labels: Record<string, string | number>;
  readonly metricName?: string;
  readonly value: number;
}

const promBound = (bound: number): string => (bound === Number.POSITIVE_INFINITY ? '+Inf' : String(bound));

function valuesOf(promName: string, series: Series): PromValue[] {
  if (series.type !== 'histogram') return [{ labels: { ...series.tags }, value: series.value }];
  let below = 0;
  const values: PromValue[] = series.counts.map((count, i) => {
    below += count;
    const le = promBound(series.buckets[i] ?? Number.POSITIVE_INFINITY);
    return { labels: { ...series.tags, le }, metricName: `${promName}_bucket`, value: below };
  });
  values.push({ labels: { ...series.tags }, metricName: `${promName}_sum`, value: series.sum });
  values.push({ labels: { ...series.tags }, metricName: `${promName}_count`, value: series.count });
  return values;
}

/**
 * A registry that renders the series found by name at each scrape. Our own storage feeds it, since prom-client's hashes
 * labels at every write and several writes happen with every poll.
 */
export function createRegistry(seriesOf: (name: string) => Iterable<Series>, runtimeMetrics: boolean): Registry {
  const registry = new Registry();
  for (const [name, spec] of Object.entries(CATALOGUE) as [string, MetricSpec][]) {
    const promName = prometheusNameOf(name, spec);
    const get = async (): Promise<object> => {
      const values = [...seriesOf(name)].flatMap((series) => valuesOf(promName, series));
      // A counter without tags starts at zero, so that rates and alerts see its first increment.
      if (values.length === 0 && spec.type === 'counter' && Object.keys(spec.tags).length === 0) {
        values.push({ labels: {}, value: 0 });
      }
      return { name: promName, help: spec.about, type: spec.type as unknown as PromType, values, aggregator: 'sum' };
    };
    registry.registerMetric({ name: promName, get, reset: () => {} } as unknown as Metric);
  }
  if (runtimeMetrics) collectDefaultMetrics({ register: registry });
  return registry;
}
