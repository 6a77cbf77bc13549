import { expect, test } from 'vitest';
import { PollSlots, type SlotJob } from '../src/poll-slots.ts';

function harness(width: number) {
  let now = 0;
  const clock = { now: () => now, monotonic: () => now, sleep: async () => {} };
  const slots = new PollSlots({ width, clock });
  const running: { job: SlotJob; end: () => void }[] = [];
  const started: string[] = [];
  const job = (toolkit: string, tenantId: string): SlotJob => {
    const self: SlotJob = {
      toolkit,
      tenantId,
      run: () =>
        new Promise((resolve) => {
          started.push(`${toolkit}/${tenantId}`);
          running.push({ job: self, end: () => resolve(undefined) });
        }),
    };
    return self;
  };
  const many = (count: number, toolkit: string, tenantId: string) =>
    Array.from({ length: count }, () => job(toolkit, tenantId));
  return {
    slots,
    running,
    started,
    many,
    advance: (ms: number) => {
      now += ms;
    },
  };
}

test('never more polls run than there are slots, and every job runs in the end', async () => {
  const { slots, running, started, many } = harness(4);
  slots.push(many(10, 'a', 't'));
  expect(slots.inUse).toBe(4);
  while (running.length > 0) {
    running.shift()?.end();
    await Promise.resolve();
    await Promise.resolve();
    expect(slots.inUse).toBeLessThanOrEqual(4);
  }
  expect(started).toHaveLength(10);
});

test('one tenant holds at most a quarter of the width while others wait, and all of it when alone', () => {
  const alone = harness(8);
  alone.slots.push(alone.many(20, 'a', 'big'));
  expect(alone.slots.inUse).toBe(8);
  const shared = harness(8);
  shared.slots.setCeiling(1);
  shared.slots.push([
    ...shared.many(20, 'a', 'big'),
    ...shared.many(5, 'b', 'small'),
    ...shared.many(5, 'c', 'other'),
    ...shared.many(5, 'd', 'fourth'),
  ]);
  const big = () => shared.started.filter((name) => name === 'a/big').length;
  expect(big()).toBe(1);
});

test('throttles halve the width at most once a second and good answers win it back', () => {
  const { slots, advance } = harness(16);
  slots.throttled();
  slots.throttled();
  expect(slots.width).toBe(8);
  advance(1_000);
  slots.throttled();
  expect(slots.width).toBe(4);
  for (let n = 0; n < 4; n += 1) slots.answered();
  expect(slots.width).toBe(5);
});

test('what has not started can be taken back', () => {
  const { slots, many } = harness(1);
  const jobs = many(3, 'a', 't');
  slots.push([...jobs, ...many(1, 'b', 'u')]);
  const own = new Set(jobs);
  expect(slots.withdraw((job) => own.has(job))).toBe(2);
  expect(slots.inUse).toBe(1);
});
