/** The Prometheus output: every series of the process, and Node's own, in one registry of prom-client. */
import type { Tags } from '@milkrun/core';
import { collectDefaultMetrics, type Metric, type MetricType as PromType, Registry } from 'prom-client';
import { CATALOGUE, type MetricSpec, prometheusNameOf } from './catalogue.ts';
import type { Series } from './series.ts';

interface PromValue {
  readonly labels: Readonly<Record<string, string | number>>;
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

/** Every combination of the tags' values; one without tags when there are none. */
function combinationsOf(tags: MetricSpec['tags']): Tags[] {
  return Object.entries(tags).reduce<Tags[]>(
    (made, [tag, values]) => made.flatMap((labels) => values.map((value) => ({ ...labels, [tag]: value }))),
    [{}],
  );
}

const keyOf = ({ tags }: MetricSpec, given: Tags): string =>
  Object.keys(tags)
    .map((tag) => given[tag])
    .join('\n');

/**
 * A registry that renders the series found by name at each scrape. Our own storage feeds it, since prom-client's hashes
 * labels at every write and several writes happen with every poll.
 */
export function createRegistry(seriesOf: (name: string) => Iterable<Series>, runtimeMetrics: boolean): Registry {
  const registry = new Registry();
  for (const [name, spec] of Object.entries(CATALOGUE) as [string, MetricSpec][]) {
    const promName = prometheusNameOf(name, spec);
    // Counters start at zero, for every value of their tags, so that rates and alerts see the first increment.
    const zeros = spec.type === 'counter' ? combinationsOf(spec.tags) : [];
    const get = async (): Promise<object> => {
      const known = [...seriesOf(name)];
      const values = known.flatMap((series) => valuesOf(promName, series));
      if (known.length < zeros.length) {
        const counted = new Set(known.map(({ tags }) => keyOf(spec, tags)));
        for (const labels of zeros) if (!counted.has(keyOf(spec, labels))) values.push({ labels, value: 0 });
      }
      return { name: promName, help: spec.about, type: spec.type as unknown as PromType, values, aggregator: 'sum' };
    };
    registry.registerMetric({ name: promName, get, reset: () => {} } as unknown as Metric);
  }
  if (runtimeMetrics) collectDefaultMetrics({ register: registry });
  return registry;
}
