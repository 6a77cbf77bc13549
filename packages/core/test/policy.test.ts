import { expect, test } from 'vitest';
import {
  assertTransition,
  batchIdOf,
  type EntryStateName,
  halve,
  hopBackoffSeconds,
  ImpossibleTransition,
  isForced,
  isUuid,
  QUEUES,
  STEP_BUDGET_SECONDS,
  TRANSITIONS,
  timerShardOfBatchId,
  timerShardOfWorkflowId,
  timerShardWorkflowIdOf,
  WORKFLOWS,
} from '../src/index.ts';

test('queues, workflows and budgets have the names and values that running batches were started with', () => {
  expect(QUEUES).toEqual({ batchPoller: 'batch-poller', poll: 'batch-poller-poll', timerShard: 'timer-shard' });
  expect(WORKFLOWS).toEqual({ batchPoller: 'BatchPoller', timerShard: 'TimerShard' });
  expect(STEP_BUDGET_SECONDS).toEqual({ claim: 30, auth: 60, poll: 120, broadcast: 120, commit: 60 });
});

test('hops wait 5, 15 and 45 seconds, or what was asked for, and never above a minute', () => {
  expect([0, 1, 2, 3].map((hop) => hopBackoffSeconds(hop))).toEqual([5, 15, 45, 60]);
  expect([-1, 0.2, 4.1, 5.1, 59.5, 61].map((asked) => hopBackoffSeconds(0, asked))).toEqual([5, 5, 5, 6, 60, 60]);
});

test('the run whose number reaches the limit is forced, and no earlier one', () => {
  const policy = { maxRetryCounter: 3, leaseSeconds: 45 };
  const runs = [0, 2, 3, 4].map((retryCounter) => ({ batchId: 'b', timerShard: 0, size: 1, retryCounter, policy }));
  expect(runs.map(isForced)).toEqual([false, false, true, true]);
});

const STATES = ['claimed', 'authorized', 'polled', 'delivered', 'failed', 'halted', 'committed', 'fenced'] as const;

test.each<[EntryStateName, string]>([
  // to:        c a p d f h c f
  ['claimed', '. x . . x x . x'],
  ['authorized', 'x . x . x x . x'],
  ['polled', '. . x x x x x x'],
  ['delivered', '. . . . . . x x'],
  ['failed', 'x . . . . . x x'],
  ['halted', '. . . . . . x x'],
  ['committed', '. . . . . . . .'],
  ['fenced', '. . . . . . . .'],
])('from %s an entry goes where the table says and nowhere else: %s', (from, row) => {
  const allowed = row.split(' ').map((cell) => cell === 'x');
  expect(STATES.map((to) => TRANSITIONS[from].includes(to))).toEqual(allowed);
  for (const [at, to] of STATES.entries()) {
    const take = (): void => assertTransition('t', from, to);
    if (allowed[at] === true) expect(take).not.toThrow();
    else expect(take).toThrow(new ImpossibleTransition('t', from, to));
  }
});

test.each([
  [['a', 'b'], ['a'], ['b']],
  [['a', 'b', 'c'], ['a', 'b'], ['c']],
  [
    ['a', 'b', 'c', 'd', 'e'],
    ['a', 'b', 'c'],
    ['d', 'e'],
  ],
])('%j is halved into %j and %j', (list, first, second) => {
  expect(halve(list)).toEqual([first, second]);
});

const UUID = '018bcfe5-6800-7fff-bfff-0123456789ab';

test.each([
  [UUID, true],
  [UUID.toUpperCase(), false],
  [` ${UUID}`, false],
  [`${UUID}0`, false],
  [UUID.slice(1), false],
  [UUID.replaceAll('-', ''), false],
  [UUID.replace('0', 'g'), false],
  [UUID.replace('-6800-', '-680-'), false],
  [UUID.replace('-7fff-', '-7ff-'), false],
  [UUID.replace('-bfff-', '-bff-'), false],
  ['', false],
])('%j is a UUID: %j', (text, wanted) => {
  expect(isUuid(text)).toBe(wanted);
});

test.each([
  [batchIdOf(0, UUID), 0],
  [batchIdOf(123_456, UUID), 123_456],
  [`x${batchIdOf(7, UUID)}`, undefined],
  [`${batchIdOf(7, UUID)}0`, undefined],
  [batchIdOf(1_234_567, UUID), undefined],
  ['batch-poller::', undefined],
  [timerShardWorkflowIdOf(7), undefined],
])('the batch id %j names the timer shard %j', (id, shard) => {
  expect(timerShardOfBatchId(id)).toBe(shard);
});

test.each([
  [timerShardWorkflowIdOf(0), 0],
  [timerShardWorkflowIdOf(123_456), 123_456],
  [`x${timerShardWorkflowIdOf(7)}`, undefined],
  [`${timerShardWorkflowIdOf(7)}x`, undefined],
  ['timer-shard:', undefined],
  [timerShardWorkflowIdOf(1_234_567), undefined],
])('the workflow id %j names the timer shard %j', (id, shard) => {
  expect(timerShardOfWorkflowId(id)).toBe(shard);
});
