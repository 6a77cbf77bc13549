/**
 * What networks do, before every part: for some seconds each fault of a TCP proxy stands between both workers of an engine
 * and one of its servers, while new work comes in. Then it goes away, and everything has to be delivered, with nothing lost,
 * leased or stale, by the same two processes. The worker clocks are an hour ahead and an hour behind all the while: leases
 * and due times are the database's, so nothing may come of it.
 */
import { systemClock as clock } from '@milkrun/core';
import type { Fault } from '@milkrun/testkit';
import { startLab } from './lib/engine/lab.ts';
import { openSite, PARTS } from './lib/engine/site.ts';
import { TRIGGER_KINDS } from './lib/engine/world.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const FAULTS: readonly Fault[] = [
  { kind: 'latency', ms: 200, jitterMs: 150 },
  { kind: 'bandwidth', bytesPerSecond: 20_000 },
  { kind: 'slice', bytes: 7, ms: 1 },
  { kind: 'reset' },
  { kind: 'lose_answer' },
  { kind: 'limit', bytes: 100 },
  { kind: 'half_open' },
  { kind: 'black_hole' },
  { kind: 'refuse' },
];
const PAIRS = PARTS.flatMap((part) => FAULTS.map((fault) => ({ part, fault })));
const FAULT_MS = 6_000;
const HOUR_MS = 3_600_000;
/** Breakers, back-off and silent connections take their time-outs to notice. */
const SETTLE_MS = 300_000;

export const drill: Drill = {
  name: 'proxies',
  about:
    'Latency, resets, lost answers, half-open connections and the like before every part, clocks an hour off: nothing lost.',
  defaults: { count: 6 },
  fullCount: PAIRS.length,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    const order = PAIRS.map((pair) => ({ pair, at: random() })).toSorted((a, b) => a.at - b.at);
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    let faults = 0;
    const lab = await startLab(1);
    try {
      const site = await openSite(lab, 0);
      const members = await Promise.all(
        [HOUR_MS, -HOUR_MS].map((offset) => site.start({ env: { DRILL_CLOCK_OFFSET_MS: String(offset) } })),
      );
      await Promise.all(members.map(({ worker }) => worker.ready));
      for (let n = 0; n < count; n += 1) {
        const { part, fault } = (order[n % order.length] as (typeof order)[number]).pair;
        const startedAt = performance.now();
        for (const { proxies } of members) proxies[part].set(fault);
        const ids = site.world.add(TRIGGER_KINDS);
        await clock.sleep(FAULT_MS / 2);
        site.world.grow(ids, 2);
        await clock.sleep(FAULT_MS / 2);
        const fired = members.reduce((sum, { proxies }) => sum + proxies[part].fired(), 0);
        faults += fired;
        if (fired === 0) report(`${fault.kind} before ${part} met nothing`);
        for (const { proxies } of members) proxies[part].set(undefined);
        for (const wrong of await site.settle(SETTLE_MS)) report(`${fault.kind} before ${part}: ${wrong}`);
        for (const { worker } of members) {
          if (worker.isGone())
            throw new Error(`${fault.kind} before ${part}: a worker ended with ${await worker.gone}: ${worker.said()}`);
        }
        const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
        log(`${n + 1} of ${count}: ${fault.kind} before ${part} met ${fired} times; all is well after ${seconds} s`);
      }
      const figures = { events: site.world.accepted(), repeats: site.world.repeats() };
      await site.close();
      return { tried: count, violations, faults, pairs: PAIRS.length, ...figures };
    } finally {
      await lab.close();
    }
  },
};
