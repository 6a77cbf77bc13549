/**
 * The series of one process: counters, gauges and bucketed histograms by name and tags. Both outputs and the progress
 * figures read from here; a write costs one map look-up, because several happen with every poll.
 */
import type { Tags } from '@milkrun/core';
import type { MetricSpec } from './catalogue.ts';

interface ScalarSeries {
  readonly type: 'counter' | 'gauge';
  readonly name: string;
  readonly tags: Tags;
  value: number;
}

export interface HistogramSeries {
  readonly type: 'histogram';
  readonly name: string;
  readonly tags: Tags;
  /** Observations per bucket (not cumulative); one longer than `buckets`, the last is above all of them. */
  readonly counts: number[];
  readonly buckets: readonly number[];
  count: number;
  sum: number;
}

export type Series = ScalarSeries | HistogramSeries;

/** All series of a moment, plain data: may be sent as JSON. */
export interface MetricsSnapshot {
  readonly series: readonly Series[];
}

export function newSeries(name: string, spec: MetricSpec, tags: Tags): Series {
  if (spec.type !== 'histogram') return { type: spec.type, name, tags, value: 0 };
  const buckets = spec.buckets ?? [];
  return { type: 'histogram', name, tags, counts: new Array(buckets.length + 1).fill(0), buckets, count: 0, sum: 0 };
}

export function observeInto(series: HistogramSeries, value: number): void {
  const { buckets, counts } = series;
  let low = 0;
  let high = buckets.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (value <= (buckets[middle] as number)) high = middle;
    else low = middle + 1;
  }
  counts[low] = (counts[low] as number) + 1;
  series.count += 1;
  series.sum += value;
}

const matches = (series: Series, name: string, tags: Tags): boolean =>
  series.name === name && Object.entries(tags).every(([tag, value]) => series.tags[tag] === value);

/** Sum of a counter's or gauge's series (a histogram counts its observations), over all tags not named. */
export function totalOf(snapshot: MetricsSnapshot, name: string, tags: Tags = {}): number {
  let total = 0;
  for (const series of snapshot.series) {
    if (matches(series, name, tags)) total += series.type === 'histogram' ? series.count : series.value;
  }
  return total;
}

/**
 * The q-quantile (0…1) of a histogram, interpolated inside its bucket; undefined without observations. With `since`, of
 * the observations after that earlier snapshot only. Above the last bucket the last bound is returned.
 */
export function quantileOf(
  snapshot: MetricsSnapshot,
  name: string,
  q: number,
  { tags = {}, since }: { tags?: Tags; since?: MetricsSnapshot } = {},
): number | undefined {
  let counts: number[] = [];
  let buckets: readonly number[] = [];
  const add = (from: MetricsSnapshot, sign: number): void => {
    for (const series of from.series) {
      if (series.type !== 'histogram' || !matches(series, name, tags)) continue;
      buckets = series.buckets;
      counts = series.counts.map((n, i) => (counts[i] ?? 0) + sign * n);
    }
  };
  if (since !== undefined) add(since, -1);
  add(snapshot, 1);
  const total = counts.reduce((sum, n) => sum + n, 0);
  if (total <= 0) return undefined;
  let below = 0;
  const wanted = q * total;
  for (const [i, n] of counts.entries()) {
    if (n > 0 && below + n >= wanted) {
      const from = i === 0 ? 0 : (buckets[i - 1] as number);
      const to = buckets[i] ?? from;
      return from + (to - from) * Math.max(0, (wanted - below) / n);
    }
    below += n;
  }
  return buckets.at(-1);
}
