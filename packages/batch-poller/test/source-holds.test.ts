/** What a process remembers of limited connections: at once, until it ends, and told to the others once. */
import type { Clock } from '@milkrun/core';
import { expect, test } from 'vitest';
import { SourceHolds, type SourceLimit } from '../src/source-holds.ts';

function scene() {
  let nowMs = 0;
  const clock = { monotonic: () => nowMs } as Clock;
  const written: SourceLimit[][] = [];
  const waiting: (() => void)[] = [];
  const holds = new SourceHolds(clock, (limits) => {
    written.push([...limits]);
    return new Promise((resolve) => waiting.push(resolve));
  });
  return { holds, written, next: () => waiting.shift()?.(), pass: (ms: number) => (nowMs += ms) };
}

const source = (connectionId: string) => ({ toolkit: 'npm', tenantId: 't', connectionId });

test('a limited connection is held until its time has passed, and no other is', () => {
  const { holds, pass } = scene();
  holds.limited({ ...source('a'), seconds: 30 });
  expect([holds.secondsLeft(source('a')), holds.secondsLeft(source('b'))]).toEqual([30, undefined]);
  pass(29_000);
  expect(holds.secondsLeft(source('a'))).toBe(1);
  pass(1_000);
  expect(holds.secondsLeft(source('a'))).toBeUndefined();
});

test('many limits are written together, and what was known already is not written again', async () => {
  const { holds, written, next } = scene();
  for (const id of ['a', 'b', 'c', 'b']) holds.limited({ ...source(id), seconds: 30 });
  expect(holds.learned({ ...source('d'), seconds: 9 })).toBe(true);
  holds.limited({ ...source('d'), seconds: 5 });
  next();
  await new Promise(setImmediate);
  next();
  await holds.settled();
  expect(written.map((limits) => limits.map(({ connectionId }) => connectionId))).toEqual([['a'], ['b', 'c']]);
});
