/**
 * Temporal killed and started again under an engine that polls. Its state is on disk; what it had not acknowledged is gone.
 * Timers and batches wait, leases run out, and when it is back everything goes on by itself: nothing lost, no lease left.
 */
import { systemClock as clock } from '@milkrun/core';
import { eventually } from './lib/engine/site.ts';
import { stopAgainAndAgain } from './lib/engine/stops.ts';
import { TRIGGER_KINDS } from './lib/engine/world.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const ROUND = 5;
const RUN_MS = 3_000;
/** Away for up to this long: also longer than a lease. */
const AWAY_MS = 20_000;
const AGAIN_MS = 180_000;

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
    let goneOnSecondsMax = 0;
    const result = await stopAgainAndAgain({
      ...{ count, report, round: ROUND },
      async stop({ lab, site, n }) {
        const ids = site.world.add(TRIGGER_KINDS);
        await clock.sleep(random() * RUN_MS);
        await lab.killTemporal();
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
      },
    });
    return { ...result, violations, goneOnSecondsMax };
  },
};
