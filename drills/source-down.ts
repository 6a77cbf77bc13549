/**
 * One toolkit hangs: its polls run into their deadline. The others go on as before, and when it is back all its triggers
 * are polled within two intervals.
 *
 * Scaled: the ten minutes are `--down` seconds of real time (default 60), with the deadline scaled alike (`POLL_DEADLINE`
 * 2 s). The probe of one a minute is not scaled, so its wait is part of what is measured after the recovery.
 */
import { systemClock } from '@milkrun/core';
import { insertFleet, quantileOf, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const INTERVAL_S = 60;
const OTHERS = 4;
const RATIO_MAX = 2;
/** Below this a lag is the tick's, and its ratio says nothing, seconds. */
const LAG_SLACK_S = 1;

export const drill: Drill = {
  name: 'source-down',
  about: 'A toolkit that hangs makes no other one late, and is polled whole again within two intervals of its return.',
  defaults: { count: 10_000 },
  flags: { down: 'seconds it hangs; default 60' },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const downSeconds = integerFrom('down', flags.down, 60, 30);
    const judge = verdicts(log);
    const each = Math.ceil(count / (OTHERS + 1));
    const rig = await startRig({
      workers: 0,
      settings: { DISPATCH_TICK: '1s', POLL_DEADLINE: '2s', POLL_WIDTH: '200' },
      log,
      fill: (sql) =>
        insertFleet(
          sql,
          ['hangs', ...Array.from({ length: OTHERS }, (_, n) => `sound-${n}`)].map((toolkit) => ({
            count: each,
            toolkit,
            tenants: 10,
            intervalSeconds: INTERVAL_S,
          })),
        ),
    });
    try {
      const { upstream, sql } = rig;
      let hanging = false;
      let hung = 0;
      const back = new Set<string>();
      const lags: { at: number; late: number }[] = [];
      const phases = new Map<string, number>();
      for (const row of await sql<
        { id: string; phase: number }[]
      >`select trigger_id as id, phase_s as phase from polling_trigger_runs
        where toolkit_h <> hash32('hangs')`)
        phases.set(row.id, row.phase);
      upstream.onPoll = ({ triggerId, toolkit, cursor, at }) => {
        const body = { events: [], cursor };
        if (toolkit === 'hangs') {
          if (!hanging) back.add(triggerId);
          else {
            hung += 1;
            return { delayMs: 60_000, body };
          }
        } else {
          const late = (at / 1000 - (phases.get(triggerId) ?? 0)) % INTERVAL_S;
          lags.push({ at, late: late < 0 ? late + INTERVAL_S : late });
        }
        return { delayMs: 20, body };
      };
      await rig.startWorker();
      await watch(
        'every toolkit to be polled',
        { everyMs: 200, withinMs: 120_000 },
        async () => back.size,
        (n) => n > each / 2,
      );
      await systemClock.sleep(15_000);
      const p99 = (from: number, to: number): number =>
        quantileOf(
          lags.flatMap(({ at, late }) => (at >= from && at < to ? [late] : [])),
          0.99,
        );
      const before = p99(Date.now() - 15_000, Date.now());
      hanging = true;
      const downAt = Date.now();
      await watch(
        'the engine to see that it is down',
        { everyMs: 200, withinMs: 120_000 },
        async () => (await sql`select from source_limits where reason = 'source_down'`).length,
        (n) => n === 1,
      );
      const noticedSeconds = (Date.now() - downAt) / 1000;
      await systemClock.sleep(Math.max(0, downSeconds * 1000 - (Date.now() - downAt)));
      const during = p99(downAt, Date.now());
      const wasted = hung;
      hanging = false;
      back.clear();
      const backAt = Date.now();
      await watch(
        'all its triggers to be polled again',
        { everyMs: 200, withinMs: 6 * INTERVAL_S * 1000 },
        async () => back.size,
        (n) => n >= each,
      );
      const recoverySeconds = (Date.now() - backAt) / 1000;
      const after = p99(backAt, Date.now());
      const [charged] = await sql<
        { halted: number }[]
      >`select count(halted_code)::int as halted from polling_trigger_runs`;
      const limit = Math.max(before * RATIO_MAX, before + LAG_SLACK_S);
      for (const [when, lag] of [
        ['while it hung', during],
        ['after it came back', after],
      ] as const)
        if (lag > limit)
          judge.missed(`the others' p99 lag was ${lag.toFixed(2)} s ${when}, ${before.toFixed(2)} s before`);
      if (recoverySeconds > 2 * INTERVAL_S)
        judge.missed(`its triggers were all polled only ${recoverySeconds.toFixed(0)} s after its return`);
      if ((charged?.halted ?? 0) > 0) judge.missed(`${charged?.halted} triggers were halted for it`);
      return {
        tried: lags.length,
        violations: judge.count,
        faults: wasted,
        othersLagP99Before: Number(before.toFixed(2)),
        othersLagP99During: Number(during.toFixed(2)),
        othersLagP99After: Number(after.toFixed(2)),
        noticedSeconds: Number(noticedSeconds.toFixed(1)),
        recoverySeconds: Number(recoverySeconds.toFixed(1)),
        intervalSeconds: INTERVAL_S,
        pollsWasted: wasted,
        itsTriggers: each,
      };
    } finally {
      await rig.stop();
    }
  },
};
