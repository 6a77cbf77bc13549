/** What the migration drill calls a violation. */
import { expect, test } from 'vitest';
import { judgeCommits, judgeGaps } from '../migration.ts';

const commit = (at: number, epoch: number, by: 'legacy' | 'v2') => ({ at, triggerId: 't', epoch, by });

test.each([
  ['one after the other', [commit(1, 0, 'legacy'), commit(2, 1, 'v2'), commit(3, 2, 'legacy')], { late: 0, shared: 0 }],
  ['a commit under an epoch that has passed', [commit(1, 1, 'v2'), commit(2, 0, 'legacy')], { late: 1, shared: 0 }],
  ['an epoch of both', [commit(1, 1, 'v2'), commit(2, 1, 'legacy')], { late: 0, shared: 1 }],
])('commits: %s', (_, commits, wanted) => {
  expect(judgeCommits(commits)).toEqual({ commits: commits.length, ...wanted });
});

test('gaps: a due time that waited longer than interval and grace is missed', () => {
  const fleet = { ids: ['a'], intervalS: 10 };
  expect(judgeGaps(new Map([['a', [0, 10_000, 60_000]]]), fleet, 61_000, 30).missed).toBe(0);
  expect(judgeGaps(new Map([['a', [0, 10_000, 60_001]]]), fleet, 61_000, 30).missed).toBe(1);
  expect(judgeGaps(new Map([['a', [0, 10_000]]]), fleet, 61_000, 30)).toEqual({ missed: 1, worst: 51 });
});
