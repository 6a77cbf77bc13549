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

test('an older batch goes first, and a younger one has what its quarters leave over', async () => {
  const { slots, running, started, many } = harness(8);
  const [first, second] = [slots.createLine(), slots.createLine()];
  slots.push(many(1, 'z', 'z'), second);
  slots.push([...many(4, 'a', 't'), ...many(4, 'b', 'u')], first);
  slots.push(many(9, 'c', 'v'), second);
  expect(started).toEqual(['z/z', 'a/t', 'b/u', 'a/t', 'b/u', 'a/t', 'b/u', 'a/t']);
  for (const { end } of running.splice(0, 4)) end();
  await Promise.resolve();
  await Promise.resolve();
  // What waits in the older line is above its quarter, so the younger one takes two slots, up to its own; then the older.
  expect(started.slice(8)).toEqual(['c/v', 'c/v', 'b/u', 'c/v']);
});

test('a later slice of an older batch still goes before a younger batch', async () => {
  const { slots, running, started, many } = harness(1);
  const [older, younger] = [slots.createLine(), slots.createLine()];
  slots.push(many(1, 'a', 't'), older);
  slots.push(many(1, 'b', 'u'), younger);
  slots.push(many(1, 'c', 'v'), older);
  for (let n = 0; n < 2; n += 1) {
    running.shift()?.end();
    await Promise.resolve();
    await Promise.resolve();
  }
  expect(started).toEqual(['a/t', 'c/v', 'b/u']);
});

test('polls without a batch take turns with the batches', async () => {
  const { slots, running, started, many } = harness(1);
  slots.push(many(3, 'a', 't'), slots.createLine());
  slots.push(many(2, 'b', 'u'));
  for (let n = 0; n < 4; n += 1) {
    running.shift()?.end();
    await Promise.resolve();
    await Promise.resolve();
  }
  expect(started).toEqual(['a/t', 'b/u', 'a/t', 'b/u', 'a/t']);
});

test('what a batch has not started is dropped with its line, and nothing of another', async () => {
  const { slots, running, started, many } = harness(1);
  const line = slots.createLine();
  const dropped: SlotJob[] = [];
  const jobs = many(3, 'a', 't').map((job) => ({ ...job, drop: () => void dropped.push(job) }));
  slots.push(jobs, line);
  slots.push(many(1, 'b', 'u'), slots.createLine());
  slots.withdraw(line);
  expect(dropped).toHaveLength(2);
  running.shift()?.end();
  await Promise.resolve();
  await Promise.resolve();
  expect(started).toEqual(['a/t', 'b/u']);
});
