/** The misfire decision: what becomes of a tick, from the mark of what was dealt with before. */
import { expect, it } from 'vitest';
import { decideTick, type MisfirePolicy, parseCron, type TickDecision, type TickRule, zoneOf } from '../src/index.ts';

const MINUTE = 60_000;
const T0 = Date.parse('2026-03-02T08:00:00Z');
const every: TickRule = { cron: parseCron('* * * * *'), zone: zoneOf('UTC'), repeat: 'both', gap: 'skip' };
const policy = (over: Partial<MisfirePolicy>): MisfirePolicy => ({
  policy: 'skip',
  graceMs: MINUTE,
  windowMs: 7 * 86_400_000,
  max: 10,
  ...over,
});
const at = (minute: number): number => T0 + minute * MINUTE;

/** Ticks 1…n come in order at `now`, each with the mark the one before left: what a queue does after an outage. */
function play(misfire: MisfirePolicy, nominals: readonly number[], now: number, covered = 0): TickDecision[] {
  const decisions: TickDecision[] = [];
  let mark = at(covered);
  for (const nominal of nominals) {
    const decision = decideTick({ rule: every, misfire, nominalMs: at(nominal), nowMs: at(now), coveredMs: mark });
    expect(decision.coveredMs).toBeGreaterThanOrEqual(mark);
    mark = decision.coveredMs;
    decisions.push(decision);
  }
  return decisions;
}
const outcomes = (decisions: readonly TickDecision[]): string => decisions.map(({ outcome }) => outcome[0]).join('');

it('A17: skip runs a tick within its grace and misses one that is older, though the server started it', () => {
  expect(outcomes(play(policy({}), [1], 2))).toBe('r');
  expect(outcomes(play(policy({}), [1], 2.1))).toBe('m');
  expect(play(policy({}), [1], 12)[0]?.reason).toBe('660 s late; grace is 60 s');
  expect(outcomes(play(policy({ graceMs: 10 * MINUTE }), [1, 2, 3], 5))).toBe('rrr');
});

it('A18: catchup runs at most for the newest of what is due', () => {
  expect(outcomes(play(policy({ policy: 'catchup', max: 3 }), [1, 2, 3, 4, 5], 5.5))).toBe('mmrrr');
  expect(outcomes(play(policy({ policy: 'catchup' }), [1, 2, 3, 4, 5], 5.5))).toBe('rrrrr');
  expect(outcomes(play(policy({ policy: 'catchup', max: Number.POSITIVE_INFINITY }), [1, 2], 5_000))).toBe('rr');
  expect(outcomes(play(policy({ policy: 'catchup', windowMs: 2 * MINUTE, max: 100 }), [1, 4], 5))).toBe('mr');
});

it('A19: compress makes one run whose window covers all missed ticks; the rest is coalesced', () => {
  const decisions = play(policy({ policy: 'compress' }), [1, 2, 3, 4, 5], 5.5);
  expect(outcomes(decisions)).toBe('rcccc');
  expect(decisions[0]?.window).toEqual({
    startMs: at(0),
    endMs: at(5),
    missed: [at(1), at(2), at(3), at(4)],
    missedCount: 4,
  });
  expect(decisions.at(-1)?.coveredMs).toBe(at(5));
});

it('A19: compress is right whichever of the missed ticks the server keeps', () => {
  expect(outcomes(play(policy({ policy: 'compress' }), [1, 2], 5.5))).toBe('rc');
  expect(outcomes(play(policy({ policy: 'compress' }), [5], 5.5))).toBe('r');
  expect(outcomes(play(policy({ policy: 'compress' }), [5, 1, 3], 5.5))).toBe('rcc');
});

it('A19: the window of compress ends at what is due and begins no earlier than its own limit', () => {
  const [decision] = play(policy({ policy: 'compress', windowMs: 3 * MINUTE }), [5], 5.5);
  expect(decision?.window?.missed).toEqual([at(3), at(4)]);
  const long = decideTick({
    rule: every,
    misfire: policy({ policy: 'compress' }),
    nominalMs: at(3_000),
    nowMs: at(3_000),
    coveredMs: at(0),
  });
  expect([long.window?.missed.length, long.window?.missedCount]).toEqual([1_000, 2_999]);
});

it('a run that is opened twice for one tick: compress coalesces, the others leave it to the key of the run', () => {
  expect(outcomes(play(policy({ policy: 'compress' }), [1, 1], 1.2))).toBe('rc');
});

it('a clock a moment behind the server’s still runs the tick', () => {
  expect(play(policy({ policy: 'compress' }), [1], 0.99)[0]).toMatchObject({ outcome: 'run', coveredMs: at(1) });
});

it('a time the expression does not name is no tick and moves no mark', () => {
  const london: TickRule = { cron: parseCron('0 0 * * *'), zone: zoneOf('Europe/London'), repeat: 'once', gap: 'skip' };
  const nominalMs = Date.parse('2026-10-25T00:00:00Z');
  const decision = decideTick({ rule: london, misfire: policy({}), nominalMs, nowMs: nominalMs, coveredMs: T0 });
  expect(decision).toMatchObject({ outcome: 'coalesced', coveredMs: T0 });
});

it('A21: what counts is the nominal time: a jittered start within grace runs', () => {
  const decision = decideTick({
    rule: every,
    misfire: policy({}),
    nominalMs: at(1),
    nowMs: at(1) + 45_000,
    coveredMs: at(0),
  });
  expect(decision).toMatchObject({ outcome: 'run', window: { endMs: at(1) } });
});
