/**
 * The Metrics port with its two outputs, StatsD (DogStatsD tags over UDP) and Prometheus, both behind the catalogue: a
 * name, type, tag or tag value it does not know throws in tests and is counted, and left out, in production.
 */
import type { Metrics, Tags } from '@milkrun/core';
import { StatsD } from 'hot-shots';
import { CATALOGUE, type MetricName, type MetricSpec, type MetricType } from './catalogue.ts';
import { costPerMillionPolls } from './cost.ts';
import { createRegistry } from './exposition.ts';
import { type MetricsSnapshot, newSeries, observeInto, type Series, totalOf } from './series.ts';

export interface MetricsOptions {
  /** `host:port` of a DogStatsD server; without one nothing is sent. */
  readonly statsdAddress?: string | undefined;
  /** Whether `exposition()` renders; also adds Node's own metrics (CPU, memory, event-loop delay). */
  readonly prometheus: boolean;
  /** What happens on a metric the catalogue does not know; `throw` in tests, `count` (default) in production. */
  readonly onUnknown?: 'throw' | 'count';
  /** Told of each error of the StatsD socket; they are counted in any case. */
  readonly onStatsdError?: (error: Error) => void;
}

export interface TelemetryMetrics extends Metrics {
  /** Every series of this process now. */
  snapshot(): MetricsSnapshot;
  /** Prometheus text, format 0.0.4; empty when `prometheus` is off. */
  exposition(): Promise<string>;
  /** Sends what is buffered and closes the socket. */
  close(): Promise<void>;
}

/** Thrown for a metric that is not in the catalogue, where `onUnknown` is `throw`. */
export class UnknownMetric extends Error {
  override readonly name = 'UnknownMetric';
}

const COST_EVERY_MS = 60_000;

type Problem = 'name' | 'type' | 'tag' | 'value';

export function createMetrics(options: MetricsOptions): TelemetryMetrics {
  const byName = new Map<string, Map<string, Series>>();
  const add = (name: MetricName, tags: Tags): void => {
    const series = find(name, CATALOGUE[name], tags);
    if (series !== undefined && series.type !== 'histogram') series.value += 1;
  };
  const statsdFailed = (error: Error): void => {
    add('telemetry.statsd_errors', {});
    options.onStatsdError?.(error);
  };
  const statsd = openStatsd(options.statsdAddress, statsdFailed);
  const registry = options.prometheus ? createRegistry((name) => byName.get(name)?.values() ?? [], true) : undefined;

  function unknown(problem: Problem, text: string): undefined {
    if (options.onUnknown === 'throw') throw new UnknownMetric(text);
    add('telemetry.unknown', { problem });
    return undefined;
  }

  /** The series of a name and its tags, made at first use and only when every tag is one the catalogue allows. */
  function find(name: string, spec: MetricSpec, tags: Tags): Series | undefined {
    let known = byName.get(name);
    if (known === undefined) {
      known = new Map();
      byName.set(name, known);
    }
    let key = '';
    for (const tag in spec.tags) key += `${tags[tag]}\n`;
    const series = known.get(key);
    // The look-up key holds the known tags only, so an extra tag is noticed by number.
    if (series !== undefined && Object.keys(tags).length === Object.keys(series.tags).length) return series;
    for (const [tag, value] of Object.entries(tags)) {
      const allowed = Object.hasOwn(spec.tags, tag) ? spec.tags[tag] : undefined;
      if (allowed === undefined) return unknown('tag', `metric ${name} has no tag "${tag}"`);
      if (!allowed.includes(value)) return unknown('tag', `metric ${name}: tag ${tag} may not be "${value}"`);
    }
    const missing = Object.keys(spec.tags).find((tag) => tags[tag] === undefined);
    if (missing !== undefined) return unknown('tag', `metric ${name} needs the tag "${missing}"`);
    const made = newSeries(name, spec, { ...tags });
    known.set(key, made);
    return made;
  }

  function seriesFor(name: string, type: MetricType, value: number, tags: Tags): Series | undefined {
    const spec = Object.hasOwn(CATALOGUE, name) ? CATALOGUE[name as MetricName] : undefined;
    if (spec === undefined) return unknown('name', `metric ${name} is not in the catalogue`);
    if (spec.type !== type) return unknown('type', `metric ${name} is a ${spec.type}, not a ${type}`);
    if (!Number.isFinite(value) || (type === 'counter' && value < 0)) {
      return unknown('value', `metric ${name} may not take the value ${value}`);
    }
    return find(name, spec, tags);
  }

  const all = (): MetricsSnapshot => ({ series: [...byName.values()].flatMap((known) => [...known.values()]) });

  function count(name: string, value = 1, tags: Tags = {}): void {
    const series = seriesFor(name, 'counter', value, tags);
    if (series === undefined || series.type === 'histogram') return;
    series.value += value;
    if (value !== 0) statsd?.increment(name, value, series.tags);
  }

  function gauge(name: string, value: number, tags: Tags = {}): void {
    const series = seriesFor(name, 'gauge', value, tags);
    if (series === undefined || series.type === 'histogram') return;
    series.value = value;
    statsd?.gauge(name, value, series.tags);
  }

  function observe(name: string, value: number, tags: Tags = {}): void {
    const series = seriesFor(name, 'histogram', value, tags);
    if (series?.type !== 'histogram') return;
    observeInto(series, value);
    statsd?.distribution(name, value, series.tags);
  }

  /** The cost gauges follow from the other series, so they are worked out when somebody looks. */
  function estimateCost(): void {
    const now = all();
    const seconds = now.series.find((series) => series.name === 'polling.poll.duration');
    const cost = costPerMillionPolls({
      polls: totalOf(now, 'polling.poll.polls'),
      actions: totalOf(now, 'polling.temporal.actions'),
      puts: totalOf(now, 'polling.snapshot.puts'),
      invocations: totalOf(now, 'polling.poll.duration'),
      invocationSeconds: seconds?.type === 'histogram' ? seconds.sum : 0,
    });
    for (const [part, usd] of Object.entries(cost ?? {})) gauge('polling.cost.per_million_polls', usd, { part });
  }
  const costTimer = statsd === undefined ? undefined : setInterval(estimateCost, COST_EVERY_MS).unref();

  return {
    count,
    gauge,
    observe,
    snapshot() {
      estimateCost();
      return { series: all().series.map(copyOf) };
    },
    async exposition() {
      if (registry === undefined) return '';
      estimateCost();
      return await registry.metrics();
    },
    async close() {
      clearInterval(costTimer);
      registry?.clear();
      if (statsd === undefined) return;
      const failure = await new Promise<Error | undefined>((resolve) => statsd.close(resolve));
      if (failure === undefined || failure === null) return;
      // When the last flush fails hot-shots gives the error to this callback only, and leaves the socket open.
      statsdFailed(failure);
      statsd.socket.close();
    },
  };
}

const copyOf = (series: Series): Series =>
  series.type === 'histogram' ? { ...series, counts: [...series.counts] } : { ...series };

/** `host:port`, `[v6]:port` or a bare host, whose port is then 8125. */
function splitAddress(address: string): { host: string; port: number } {
  const parsed = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(address);
  const host = parsed?.[1] ?? parsed?.[2];
  if (host === undefined) throw new Error(`the StatsD address must be host:port, not "${address}"`);
  return { host, port: Number(parsed?.[3] ?? 8125) };
}

function openStatsd(statsdAddress: string | undefined, onError: (error: Error) => void): StatsD | undefined {
  if (statsdAddress === undefined) return undefined;
  const { host, port } = splitAddress(statsdAddress);
  return new StatsD({
    host,
    port,
    protocol: 'udp',
    cacheDns: true,
    // One datagram of at most an Ethernet frame; counters and gauges are merged for two seconds before.
    maxBufferSize: 1432,
    bufferFlushInterval: 1000,
    aggregation: { flushInterval: 2000 },
    // Tags are the catalogue's alone: none from the environment of the process.
    includeDataDogTags: false,
    errorHandler: onError,
  });
}
