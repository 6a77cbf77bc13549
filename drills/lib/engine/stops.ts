/** One site whose server is stopped again and again while two workers poll: what the drills of stops share. */
import { type Lab, startLab } from './lab.ts';
import { openSite, type Site } from './site.ts';

const SETTLE_MS = 240_000;

export interface StopsInput {
  readonly count: number;
  /** Stops between two settlements. */
  readonly round: number;
  readonly report: (problem: string) => void;
  /** Opens the site; by default with a database of its own. */
  readonly open?: (lab: Lab) => Promise<Site>;
  /** Load, stop, start, and the wait until work goes on; `n` counts from 0. */
  readonly stop: (at: { readonly lab: Lab; readonly site: Site; readonly n: number }) => Promise<void>;
}

/** Answers the stops made and what was delivered. Throws when a worker has ended by itself. */
export async function stopAgainAndAgain(input: StopsInput) {
  const { count, round, report, open = (lab: Lab) => openSite(lab, 0), stop } = input;
  const lab = await startLab(1, { durable: true });
  try {
    const site = await open(lab);
    const members = await Promise.all([site.start(), site.start()]);
    await Promise.all(members.map(({ worker }) => worker.ready));
    for (let n = 0; n < count; n += 1) {
      await stop({ lab, site, n });
      for (const { worker } of members)
        if (worker.isGone()) throw new Error(`a worker ended by itself with ${await worker.gone}: ${worker.said()}`);
      if (n % round === round - 1 || n === count - 1) for (const wrong of await site.settle(SETTLE_MS)) report(wrong);
    }
    const figures = { events: site.world.accepted(), repeats: site.world.repeats() };
    await site.close();
    return { tried: count, faults: count, ...figures };
  } finally {
    await lab.close();
  }
}
