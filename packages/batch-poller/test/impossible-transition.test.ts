/**
 * Assertions stay on in production (S3): an entry that would move along an edge that is not in the table stops, with a named
 * error, and nothing else does. No edge can be taken wrongly by what the engine decides today, so here a decision is bent:
 * one trigger is committed although it was never polled.
 */
import type { ClaimedTrigger, CommitRow } from '@milkrun/core';
import { expect, test, vi } from 'vitest';
import type * as DecideRow from '../src/decide-row.ts';
import { A, B, C, of, runCommit, triggers } from './commit-scene.ts';

const rowOf = vi.hoisted(() => ({ shard, triggerId, leaseEpoch }: ClaimedTrigger): CommitRow => {
  return { shard, triggerId, leaseEpoch, events: 0, outcome: 'success', code: 'ok' };
});

vi.mock('../src/decide-row.ts', async (original) => {
  const real = await original<typeof DecideRow>();
  const decideRow: typeof real.decideRow = (entry, state, forced) =>
    entry.state === 'claimed' ? { kind: 'row', row: rowOf(entry.trigger) } : real.decideRow(entry, state, forced);
  return { ...real, decideRow };
});

test('an impossible transition stops that entry with a named error: the others commit, and it stays open', async () => {
  const { result, commits, logged, errors } = await runCommit({ entries: triggers(3), results: [of(A), of(C)] });
  expect(commits[0]?.rows.map(({ triggerId }) => triggerId)).toEqual([A, C]);
  expect(commits[0]).toMatchObject({ open: 1, end: false });
  expect(result).toMatchObject({ status: 'ok', done: 2, left: 1 });
  expect(logged).toEqual(['entry.impossible_transition']);
  expect(errors).toEqual([`ImpossibleTransition: trigger ${B}: an entry cannot go from claimed to committed`]);
});

test('on the last hop it is freed with the batch, which ends all the same', async () => {
  const { result, commits, did, logged } = await runCommit({
    entries: triggers(2),
    results: [of(A)],
    hop: 3,
    force: true,
  });
  expect(commits[0]?.rows.map(({ triggerId }) => triggerId)).toEqual([A]);
  expect(commits[0]).toMatchObject({ open: 0, end: true });
  expect(result).toMatchObject({ status: 'ok', done: 1, left: 0 });
  expect(did).toEqual(['commit', 'arm 4']);
  expect(logged).toEqual(['entry.impossible_transition']);
});
