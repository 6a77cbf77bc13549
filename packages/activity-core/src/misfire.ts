/**
 * What becomes of a tick when its run is opened: decided here and nowhere else, from the mark `covered`.
 *
 * The overlap policy and catch-up window of the schedule are only set to match. They do not decide: the server keeps the
 * oldest tick of an outage, forgets what was due while it was paused, and lets a backfill run a tick again.
 */
import { dueTicks, namingOf, type TickRule } from './ticks.ts';

export interface MisfirePolicy {
  readonly policy: 'skip' | 'catchup' | 'compress';
  /** `skip`: a tick older than this is missed. */
  readonly graceMs: number;
  /** `catchup`, `compress`: a tick older than this is missed. */
  readonly windowMs: number;
  /** `catchup`: runs at most for this many of the newest due ticks. */
  readonly max: number;
}

export interface TickInput {
  readonly rule: TickRule;
  readonly misfire: MisfirePolicy;
  /** Nominal time of the tick, without jitter. */
  readonly nominalMs: number;
  readonly nowMs: number;
  /** The latest nominal tick that was dealt with. */
  readonly coveredMs: number;
}

export interface TickDecision {
  readonly outcome: 'run' | 'missed' | 'coalesced';
  /** Why it does not run, in a sentence. */
  readonly reason: string | null;
  /** The mark afterwards; it never goes back. */
  readonly coveredMs: number;
  /** For `run`: the ticks it stands for, (after, until]. */
  readonly window: TickWindow | null;
}

export interface TickWindow {
  readonly startMs: number;
  readonly endMs: number;
  /** Instants of the ticks it stands for beside its own, at most 1,000. */
  readonly missed: readonly number[];
  /** How many they are. */
  readonly missedCount: number;
}

const MISSED_SHOWN = 1_000;
/** A window is counted to its end; one tick a minute for a year is half a million. */
const COUNTED_MAX = 600_000;

export function decideTick(input: TickInput): TickDecision {
  const { rule, misfire, nominalMs, nowMs, coveredMs } = input;
  const forward = Math.max(coveredMs, nominalMs);
  const not = (outcome: 'missed' | 'coalesced', reason: string, mark = forward): TickDecision => ({
    outcome,
    reason,
    coveredMs: mark,
    window: null,
  });
  if (namingOf(rule, nominalMs) === 'unnamed') {
    return not('coalesced', 'the expression does not name this time in its zone', coveredMs);
  }
  const lateMs = nowMs - nominalMs;
  if (misfire.policy === 'skip') {
    if (lateMs > misfire.graceMs) return not('missed', `${seconds(lateMs)} late; grace is ${seconds(misfire.graceMs)}`);
    return alone(input, forward);
  }
  if (lateMs > misfire.windowMs)
    return not('missed', `${seconds(lateMs)} late; the window is ${seconds(misfire.windowMs)}`);
  if (misfire.policy === 'catchup') {
    const { ticks: later } = dueTicks(rule, nominalMs, nowMs, misfire.max);
    if (later.length >= misfire.max) return not('missed', `${misfire.max} later ticks are due already`);
    return alone(input, forward);
  }
  if (nominalMs <= coveredMs) return not('coalesced', 'an earlier run stands for it');
  const earliest = Math.max(coveredMs, nowMs - misfire.windowMs - 1);
  const { ticks } = dueTicks(rule, earliest, nowMs, COUNTED_MAX);
  // A tick may be opened a moment early by a clock that is behind the server's.
  const latest = Math.max(nominalMs, ticks.at(-1) ?? nominalMs);
  const others = ticks.filter((at) => at !== latest);
  return {
    outcome: 'run',
    reason: null,
    coveredMs: latest,
    window: { startMs: coveredMs, endMs: latest, missed: others.slice(0, MISSED_SHOWN), missedCount: others.length },
  };
}

function alone({ nominalMs, coveredMs }: TickInput, forward: number): TickDecision {
  const window = { startMs: Math.min(coveredMs, nominalMs), endMs: nominalMs, missed: [], missedCount: 0 };
  return { outcome: 'run', reason: null, coveredMs: forward, window };
}

const seconds = (ms: number): string => `${Math.round(ms / 1000)} s`;
