/**
 * Dashboards and alerts against a real Prometheus: every expression finds its series on a live run, promtool accepts the
 * rules and their tests, and every metric of the catalogue arrives both ways, scraped and through StatsD (statsd_exporter).
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@milkrun/core';
import {
  ALERTS,
  CATALOGUE,
  createMetrics,
  dashboardExpressions,
  type MetricSpec,
  prometheusNameOf,
  startMetricsServer,
} from '@milkrun/telemetry';
import { freePorts, startDev, until } from './lib/dev-run.ts';
import { findGoTool } from './lib/go-tool.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';

const STATSD_EXPORTER = {
  name: 'statsd_exporter',
  module: 'github.com/prometheus/statsd_exporter',
  version: 'v0.31.0',
  setting: 'STATSD_EXPORTER_PATH',
};
const INFRA = fileURLToPath(new URL('../infra', import.meta.url));
/** What Grafana would put in for a scrape a second. */
const RATE_INTERVAL = '15s';
/** An alert's condition; what stands before it is the figure, which must have a series even while all is well. */
const CONDITION = / > \d+( unless .*)?$/s;
const SETTLE_MS = 20_000;

export const drill: Drill = {
  name: 'dashboards',
  about: 'Every dashboard and alert expression finds its series on a live run; every metric arrives both ways.',
  defaults: { count: 1 },
  flags: { triggers: 'synthetic triggers of the live run; default 200' },
  async run({ log, flags }: DrillInput): Promise<DrillResult> {
    const triggers = integerFrom('triggers', flags.triggers, 200, 1);
    const prometheus = fromPath('prometheus', 'PROMETHEUS_PATH');
    const promtool = fromPath('promtool', 'PROMTOOL_PATH');
    const exporter = findGoTool(STATSD_EXPORTER, log);
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-dashboards-'));
    // PostgreSQL refuses to run as root, so its own user has to reach the folder.
    await chmod(home, 0o755);
    const ending: (() => Promise<unknown>)[] = [() => rm(home, { recursive: true, force: true })];
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    try {
      for (const [command, file] of [
        ['check', 'alerts.yml'],
        ['test', 'alerts.test.yml'],
      ] as const) {
        const { status, stdout, stderr } = spawnSync(promtool, [command, 'rules', join(INFRA, 'prometheus', file)], {
          encoding: 'utf8',
        });
        if (status !== 0) report(`promtool ${command} rules ${file}: ${stdout}${stderr}`);
      }

      const [udp, web] = [await freePort(), await freePort()];
      ending.push(
        await startTool(exporter, [
          `--statsd.listen-udp=127.0.0.1:${udp}`,
          '--statsd.listen-tcp=',
          `--web.listen-address=127.0.0.1:${web}`,
          `--statsd.mapping-config=${join(INFRA, 'statsd-exporter.yml')}`,
        ]),
      );
      const ports = await freePorts();
      const statsdAddress = `127.0.0.1:${udp}`;
      const settings = { ...ports, DISPATCH_TICK: '1s', STATSD_ADDRESS: statsdAddress };
      const dev = await startDev({ home, settings, fleet: triggers, log });
      ending.push(() => dev.stop());
      const metricsPort = Number(ports.METRICS_PORT);
      const scraped = [0, 1, 2, 3].map((more) => `127.0.0.1:${metricsPort + more}`);
      const live = await startPrometheus(prometheus, home, 'live', scraped, ending);
      const viaStatsd = await startPrometheus(prometheus, home, 'statsd', [`127.0.0.1:${web}`], ending);
      await until('polls in Prometheus', 120_000, async () => {
        const [seen = 0] = await valuesOf(live, 'sum(rate(polling_poll_polls_total[15s]))');
        return seen > 0;
      });
      await systemClock.sleep(SETTLE_MS);

      const expressions = [
        ...dashboardExpressions(),
        ...ALERTS.map(({ expr }) => expr.replace(CONDITION, '').replaceAll(/\[\d+[mh]\]/g, `[${RATE_INTERVAL}]`)),
      ].map((expr) => expr.replaceAll('$__rate_interval', RATE_INTERVAL));
      const empty: string[] = [];
      for (const expr of new Set(expressions)) if ((await valuesOf(live, expr)).length === 0) empty.push(expr);
      for (const expr of empty) report(`no series on a live run: ${expr}`);

      const names = Object.entries(CATALOGUE) as [string, MetricSpec][];
      const emitter = await emitAll(names, statsdAddress, ending);
      const scrapedAll = await startPrometheus(prometheus, home, 'all', [emitter], ending);
      const missing = { prometheus: [] as string[], statsd: [] as string[] };
      await systemClock.sleep(SETTLE_MS);
      for (const [name, spec] of names) {
        const base = prometheusNameOf(name, spec) + (spec.type === 'histogram' ? '_count' : '');
        const wanted = Object.values(spec.tags).reduce((product, values) => product * values.length, 1);
        for (const [output, url] of [
          ['prometheus', scrapedAll],
          ['statsd', viaStatsd],
        ] as const) {
          const found = (await valuesOf(url, base)).length;
          if (found < wanted) missing[output].push(`${name} (${found} of ${wanted} series)`);
        }
      }
      for (const [output, list] of Object.entries(missing)) {
        for (const one of list) report(`not seen through ${output}: ${one}`);
      }
      return {
        tried: new Set(expressions).size + 2 * names.length,
        violations,
        expressions: new Set(expressions).size,
        metrics: names.length,
        alerts: ALERTS.length,
        polls: Math.round((await valuesOf(live, 'sum(polling_poll_polls_total)'))[0] ?? 0),
      };
    } finally {
      for (const end of ending.reverse()) await end();
    }
  },
};

/** Emits each metric with each of its tags' values, both ways; answers the address to scrape. */
async function emitAll(
  names: readonly [string, MetricSpec][],
  statsdAddress: string,
  ending: (() => Promise<unknown>)[],
): Promise<string> {
  const metrics = createMetrics({ prometheus: true, statsdAddress, onUnknown: 'throw' });
  ending.push(() => metrics.close());
  const server = await startMetricsServer({ metrics, port: 0 });
  ending.push(() => server.close());
  for (const [name, spec] of names) {
    for (const tags of combinationsOf(spec.tags)) {
      if (spec.type === 'counter') metrics.count(name, 1, tags);
      else if (spec.type === 'gauge') metrics.gauge(name, 1, tags);
      else metrics.observe(name, 1, tags);
    }
    // A UDP socket drops what comes faster than it is read.
    await systemClock.sleep(5);
  }
  return `127.0.0.1:${server.port}`;
}

function combinationsOf(tags: MetricSpec['tags']): Record<string, string>[] {
  return Object.entries(tags).reduce<Record<string, string>[]>(
    (made, [tag, values]) => made.flatMap((one) => values.map((value) => ({ ...one, [tag]: value }))),
    [{}],
  );
}

function fromPath(name: string, setting: string): string {
  const given = process.env[setting];
  if (given !== undefined) return given;
  const { status } = spawnSync(name, ['--version']);
  if (status === 0) return name;
  throw new Error(
    `there is no ${name}: install Prometheus (the package of that name), or set ${setting} to the binary`,
  );
}

/** Starts a server; answers how to end it. */
async function startTool(binary: string, args: readonly string[]): Promise<() => Promise<unknown>> {
  const child: ChildProcess = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4_000);
  });
  const ended = once(child, 'exit');
  void ended.then(([code]) => {
    if (code !== 0 && code !== null) process.stderr.write(`${binary} ended with ${code}:\n${said}\n`);
  });
  await once(child, 'spawn');
  return async () => {
    child.kill('SIGTERM');
    await ended;
  };
}

/** Starts a Prometheus that scrapes the targets every second; answers its address. */
async function startPrometheus(
  binary: string,
  home: string,
  name: string,
  targets: readonly string[],
  ending: (() => Promise<unknown>)[],
): Promise<string> {
  const port = await freePort();
  const config = join(home, `prometheus-${name}.yml`);
  await writeFile(
    config,
    JSON.stringify({
      global: { scrape_interval: '1s', evaluation_interval: '1s' },
      rule_files: [join(INFRA, 'prometheus', 'alerts.yml')],
      scrape_configs: [{ job_name: 'milkrun', static_configs: [{ targets }] }],
    }),
  );
  ending.push(
    await startTool(binary, [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(home, `prometheus-${name}`)}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ]),
  );
  const url = `http://127.0.0.1:${port}`;
  await until(`Prometheus (${name})`, 30_000, async () => {
    const answer = await fetch(`${url}/-/ready`).catch(() => undefined);
    return answer?.ok === true;
  });
  return url;
}

/** Values of an instant query, one for each series. */
async function valuesOf(url: string, query: string): Promise<number[]> {
  const answer = await fetch(`${url}/api/v1/query?query=${encodeURIComponent(query)}`);
  const body = (await answer.json()) as { data?: { result: { value: [number, string] }[] }; error?: string };
  if (body.data === undefined) throw new Error(`Prometheus refuses ${query}: ${body.error}`);
  return body.data.result.map(({ value: [, text] }) => Number(text));
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  return port;
}
