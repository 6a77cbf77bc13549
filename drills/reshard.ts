/**
 * 8 → 16 → 4 timer shards while everything is polled all the time. Every due time gets its poll, and none gets two: a
 * trigger's slots are known from its phase, so each arrival belongs to one.
 */
import { systemClock } from '@milkrun/core';
import { insertFleet, quantileOf, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const INTERVAL_S = 30;
/** How late a poll may be beyond its interval: a tick, a liveness check and the load of the machine. */
const GRACE_S = 60;
const SHARDS = [8, 16, 4] as const;

export const drill: Drill = {
  name: 'reshard',
  about: 'Timer shards are divided anew under load, 8 to 16 to 4: no poll is missed, none is made twice.',
  defaults: { count: 2000 },
  flags: { seconds: 'between two verbs; default 35', workers: 'worker processes; default 2' },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const seconds = integerFrom('seconds', flags.seconds, 35, 10);
    const workers = integerFrom('workers', flags.workers, 2, 1);
    const judge = verdicts(log);
    const rig = await startRig({
      workers: 0,
      timerShards: SHARDS[0],
      settings: { DISPATCH_TICK: '2s', BATCH_SIZE: '500' },
      log,
      fill: (sql) => insertFleet(sql, [{ count, toolkit: 'source', tenants: 10, intervalSeconds: INTERVAL_S }]),
    });
    try {
      const { upstream, sql } = rig;
      const arrivals = new Map<string, number[]>();
      let polls = 0;
      upstream.onPoll = ({ triggerId, cursor, at }) => {
        polls += 1;
        const of = arrivals.get(triggerId);
        if (of === undefined) arrivals.set(triggerId, [at]);
        else of.push(at);
        return { delayMs: 50, body: { events: [], cursor } };
      };
      for (let n = 0; n < workers; n += 1) await rig.startWorker();
      await watch(
        'every trigger to be polled',
        { everyMs: 200, withinMs: 90_000 },
        async () => arrivals.size,
        (n) => n === count,
      );
      const startedAt = Date.now();
      let batchesOpen = 0;
      for (const shards of SHARDS.slice(1)) {
        await systemClock.sleep(seconds * 1000);
        const [open] = await sql<{ n: number }[]>`select count(*)::int as n from batches where ended_at is null`;
        const { before } = await rig.engine<{ before: number }>('/shards', { count: shards });
        batchesOpen += open?.n ?? 0;
        log(`${before} -> ${shards} timer shards, with ${open?.n} batches open`);
        const rows = await sql<
          { timer_shard: number; n: number }[]
        >`select timer_shard, cardinality(serves) as n from timer_shards`;
        const served = rows.reduce((sum, row) => sum + row.n, 0);
        if (rows.length !== shards || served !== 64)
          judge.missed(`${rows.length} timer shards serve ${served} storage shards`);
      }
      await systemClock.sleep(seconds * 1000);
      // Let what has begun end, then compare: nothing is polled any more.
      await rig.engine('/holds', { all: true, seconds: 600 });
      const [now] = await sql<{ at: Date }[]>`select statement_timestamp() as at`;
      await watch(
        'what is under way to end',
        { everyMs: 200, withinMs: 120_000 },
        async () =>
          (
            await sql<{ n: number }[]>`select count(*)::int as n from batches where ended_at is null and
          (expires_at > statement_timestamp() or (claimed_at is null and started_at > statement_timestamp() - interval '60 s'))`
          )[0]?.n ?? 0,
        (n) => n === 0,
      );
      const endedAt = now?.at.getTime() ?? Date.now();
      const runs = await sql<{ id: string; phase: number; epoch: number; committed: number }[]>`
        select trigger_id as id, phase_s as phase, lease_epoch as epoch, last_committed_epoch as committed from polling_trigger_runs`;
      let [missed, doubled] = [0, 0];
      const gaps: number[] = [];
      for (const { id, phase, epoch, committed } of runs) {
        const times = arrivals.get(id) ?? [];
        if (times.length !== committed || epoch !== committed) doubled += 1;
        const slots = times.map((at) => Math.floor((at / 1000 - phase) / INTERVAL_S));
        if (new Set(slots).size !== slots.length) doubled += 1;
        const all = [...times.filter((at) => at > startedAt), endedAt];
        let before = times.findLast((at) => at <= startedAt) ?? startedAt;
        for (const at of all) {
          const gap = (at - before) / 1000;
          gaps.push(gap);
          if (gap > INTERVAL_S + GRACE_S) missed += 1;
          before = at;
        }
      }
      const left: string[] = [];
      for (let shard = 0; shard < Math.max(...SHARDS); shard += 1) {
        const { status } = await rig.client.workflow.getHandle(`timer-shard:${shard}`).describe();
        if ((status.name === 'RUNNING') !== shard < (SHARDS.at(-1) ?? 0)) left.push(`${shard} ${status.name}`);
      }
      if (missed > 0) judge.missed(`${missed} due times went by without a poll within ${INTERVAL_S + GRACE_S} s`);
      if (doubled > 0) judge.missed(`${doubled} triggers were polled twice for one due time`);
      if (left.length > 0) judge.missed(`workflows that should not be as they are: ${left.join(', ')}`);
      return {
        tried: polls,
        violations: judge.count,
        faults: SHARDS.length - 1,
        triggers: count,
        missed,
        double: doubled,
        gapSecondsP99: Number(quantileOf(gaps, 0.99).toFixed(1)),
        gapSecondsMax: Number(Math.max(...gaps).toFixed(1)),
        batchesOpenAtVerbs: batchesOpen,
        intervalSeconds: INTERVAL_S,
      };
    } finally {
      await rig.stop();
    }
  },
};
