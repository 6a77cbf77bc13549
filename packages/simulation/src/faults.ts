/**
 * Faults of a run. Each seed arms some kinds and leaves the others out (a swarm: some bugs show only when something else
 * stays quiet), each at a rate of its own. Every fault that fires has a number, so that a shrunk run can leave it out.
 */
import type { Random } from './random.ts';

/** What may happen to a call on a port. */
export const CALL_FAULTS = [
  'fail_before',
  'fail_after',
  'time_out',
  'delay',
  'late_answer',
  'duplicate',
  'stale',
  'corrupt',
  'truncate',
  'throttle',
  'scramble',
  'refuse',
  'verdict',
] as const;

/** What may happen to a process, to Temporal or to a batch, at a moment of its own. */
export const MOMENT_FAULTS = ['crash', 'pause', 'clock_jump', 'drain', 'temporal_away', 'cancel', 'gone'] as const;

export type CallFault = (typeof CALL_FAULTS)[number];
type MomentFault = (typeof MOMENT_FAULTS)[number];
export type FaultKind = CallFault | MomentFault;

export interface FiredFault {
  readonly number: number;
  readonly timeMs: number;
  readonly kind: FaultKind;
  readonly site: string;
}

const ARMED = 0.4;
/** Share of seeds without any fault: what they deliver is exact. */
const QUIET_SEEDS = 0.05;
const RATES = [0.004, 0.01, 0.03, 0.1];

export class Faults {
  /** False once the second phase has begun. */
  active = true;
  readonly fired: FiredFault[] = [];
  private readonly rates = new Map<FaultKind, number>();
  private readonly random: Random;
  private readonly left: ReadonlySet<number>;
  private readonly time: () => number;
  private count = 0;

  /** `left`: numbers of faults to leave out. */
  constructor(random: Random, time: () => number, left: ReadonlySet<number> = new Set()) {
    this.random = random;
    this.time = time;
    this.left = left;
    const isQuiet = random.chance(QUIET_SEEDS);
    for (const kind of [...CALL_FAULTS, ...MOMENT_FAULTS]) {
      const armed = random.chance(ARMED);
      const rate = random.pick(RATES);
      if (armed && !isQuiet) this.rates.set(kind, rate);
    }
  }

  isArmed(kind: FaultKind): boolean {
    return this.rates.has(kind);
  }

  /** The fault that strikes a call which may suffer `kinds`, if any. */
  strike<K extends CallFault>(kinds: readonly K[], site: string): K | undefined {
    if (!this.active) return undefined;
    for (const kind of kinds) {
      const rate = this.rates.get(kind);
      if (rate === undefined || !this.random.chance(rate)) continue;
      return this.fire(kind, site) ? kind : undefined;
    }
    return undefined;
  }

  /** Whether a planned moment's fault really happens. */
  fire(kind: FaultKind, site: string): boolean {
    this.count += 1;
    if (this.left.has(this.count)) return false;
    this.fired.push({ number: this.count, timeMs: this.time(), kind, site });
    return true;
  }
}
