/** Reads what a process exposes for Prometheus, and what a series of samples says. */

/** Upper bounds of a histogram with how many were at or below each, ascending. */
export type Histogram = readonly (readonly [bound: number, atOrBelow: number])[];

/** All series of the histogram together. */
export function bucketsOf(exposition: string, name: string): Histogram {
  const sums = new Map<number, number>();
  for (const [labels, value] of seriesOf(exposition, `${name}_bucket`)) {
    const bound = /\ble="([^"]+)"/.exec(labels)?.[1];
    if (bound === undefined) continue;
    const at = bound === '+Inf' ? Number.POSITIVE_INFINITY : Number(bound);
    sums.set(at, (sums.get(at) ?? 0) + value);
  }
  return [...sums].toSorted(([a], [b]) => a - b);
}

/** Of what came after `since`; linear inside a bucket, the last bound beyond it. Undefined when nothing came. */
export function quantile(now: Histogram, q: number, since: Histogram = []): number | undefined {
  const before = new Map(since);
  const counts = now.map(([bound, n]) => [bound, n - (before.get(bound) ?? 0)] as const);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return undefined;
  let [low, below] = [0, 0];
  for (const [bound, atOrBelow] of counts) {
    if (atOrBelow >= q * total) {
      if (bound === Number.POSITIVE_INFINITY) return low;
      return low + ((bound - low) * (q * total - below)) / (atOrBelow - below);
    }
    [low, below] = [bound, atOrBelow];
  }
  return low;
}

/** A counter's totals by one of its labels. */
export function totalsBy(exposition: string, name: string, label: string): Record<string, number> {
  const totals: Record<string, number> = {};
  for (const [labels, value] of seriesOf(exposition, name)) {
    const key = new RegExp(`\\b${label}="([^"]*)"`).exec(labels)?.[1] ?? '';
    totals[key] = (totals[key] ?? 0) + value;
  }
  return totals;
}

/** The slope of the straight line with the least squares through (minute, value). */
export function slopePerMinute(samples: readonly (readonly [minute: number, value: number])[]): number {
  const mean = (at: 0 | 1): number => samples.reduce((sum, sample) => sum + sample[at], 0) / samples.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  let [top, bottom] = [0, 0];
  for (const [x, y] of samples) {
    top += (x - meanX) * (y - meanY);
    bottom += (x - meanX) ** 2;
  }
  return bottom === 0 ? 0 : top / bottom;
}

function seriesOf(exposition: string, name: string): (readonly [labels: string, value: number])[] {
  return exposition.split('\n').flatMap((line) => {
    const [, labels = '', value] = line.startsWith(name) ? (/^\w+(?:\{(.*)\})? (\S+)$/.exec(line) ?? []) : [];
    const exact = line.startsWith(`${name}{`) || line.startsWith(`${name} `);
    return exact && value !== undefined ? [[labels, Number(value)] as const] : [];
  });
}
