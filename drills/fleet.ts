/**
 * A synthetic fleet on the embedded default, each trigger polled every 60 s: how late polls are once the fleet is up,
 * and whether the worker's memory stays flat.
 */
import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '@milkrun/core';
import { type DevRun, freePorts, startDev, until } from './lib/dev-run.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { bucketsOf, type Histogram, quantile, slopePerMinute, totalsBy } from './lib/measures.ts';

const SETTLED_MINUTES = 2;
const FLAT_FROM_MINUTE = 3;
const SAMPLE_MS = 10_000;
const DUE_LAG_S_MAX = 5;
const FIRST_DATA_S_MAX = 60;
const RSS_MB_PER_MINUTE_MAX = 5;
/** Polls that must have happened, of those a 60 s interval asks for. */
const POLLED_SHARE_MIN = 0.95;

interface Sample {
  readonly minute: number;
  readonly rssMb: number;
  readonly load: number;
}

export const drill: Drill = {
  name: 'fleet',
  about: 'A fleet polled every 60 s is polled on time, for as long as it lives, in flat memory.',
  defaults: { count: 10_000 },
  flags: { minutes: `how long, at least ${FLAT_FROM_MINUTE + 1}; default 10` },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const minutes = integerFrom('minutes', flags.minutes, 10, FLAT_FROM_MINUTE + 1);
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-fleet-'));
    // PostgreSQL refuses to run as root, so its own user has to reach the folder.
    await chmod(home, 0o755);
    let run: DevRun | undefined;
    try {
      run = await startDev({ home, settings: { ...(await freePorts()), LOG_FORMAT: 'json' }, fleet: count, log });
      const figures = await measure(run, count, minutes, log);
      const exitCode = await run.stop();
      const missed = { ...figures.missed, [`it ended with ${exitCode} on Ctrl-C`]: exitCode !== 0 };
      const violations = Object.entries(missed).flatMap(([what, isMissed]) => (isMissed ? [what] : []));
      for (const what of violations) log(`violation: ${what}`);
      return { tried: figures.polls, violations: violations.length, ...figures.shown };
    } catch (error) {
      await run?.kill();
      throw error;
    } finally {
      await rm(home, { recursive: true, force: true });
    }
  },
};

async function measure(run: DevRun, count: number, minutes: number, log: DrillInput['log']) {
  const metricsUrl = addressOfMetrics(run.logOf('worker'));
  const scrape = async (): Promise<string> => await (await fetch(metricsUrl)).text();
  const worker = run.pidOf('worker');
  await until('the engine to know the fleet', 120_000, async () => {
    const { triggers } = await run.engine<{ triggers: number }>('/fleet');
    return triggers >= count;
  });
  const startedAt = performance.now();
  const minute = (): number => (performance.now() - startedAt) / 60_000;
  const samples: Sample[] = [];
  let settled: { lag: Histogram; polls: number; minute: number } | undefined;
  while (minute() < minutes) {
    await systemClock.sleep(SAMPLE_MS);
    const text = await scrape();
    if (settled === undefined && minute() >= SETTLED_MINUTES) {
      settled = { lag: bucketsOf(text, LAG), polls: pollsIn(text), minute: minute() };
    }
    const sample = { minute: minute(), rssMb: rssMbOf(worker), load: loadavg()[0] as number };
    samples.push(sample);
    if (samples.length % 6 === 0) {
      const lag = quantile(bucketsOf(text, LAG), 0.99);
      log(
        `minute ${sample.minute.toFixed(1)}: ${pollsIn(text)} polls, due lag p99 since the start ${lag?.toFixed(2)} s, ` +
          `worker ${sample.rssMb.toFixed(0)} MB, load ${sample.load.toFixed(1)}`,
      );
    }
  }
  const last = await scrape();
  const from = settled as NonNullable<typeof settled>;
  const polls = pollsIn(last) - from.polls;
  const p99 = quantile(bucketsOf(last, LAG), 0.99, from.lag);
  const flat = samples.filter((sample) => sample.minute >= FLAT_FROM_MINUTE);
  const slope = slopePerMinute(flat.map((sample) => [sample.minute, sample.rssMb]));
  const polledShare = polls / (count * (minute() - from.minute));
  const rssMbAt = (at: number): number | undefined =>
    samples.find((sample) => sample.minute >= at)?.rssMb ?? samples.at(-1)?.rssMb;
  const fleet = await run.engine<{ undelivered: number; halted: Record<string, number>; eventsDelivered: number }>(
    '/fleet',
  );
  const errors = totalsBy(last, 'polling_poll_polls_total', 'code');
  delete errors.ok;
  const loggedErrors = run.logOf('worker').match(/"level":"error"/g)?.length ?? 0;
  return {
    polls,
    missed: {
      [`due lag p99 ${p99?.toFixed(2)} s`]: !(p99 !== undefined && p99 <= DUE_LAG_S_MAX),
      [`memory grows by ${slope.toFixed(1)} MB a minute`]: slope > RSS_MB_PER_MINUTE_MAX,
      [`only ${(polledShare * 100).toFixed(1)} % of the polls happened`]: polledShare < POLLED_SHARE_MIN,
      [`the first data took ${run.firstDataSeconds.toFixed(0)} s`]: run.firstDataSeconds > FIRST_DATA_S_MAX,
      [`${fleet.undelivered} events are undelivered`]: fleet.undelivered > 0,
      [`halted: ${JSON.stringify(fleet.halted)}`]: Object.keys(fleet.halted).length > 0,
      'no event was delivered': fleet.eventsDelivered === 0,
      [`the worker logged ${loggedErrors} errors`]: loggedErrors > 0,
    },
    shown: {
      triggers: count,
      minutes,
      p99DueLagSeconds: rounded(p99),
      rssSlopeMbPerMinute: rounded(slope),
      rssMbMinute3: rounded(rssMbAt(FLAT_FROM_MINUTE)),
      rssMbLast: rounded(samples.at(-1)?.rssMb),
      rssMbMax: rounded(Math.max(...samples.map(({ rssMb }) => rssMb))),
      polledShare: rounded(polledShare),
      eventsDelivered: fleet.eventsDelivered,
      firstDataSeconds: rounded(run.firstDataSeconds),
      codesNotOk: errors,
      loggedErrors,
      loadAverage: rounded(samples.reduce((sum, { load }) => sum + load, 0) / samples.length),
    },
  };
}

const LAG = 'polling_claim_due_lag_seconds';

const pollsIn = (exposition: string): number =>
  Object.values(totalsBy(exposition, 'polling_poll_polls_total', 'code')).reduce((sum, n) => sum + n, 0);

const rounded = (value: number | undefined): number | null => (value === undefined ? null : Number(value.toFixed(2)));

function rssMbOf(pid: number): number {
  return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })) / 1024;
}

/** Where a part's figures are, from its log. */
function addressOfMetrics(log: string): string {
  for (const line of log.split('\n')) {
    if (!line.includes('"process.ready"')) continue;
    const { metrics } = JSON.parse(line) as { metrics?: unknown };
    if (typeof metrics === 'string') return metrics;
  }
  throw new Error('the worker does not say where its metrics are');
}
