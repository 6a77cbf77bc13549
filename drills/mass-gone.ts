/**
 * A routing mistake: every trigger's events are answered with `gone`. The brake halts a few, parks the rest, and one
 * command restores the halted ones.
 *
 * Scaled: ten minutes are `--seconds` of real time (default 60) with a polling interval scaled alike, so each trigger is
 * polled as often as with 30 s intervals over ten minutes.
 */
import { randomUUID } from 'node:crypto';
import { systemClock } from '@milkrun/core';
import { insertFleet, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const PER_RUN = 20;

export const drill: Drill = {
  name: 'mass-gone',
  about: 'When the receiver says 410 for everything, the brake holds, and one command restores what was halted.',
  defaults: { count: 5000 },
  fullCount: 20_000,
  flags: { seconds: 'how long everything is gone; default 60' },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const seconds = integerFrom('seconds', flags.seconds, 60, 20);
    const intervalSeconds = Math.max(3, Math.round(seconds / PER_RUN));
    const judge = verdicts(log);
    const rig = await startRig({
      workers: 0,
      settings: { DISPATCH_TICK: '1s', LIVENESS_EVERY: '5s' },
      log,
      fill: (sql) => insertFleet(sql, [{ count, toolkit: 'source', tenants: 50, intervalSeconds }]),
    });
    try {
      const { upstream, sql } = rig;
      let gone = 0;
      upstream.onPoll = ({ cursor }) => ({ body: { events: [{ key: randomUUID(), data: {} }], cursor } });
      upstream.onResult = () => {
        gone += 1;
        return 'gone';
      };
      const [counted] = await sql<{ polled: number }[]>`update fleet set polled = ${count} returning polled::int`;
      const limit = Math.max(50, Math.ceil((counted?.polled ?? 0) * 0.05));
      for (let n = 0; n < 2; n += 1) await rig.startWorker();
      const halted = async (): Promise<number> =>
        (await sql<{ n: number }[]>`select count(*)::int as n from polling_trigger_runs where halted_code = 3`)[0]?.n ??
        0;
      await watch(
        'the receiver to say it is gone',
        { everyMs: 200, withinMs: 60_000 },
        async () => gone,
        (n) => n > 0,
      );
      let haltedMax = 0;
      const until = performance.now() + seconds * 1000;
      while (performance.now() < until) {
        haltedMax = Math.max(haltedMax, await halted());
        await systemClock.sleep(1000);
      }
      const braked = (await rig.engine<{ braked?: boolean }>('/fleet')).braked;
      upstream.onResult = () => 'accepted';
      const { cleared } = await rig.engine<{ cleared: number }>('/halts/clear', { code: 'receiver_gone' });
      const since = performance.now();
      const left = await watch(
        'everything to be polled and delivered again',
        { everyMs: 500, withinMs: 420_000 },
        async () => {
          const [row] = await sql<{ n: number }[]>`
            select count(*)::int as n from polling_trigger_runs t where halted_code is not null
              or not exists (select from poll_log l where l.trigger_id = t.trigger_id and l.events > 0)`;
          return row?.n ?? 0;
        },
        (n) => n === 0,
      );
      if (haltedMax > limit) judge.missed(`${haltedMax} triggers were halted, above the brake's limit of ${limit}`);
      if (haltedMax === 0) judge.missed('nobody was halted: nothing was proved');
      if (cleared !== haltedMax) judge.missed(`the command restored ${cleared} of ${haltedMax}`);
      if (left > 0) judge.missed(`${left} triggers did not come back`);
      const [records] = await sql<{ halted: number; resumed: number }[]>`
        select count(*) filter (where state = 'halted')::int as halted, count(*) filter (where state = 'resumed')::int as resumed from lifecycle_outbox`;
      if (records?.halted !== haltedMax || records?.resumed !== cleared)
        judge.missed(`not every halt is recorded: ${JSON.stringify(records)}`);
      return {
        tried: gone,
        violations: judge.count,
        faults: gone,
        triggers: count,
        brakeLimit: limit,
        halted: haltedMax,
        restored: cleared,
        braked: braked ?? null,
        restoreSeconds: Number(((performance.now() - since) / 1000).toFixed(1)),
        intervalSeconds,
      };
    } finally {
      await rig.stop();
    }
  },
};
