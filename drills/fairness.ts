/**
 * One tenant has nine of ten due triggers, and its polls are slow; everybody else's are quick. The others must not notice:
 * waited is from the due time to the poll, counted where the poll arrives.
 *
 * The others' median is their own, in the same run: what the machine can do divides out.
 */
import { systemClock } from '@milkrun/core';
import { insertFleet, quantileOf, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const INTERVAL_S = 60;
const RATIO_MAX = 2;
const SLOW_MS = 1500;
const QUICK_MS = 20;
const OTHERS = 9;

export const drill: Drill = {
  name: 'fairness',
  about: 'One tenant with nine tenths of the due triggers and slow polls does not make the others wait.',
  defaults: { count: 20_000 },
  flags: { seconds: 'how long it is measured; default 60' },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const seconds = integerFrom('seconds', flags.seconds, 60, 30);
    const judge = verdicts(log);
    const slow = Math.floor(count * 0.9);
    const other = Math.ceil((count - slow) / OTHERS);
    const rig = await startRig({
      workers: 0,
      settings: { POLL_WIDTH: '200' },
      log,
      // All of the big tenant's are due at once, and again every minute; the others' come due all the time.
      fill: (sql) =>
        insertFleet(sql, [
          { count: slow, toolkit: 'slow', tenant: 'big', intervalSeconds: INTERVAL_S, dueAt: 'statement_timestamp()' },
          ...Array.from({ length: OTHERS }, (_, n) => ({
            count: other,
            toolkit: `quick-${n}`,
            tenant: `small-${n}`,
            intervalSeconds: INTERVAL_S,
          })),
        ]),
    });
    try {
      let slowPolls = 0;
      const polled: { triggerId: string; at: number }[] = [];
      rig.upstream.onPoll = ({ triggerId, toolkit, cursor, at }) => {
        if (toolkit === 'slow') slowPolls += 1;
        else polled.push({ triggerId, at });
        return { delayMs: toolkit === 'slow' ? SLOW_MS : QUICK_MS, body: { events: [], cursor } };
      };
      const phases = new Map<string, number>();
      for (const row of await rig.sql<
        { id: string; phase: number }[]
      >`select trigger_id as id, phase_s as phase from polling_trigger_runs
        where toolkit_h <> hash32('slow')`)
        phases.set(row.id, row.phase);
      await rig.startWorker();
      await watch(
        'the big tenant to be polled',
        { everyMs: 200, withinMs: 60_000 },
        async () => slowPolls,
        (n) => n > 200,
      );
      polled.length = 0;
      await systemClock.sleep(seconds * 1000);
      // A slot of a trigger is every INTERVAL_S from its phase on: the poll waited since the last one before it.
      const waits = polled.map(({ triggerId, at }) => {
        const late = (at / 1000 - (phases.get(triggerId) ?? 0)) % INTERVAL_S;
        return late < 0 ? late + INTERVAL_S : late;
      });
      const [p50, p99] = [quantileOf(waits, 0.5), quantileOf(waits, 0.99)];
      const wanted = (other * OTHERS * seconds) / INTERVAL_S;
      const [row] = await rig.sql<{ due: number }[]>`
        select count(*)::int as due from polling_trigger_runs where toolkit_h = hash32('slow') and next_poll_at < statement_timestamp()`;
      const othersP99OverMedian = p99 / p50;
      if (!(othersP99OverMedian <= RATIO_MAX))
        judge.missed(`the others' p99 wait is ${othersP99OverMedian.toFixed(2)} x the median`);
      if (polled.length < wanted * 0.95) judge.missed(`the others had ${polled.length} polls of ${Math.round(wanted)}`);
      if (!((row?.due ?? 0) > 0)) judge.missed('the big tenant had no backlog: nothing was proved');
      return {
        tried: polled.length,
        violations: judge.count,
        faults: slowPolls,
        othersP99OverMedian: Number(othersP99OverMedian.toFixed(2)),
        othersMedianSeconds: Number(p50.toFixed(2)),
        othersP99Seconds: Number(p99.toFixed(2)),
        bigTenantPolls: slowPolls,
        bigTenantDueAtEnd: row?.due ?? 0,
      };
    } finally {
      await rig.stop();
    }
  },
};
