import fc from 'fast-check';
import { expect, it } from 'vitest';
import { armGapMs, IDLE_MS_MAX, pauseMs } from '../src/index.ts';

const outcomes = fc.record({
  left: fc.nat(10_000),
  wakeInMs: fc.nat(7_200_000),
  tickMs: fc.integer({ min: 100, max: 60_000 }),
  again: fc.boolean(),
});

it('never ticks before the tick nor sleeps longer than a minute', () => {
  fc.assert(
    fc.property(outcomes, (outcome) => {
      const pause = pauseMs(outcome);
      expect(pause).toBeGreaterThanOrEqual(outcome.tickMs);
      expect(pause).toBeLessThanOrEqual(IDLE_MS_MAX);
      expect(armGapMs(outcome)).toBeLessThanOrEqual(pause);
    }),
  );
});

it.each([
  ['rows left wait for the tick', { left: 3, wakeInMs: 0, tickMs: 10_000, again: false }, 10_000, 100],
  ['a wake that has passed is like rows left', { left: 0, wakeInMs: 0, tickMs: 10_000, again: false }, 10_000, 100],
  ['due within the tick waits for it', { left: 0, wakeInMs: 2_000, tickMs: 10_000, again: false }, 10_000, 1_000],
  [
    'an idle shard sleeps to its next due time',
    { left: 0, wakeInMs: 42_000, tickMs: 10_000, again: false },
    42_000,
    1_000,
  ],
  ['and a minute at the most', { left: 0, wakeInMs: 900_000, tickMs: 10_000, again: false }, 60_000, 1_000],
  [
    'a failed start is tried again at the tick',
    { left: 0, wakeInMs: 900_000, tickMs: 2_000, again: true },
    2_000,
    1_000,
  ],
])('%s', (_, outcome, pause, gap) => {
  expect([pauseMs(outcome), armGapMs(outcome)]).toEqual([pause, gap]);
});
