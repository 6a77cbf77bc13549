import { createSocket } from 'node:dgram';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import {
  CATALOGUE,
  createMetrics,
  type MetricSpec,
  type MetricsOptions,
  prometheusNameOf,
  quantileOf,
  startMetricsServer,
  type TelemetryMetrics,
  totalOf,
  UnknownMetric,
} from '../src/index.ts';

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function metricsFor(options: Partial<MetricsOptions> = {}): TelemetryMetrics {
  const metrics = createMetrics({ prometheus: true, onUnknown: 'throw', ...options });
  cleanups.push(() => metrics.close());
  return metrics;
}

/** `name{a="b"} 1` lines as a map; values as numbers, comments by `# TYPE`. */
function parseExposition(text: string): { values: Map<string, number>; types: Map<string, string> } {
  const values = new Map<string, number>();
  const types = new Map<string, string>();
  for (const line of text.split('\n')) {
    const type = /^# TYPE (\S+) (\S+)$/.exec(line);
    if (type !== null) types.set(type[1] as string, type[2] as string);
    if (line === '' || line.startsWith('#')) continue;
    const sample = /^([a-zA-Z_:][\w:]*(?:\{[^}]*\})?) (\S+)(?: \d+)?$/.exec(line);
    if (sample === null) throw new Error(`not a sample: ${line}`);
    values.set(sample[1] as string, sample[2] === '+Inf' ? Number.POSITIVE_INFINITY : Number(sample[2]));
  }
  return { values, types };
}

interface Received {
  readonly name: string;
  readonly value: number;
  readonly type: string;
  readonly tags: string;
}

/** A DogStatsD server on a real socket: collects samples until `count` have come. */
async function statsdServer(): Promise<{ address: string; received: (count: number) => Promise<Received[]> }> {
  const socket = createSocket('udp4');
  const samples: Received[] = [];
  let arrived = (): void => {};
  socket.on('message', (datagram) => {
    for (const line of datagram.toString().split('\n').filter(Boolean)) {
      const sample = /^([\w.]+):(-?[\d.]+)\|(c|g|d)(?:\|#(.*))?$/.exec(line);
      if (sample === null) throw new Error(`not DogStatsD: ${line}`);
      const [, name = '', value, type = '', tags = ''] = sample;
      samples.push({ name, value: Number(value), type, tags });
    }
    arrived();
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  cleanups.push(() => new Promise<void>((resolve) => socket.close(() => resolve())));
  return {
    address: `127.0.0.1:${(socket.address() as AddressInfo).port}`,
    received: async (count) => {
      while (samples.length < count) await new Promise<void>((resolve) => (arrived = resolve));
      return samples;
    },
  };
}

test('a StatsD server receives counters merged, gauges, distributions, and their tags', async () => {
  const server = await statsdServer();
  const metrics = createMetrics({ prometheus: false, statsdAddress: server.address, onUnknown: 'throw' });
  for (let i = 0; i < 300; i += 1) metrics.count('polling.trigger.fetch_auth_error', 1, { reason: 'expired' });
  metrics.count('polling.trigger.platform_error', 2, { reason: 'throttled' });
  metrics.gauge('polling.poll.width', 250);
  metrics.observe('polling.step.duration', 0.125, { step: 'poll', outcome: 'completed' });
  await metrics.close();
  const samples = (await server.received(4)).toSorted((a, b) => a.name.localeCompare(b.name));
  expect(samples).toEqual([
    { name: 'polling.poll.width', value: 250, type: 'g', tags: '' },
    { name: 'polling.step.duration', value: 0.125, type: 'd', tags: 'step:poll,outcome:completed' },
    { name: 'polling.trigger.fetch_auth_error', value: 300, type: 'c', tags: 'reason:expired' },
    { name: 'polling.trigger.platform_error', value: 2, type: 'c', tags: 'reason:throttled' },
  ]);
});

test('errors of the StatsD socket are counted and reported', async () => {
  const reported = Promise.withResolvers<Error>();
  const metrics = createMetrics({
    prometheus: true,
    // Sending to the broadcast address is refused by the operating system at once.
    statsdAddress: '255.255.255.255:8125',
    onStatsdError: reported.resolve,
  });
  metrics.count('polling.claim.rows', 5);
  await metrics.close();
  expect((await reported.promise).message).toContain('EACCES');
  expect(totalOf(metrics.snapshot(), 'telemetry.statsd_errors')).toBeGreaterThan(0);
});

test.each(['', 'a:b:c', 'host:port', ':8125'])('the StatsD address %j is refused', (statsdAddress) => {
  expect(() => createMetrics({ prometheus: false, statsdAddress })).toThrow('host:port');
});

test('Prometheus text holds counters, gauges and cumulative buckets under catalogue names', async () => {
  const metrics = metricsFor();
  metrics.count('polling.poll.polls', 7, { code: 'ok' });
  metrics.count('polling.poll.polls', 2, { code: 'poll.timeout' });
  metrics.gauge('polling.dispatch.oldest_due_age', 3.5);
  for (const lag of [0.04, 0.2, 4, 4000]) metrics.observe('polling.claim.due_lag', lag);
  const { values, types } = parseExposition(await metrics.exposition());
  expect(values.get('polling_poll_polls_total{code="ok"}')).toBe(7);
  expect(values.get('polling_poll_polls_total{code="poll.timeout"}')).toBe(2);
  expect(values.get('polling_dispatch_oldest_due_age_seconds')).toBe(3.5);
  expect(types.get('polling_claim_due_lag_seconds')).toBe('histogram');
  const bucket = (le: string): number | undefined => values.get(`polling_claim_due_lag_seconds_bucket{le="${le}"}`);
  expect([bucket('0.05'), bucket('0.25'), bucket('5'), bucket('3600'), bucket('+Inf')]).toEqual([1, 2, 3, 3, 4]);
  expect(values.get('polling_claim_due_lag_seconds_count')).toBe(4);
  expect(values.get('polling_claim_due_lag_seconds_sum')).toBeCloseTo(4004.24);
  expect(values.get('polling_claim_rows_total')).toBe(0);
  expect(values.get('process_cpu_seconds_total')).toBeGreaterThan(0);
});

test('every metric of the catalogue can be emitted with every tag value, and is exposed', async () => {
  const metrics = metricsFor();
  for (const [name, spec] of Object.entries(CATALOGUE) as [string, MetricSpec][]) {
    let combinations: Record<string, string>[] = [{}];
    for (const [tag, values] of Object.entries(spec.tags)) {
      combinations = combinations.flatMap((tags) => values.map((value) => ({ ...tags, [tag]: value })));
    }
    for (const tags of combinations) {
      if (spec.type === 'counter') metrics.count(name, 1, tags);
      else if (spec.type === 'gauge') metrics.gauge(name, 1, tags);
      else metrics.observe(name, 1, tags);
    }
  }
  const { types } = parseExposition(await metrics.exposition());
  for (const [name, spec] of Object.entries(CATALOGUE) as [string, MetricSpec][]) {
    expect(types.get(prometheusNameOf(name, spec)), name).toBe(spec.type);
    expect(name).toMatch(/^[a-z_]+(\.[a-z_]+){1,2}$/);
    expect(spec.about.length, name).toBeGreaterThan(20);
    expect(
      spec.buckets?.toSorted((a, b) => a - b),
      name,
    ).toEqual(spec.buckets);
    expect(spec.buckets !== undefined, name).toBe(spec.type === 'histogram');
    expect(
      Object.keys(spec.tags).some((tag) => /id$/i.test(tag)),
      name,
    ).toBe(false);
  }
});

const MISTAKES: [string, string, (metrics: TelemetryMetrics) => void][] = [
  ['an unknown name', 'name', (m) => m.count('polling.poll.pols')],
  ['a name of Object', 'name', (m) => m.count('constructor')],
  ['the wrong type', 'type', (m) => m.gauge('polling.claim.rows', 1)],
  ['an unknown tag', 'tag', (m) => m.count('polling.claim.rows', 1, { trigger_id: 'x' })],
  ['an unknown tag value', 'tag', (m) => m.count('polling.poll.polls', 1, { code: 'poll.slow' })],
  ['a missing tag', 'tag', (m) => m.count('polling.poll.polls')],
  ['NaN', 'value', (m) => m.gauge('polling.poll.width', Number.NaN)],
  ['a falling counter', 'value', (m) => m.count('polling.claim.rows', -1)],
];

test.each(MISTAKES)('%s throws in tests', (_, __, emit) => {
  expect(() => emit(metricsFor())).toThrow(UnknownMetric);
});

test.each(MISTAKES)('%s is counted and left out in production', (_, problem, emit) => {
  const metrics = metricsFor({ onUnknown: 'count' });
  emit(metrics);
  expect(metrics.snapshot().series).toEqual([
    { type: 'counter', name: 'telemetry.unknown', tags: { problem }, value: 1 },
  ]);
});

test('an extra tag is noticed after the right tags have been used', () => {
  const metrics = metricsFor();
  metrics.count('polling.poll.polls', 1, { code: 'ok' });
  expect(() => metrics.count('polling.poll.polls', 1, { code: 'ok', tenant: 'x' })).toThrow('no tag "tenant"');
});

test('a snapshot gives totals and quantiles, also of what came since an earlier one', () => {
  const metrics = metricsFor();
  for (let i = 1; i <= 100; i += 1) metrics.observe('polling.claim.due_lag', i / 100);
  const before = metrics.snapshot();
  expect(quantileOf(before, 'polling.claim.due_lag', 0.5)).toBeCloseTo(0.5, 1);
  expect(quantileOf(before, 'polling.claim.due_lag', 0.99)).toBeCloseTo(1, 1);
  for (let i = 0; i < 10; i += 1) metrics.observe('polling.claim.due_lag', 8);
  const after = metrics.snapshot();
  const recent = quantileOf(after, 'polling.claim.due_lag', 0.5, { since: before });
  expect(recent).toBeGreaterThan(7.5);
  expect(recent).toBeLessThanOrEqual(10);
  expect(quantileOf(after, 'polling.claim.due_lag', 0.5, { since: after })).toBeUndefined();
  expect(totalOf(after, 'polling.claim.due_lag')).toBe(110);
  expect(totalOf(JSON.parse(JSON.stringify(before)), 'polling.claim.due_lag')).toBe(100);
});

test('the cost estimate follows from what was counted', () => {
  const metrics = metricsFor();
  metrics.count('polling.poll.polls', 1000, { code: 'ok' });
  metrics.count('polling.temporal.actions', 10, { kind: 'step' });
  metrics.count('polling.snapshot.puts', 3, { object: 'results' });
  for (let i = 0; i < 1000; i += 1) metrics.observe('polling.poll.duration', 0.1);
  const part = (name: string): number => totalOf(metrics.snapshot(), 'polling.cost.per_million_polls', { part: name });
  expect(part('temporal')).toBeCloseTo(0.5);
  expect(part('object_store')).toBeCloseTo(0.015);
  expect(part('poll_function')).toBeCloseTo(0.2 + 100_000 * 0.25 * 0.0000166667);
  expect(part('total')).toBeCloseTo(part('temporal') + part('object_store') + part('poll_function'));
});

test('further processes serve /metrics on the next free port, with other sources appended', async () => {
  const metrics = metricsFor();
  metrics.count('polling.claim.rows', 3);
  const first = await startMetricsServer({ metrics, port: 0 });
  cleanups.push(() => first.close());
  const second = await startMetricsServer({
    metrics,
    port: first.port,
    sources: [async () => 'temporal_sdk_total 9\n', () => Promise.reject(new Error('down'))],
  });
  cleanups.push(() => second.close());
  expect(second.port).toBeGreaterThan(first.port);
  const answer = await fetch(second.url);
  expect(answer.headers.get('content-type')).toContain('version=0.0.4');
  const { values } = parseExposition(await answer.text());
  expect(values.get('polling_claim_rows_total')).toBe(3);
  expect(values.get('temporal_sdk_total')).toBe(9);
  expect(totalOf(metrics.snapshot(), 'telemetry.scrape_errors')).toBe(1);
  expect((await fetch(new URL('/', second.url))).status).toBe(404);
});

test('counters stand at zero for every value of their tags, so that an alert sees the first increment', async () => {
  const metrics = createMetrics({ prometheus: true, onUnknown: 'throw' });
  metrics.count('polling.commit.rows', 3, { outcome: 'fenced' });
  const lines = (await metrics.exposition()).split('\n').filter((line) => line.startsWith('polling_commit_rows_total'));
  expect(lines.toSorted()).toEqual([
    'polling_commit_rows_total{outcome="already"} 0',
    'polling_commit_rows_total{outcome="committed"} 0',
    'polling_commit_rows_total{outcome="fenced"} 3',
    'polling_commit_rows_total{outcome="quarantined"} 0',
  ]);
  await metrics.close();
});
