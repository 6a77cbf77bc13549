/**
 * One connection of many triggers is answered 429 with Retry-After. From the commit of the first such poll until the
 * window ends no worker may ask for that connection, whichever batches its triggers are in; everybody else's lag stays.
 */
import { systemClock } from '@milkrun/core';
import { insertFleet, quantileOf, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const INTERVAL_S = 10;
const LAG_RATIO_MAX = 1.5;
/** Below this a lag is the tick's, and its ratio says nothing, seconds. */
const LAG_SLACK_S = 1;

export const drill: Drill = {
  name: 'rate-budget',
  about: 'A connection that is rate-limited is left alone by every worker for the window, and nobody else notices.',
  defaults: { count: 6000 },
  flags: {
    workers: 'worker processes; default 3',
    window: 'seconds of Retry-After; default 20',
    rounds: 'how often it is limited; default 2',
  },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const workers = integerFrom('workers', flags.workers, 3, 1);
    const windowSeconds = integerFrom('window', flags.window, 20, 5);
    const rounds = integerFrom('rounds', flags.rounds, 2, 1);
    const judge = verdicts(log);
    const limited = Math.ceil(count / 10);
    const rig = await startRig({
      workers: 0,
      // Small batches: the connection's triggers lie in many of them, on all workers.
      settings: { DISPATCH_TICK: '1s', BATCH_SIZE: '200', POLL_WIDTH: '50' },
      log,
      fill: (sql) =>
        insertFleet(sql, [
          { count: limited, toolkit: 'shop', tenant: 'busy', connections: 1, intervalSeconds: INTERVAL_S },
          { count: count - limited, toolkit: 'shop', tenants: 20, connections: 200, intervalSeconds: INTERVAL_S },
        ]),
    });
    try {
      const { upstream, sql } = rig;
      const isBusy = (triggerId: string): boolean => triggerId.startsWith('00000001');
      const asked: number[] = [];
      let limiting = false;
      let refused = 0;
      let others = 0;
      upstream.onPoll = ({ triggerId, cursor, at }) => {
        const body = { events: [], cursor };
        if (!isBusy(triggerId)) {
          others += 1;
          return { delayMs: 20, body };
        }
        asked.push(at);
        if (!limiting) return { delayMs: 20, body };
        refused += 1;
        return {
          delayMs: 20,
          body: { error: { class: 'rate_limited', message: 'slow down', retryAfter: windowSeconds } },
        };
      };
      for (let n = 0; n < workers; n += 1) await rig.startWorker();
      await watch(
        'both kinds to be polled',
        { everyMs: 200, withinMs: 60_000 },
        async () => others,
        (n) => n > count && asked.length > limited,
      );
      const before = await lagOf(rig.sql, 10);
      let inside = 0;
      const lags: number[] = [];
      for (let round = 1; round <= rounds; round += 1) {
        limiting = true;
        const committed = await watch(
          'the limit to be committed',
          { everyMs: 20, withinMs: 60_000 },
          async () =>
            (
              await sql<{ at: Date; until: Date }[]>`
            select l.at, s.not_before as until from poll_log l, source_limits s where l.code = 40 and l.at > statement_timestamp() - interval '5 s'
              and s.reason = 'rate_limited' and s.not_before > statement_timestamp() order by l.at limit 1`
            )[0],
          (row) => row !== undefined,
        );
        limiting = false;
        const [from, to] = [committed?.at.getTime() ?? 0, committed?.until.getTime() ?? 0];
        lags.push(await lagOf(sql, Math.max(1, Math.floor((to - Date.now()) / 1000) - 1)));
        await systemClock.sleep(Math.max(0, to - Date.now()));
        const late = asked.filter((at) => at > from && at < to).length;
        inside += late;
        log(
          `round ${round}: ${late} requests inside the window of ${((to - from) / 1000).toFixed(1)} s, ${refused} refused so far`,
        );
        const mark = asked.length;
        await watch(
          'the connection to be polled again',
          { everyMs: 100, withinMs: 60_000 },
          async () => asked.length,
          (n) => n > mark,
        );
      }
      const during = Math.max(...lags);
      if (inside > 0) judge.missed(`${inside} requests of the connection inside its window`);
      if (during > Math.max(before + LAG_SLACK_S, before * LAG_RATIO_MAX))
        judge.missed(`the others' p99 lag went from ${before.toFixed(2)} to ${during.toFixed(2)} s`);
      return {
        tried: asked.length + others,
        violations: judge.count,
        faults: refused,
        workers,
        insideWindow: inside,
        refused,
        othersLagP99Before: Number(before.toFixed(2)),
        othersLagP99During: Number(during.toFixed(2)),
        windowSeconds,
      };
    } finally {
      await rig.stop();
    }
  },
};

/** p99 of how late the others are, looked at every half second for so many seconds: the age of their due rows. */
async function lagOf(sql: import('postgres').Sql, seconds: number): Promise<number> {
  const ages: number[] = [];
  for (let n = 0; n < seconds * 2; n += 1) {
    const [row] = await sql<{ age: number }[]>`
      select coalesce(percentile_cont(0.99) within group (order by greatest(0, extract(epoch from statement_timestamp() - next_poll_at))), 0)::float8 as age
      from polling_trigger_runs where toolkit_h = hash32('shop') and tenant_h <> hash32('busy-0')`;
    ages.push(row?.age ?? 0);
    await systemClock.sleep(500);
  }
  return quantileOf(ages, 0.5);
}
