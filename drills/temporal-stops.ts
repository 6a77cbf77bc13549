/**
 * Temporal killed and started again under an engine that polls. Its state is on disk; what it had not acknowledged is gone.
 * Timers and batches wait, leases run out, and when it is back everything goes on by itself: nothing lost, no lease left.
 */
import { systemClock as clock } from '@milkrun/core';
import { startLab } from './lib/engine/lab.ts';
import { eventually, openSite } from './lib/engine/site.ts';
import { TRIGGER_KINDS } from './lib/engine/world.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const ROUND = 5;
const RUN_MS = 3_000;
/** Away for up to this long: also longer than a lease. */
const AWAY_MS = 20_000;
const AGAIN_MS = 180_000;
const SETTLE_MS = 240_000;

export const drill: Drill = {
  name: 'temporal-stops',
  about: 'Temporal killed under load and started again: nothing lost, no lease left, the workers go on by themselves.',
  defaults: { count: 6 },
  fullCount: 50,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    const lab = await startLab(1, { durable: true });
    let stops = 0;
    let goneOnSecondsMax = 0;
    try {
      const site = await openSite(lab, 0);
      const members = await Promise.all([site.start(), site.start()]);
      await Promise.all(members.map(({ worker }) => worker.ready));
      for (let n = 0; n < count; n += 1) {
        const ids = site.world.add(TRIGGER_KINDS);
        await clock.sleep(random() * RUN_MS);
        await lab.killTemporal();
        stops += 1;
        const awayMs = random() ** 2 * AWAY_MS;
        await clock.sleep(awayMs);
        await lab.startTemporal();
        const startedAt = performance.now();
        const plain = ids.slice(0, 1);
        site.world.grow(plain, 2);
        if (!(await eventually(AGAIN_MS, () => site.world.missing(plain).length === 0)))
          report(`nothing went on after stop ${n + 1}`);
        const seconds = Number(((performance.now() - startedAt) / 1000).toFixed(1));
        goneOnSecondsMax = Math.max(goneOnSecondsMax, seconds);
        log(`stop ${n + 1} of ${count}: away for ${(awayMs / 1000).toFixed(1)} s, delivering again after ${seconds} s`);
        for (const { worker } of members)
          if (worker.isGone()) throw new Error(`a worker ended by itself with ${await worker.gone}: ${worker.said()}`);
        if (n % ROUND === ROUND - 1 || n === count - 1) for (const wrong of await site.settle(SETTLE_MS)) report(wrong);
      }
      const figures = { events: site.world.accepted(), repeats: site.world.repeats(), goneOnSecondsMax };
      await site.close();
      return { tried: stops, violations, faults: stops, ...figures };
    } finally {
      await lab.close();
    }
  },
};
