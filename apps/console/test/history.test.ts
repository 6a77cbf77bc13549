import { beforeAll, expect, it, vi } from 'vitest';
import type { History } from '../src/history.ts';
import type { EngineFigures } from '../src/types.ts';

const figures = (second: number, polls: number, due = 0): EngineFigures =>
  ({
    now: new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString(),
    polls,
    eventsFound: 0,
    due,
    leasesHeld: 0,
    oldestDueSeconds: 0,
  }) as EngineFigures;

let withFigures: typeof import('../src/history.ts').withFigures;
const empty: History = { at: [], pollsPerSecond: [], eventsPerSecond: [], due: [], leased: [], oldestDue: [] };

beforeAll(async () => {
  // The key is read when the module is loaded; there is no tab here.
  vi.stubGlobal('sessionStorage', { getItem: () => null });
  ({ withFigures } = await import('../src/history.ts'));
});

it('tells a rate between two answers, and none over a restart of the engine', () => {
  const [a, b, c, d] = [figures(0, 100), figures(2, 300, 7), figures(4, 10), figures(6, 30)];
  let seen = withFigures(empty, null, a);
  seen = withFigures(seen, a, b);
  seen = withFigures(seen, b, c);
  seen = withFigures(seen, c, d);
  expect(seen.pollsPerSecond).toEqual([null, 100, null, 10]);
  expect(seen.due).toEqual([0, 7, 0, 0]);
});

it('leaves an answer that is not newer out, and forgets the oldest', () => {
  let seen = withFigures(empty, null, figures(0, 0));
  expect(withFigures(seen, figures(0, 0), figures(0, 5))).toBe(seen);
  for (let n = 1; n < 1_000; n += 1)
    seen = withFigures(seen, null, { ...figures(0, n), now: new Date(n * 2e3 + Date.UTC(2026, 0, 1)).toISOString() });
  expect(seen.at).toHaveLength(900);
  expect(seen.pollsPerSecond).toHaveLength(900);
});
