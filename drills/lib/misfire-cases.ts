/** What may happen to a schedule, each combination once, with the runs that have to come of it. */

const OUTAGES = ['workers', 'server', 'reconciler', 'twice'] as const;

const POLICIES = [
  { name: 'skip', misfire: { policy: 'skip' } },
  { name: 'skip within grace', misfire: { policy: 'skip', grace: '6h' } },
  { name: 'catchup 2', misfire: { policy: 'catchup', max: 2 } },
  { name: 'catchup 10', misfire: { policy: 'catchup', max: 10 } },
  { name: 'compress', misfire: { policy: 'compress' } },
] as const;
const TICKS = [1, 3, 5, 6] as const;

export interface MisfireCase {
  readonly policy: (typeof POLICIES)[number];
  /**
   * `workers`: the server fired on time and nobody took the runs. `server`: the server was away and catches up under the overlap
   * policy of the schedule. `reconciler`: nobody fired at all. `twice`: as `workers`, and later the same ticks again.
   */
  readonly outage: (typeof OUTAGES)[number];
  /** Runs stay open until a person has completed their task, so that later ticks find one open. */
  readonly busy: boolean;
  /** The worker is killed with -9 while it opens the runs. */
  readonly restart: boolean;
  /** Ticks that came in the outage. */
  readonly ticks: number;
}

export function misfireCases(): MisfireCase[] {
  const cases: MisfireCase[] = [];
  for (const policy of POLICIES)
    for (const outage of OUTAGES)
      for (const busy of [false, true])
        for (const restart of [false, true])
          for (const ticks of TICKS) {
            // Which of them the server skips is a matter of its pace, so there is no exact count to hold it to.
            if (policy.name === 'skip within grace' && outage === 'server' && ticks > 1) continue;
            cases.push({ policy, outage, busy, restart, ticks });
          }
  return cases;
}

/** The runs that are carried out, as the published table says. */
export function wantedRuns({ policy, outage, ticks }: MisfireCase): number {
  const { misfire } = policy;
  if (misfire.policy === 'compress') return 1;
  if (misfire.policy === 'catchup') return Math.min(ticks, misfire.max);
  // Within its grace a tick that nobody fired is not late yet.
  return policy.name === 'skip' || outage === 'reconciler' ? 0 : ticks;
}
