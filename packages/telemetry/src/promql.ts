/** PromQL about metrics of the catalogue: names are looked up, so an expression can not name a metric or tag that is gone. */
import { CATALOGUE, type MetricName, type MetricSpec, prometheusNameOf } from './catalogue.ts';

/** A tag with the value wanted, or with several of them. */
export type Matchers = Readonly<Record<string, string | readonly string[]>>;

/** The series of a metric, narrowed by tags: `polling_commit_rows_total{outcome="fenced"}`. Throws on what the catalogue lacks. */
export function series(name: MetricName, tags: Matchers = {}, suffix = ''): string {
  const spec: MetricSpec = CATALOGUE[name];
  const matchers = Object.entries(tags).map(([tag, wanted]) => {
    const values = typeof wanted === 'string' ? [wanted] : wanted;
    for (const value of values) {
      if (!spec.tags[tag]?.includes(value)) throw new TypeError(`${name} has no tag ${tag} with the value ${value}`);
    }
    return values.length === 1 ? `${tag}="${values[0]}"` : `${tag}=~"${values.map(escapeRegex).join('|')}"`;
  });
  const base = prometheusNameOf(name, spec) + suffix;
  return matchers.length === 0 ? base : `${base}{${matchers.join(',')}}`;
}

/** Events a second over all processes, by tags when some are named. */
export function rate(
  name: MetricName,
  tags: Matchers = {},
  window = '$__rate_interval',
  by: readonly string[] = [],
): string {
  return `sum${byClause(by)} (rate(${series(name, tags)}[${window}]))`;
}

/** How often it happened within the window, over all processes. */
export function increase(name: MetricName, window: string, tags: Matchers = {}): string {
  return `sum (increase(${series(name, tags)}[${window}]))`;
}

/** A quantile of a histogram over all processes. */
export function quantile(q: number, name: MetricName, window = '$__rate_interval', by: readonly string[] = []): string {
  return `histogram_quantile(${q}, sum by (${['le', ...by].join(', ')}) (rate(${series(name, {}, '_bucket')}[${window}])))`;
}

export function gauge(how: 'sum' | 'max' | 'min', name: MetricName, by: readonly string[] = []): string {
  return `${how}${byClause(by)} (${series(name)})`;
}

const byClause = (by: readonly string[]): string => (by.length === 0 ? '' : ` by (${by.join(', ')})`);
const escapeRegex = (text: string): string => text.replaceAll('.', '\\\\.');
