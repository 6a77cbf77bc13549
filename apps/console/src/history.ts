/** The figures of the fleet since this page was opened, asked for every two seconds whatever page is shown. */
import { signal } from '@preact/signals';
import { ApiError, ask } from './api.ts';
import { EVERY_MS, repeat } from './live.ts';
import type { EngineFigures, Fleet } from './types.ts';

const POINTS_MAX = 900;

/** Columns for charts; a gap is null. `at` in seconds since 1970, by the database's clock. */
export interface History {
  readonly at: readonly number[];
  readonly pollsPerSecond: readonly (number | null)[];
  readonly eventsPerSecond: readonly (number | null)[];
  readonly due: readonly (number | null)[];
  readonly leased: readonly (number | null)[];
  readonly oldestDue: readonly (number | null)[];
}

const EMPTY: History = { at: [], pollsPerSecond: [], eventsPerSecond: [], due: [], leased: [], oldestDue: [] };

export const fleet = signal<Fleet | undefined>(undefined);
export const fleetProblem = signal<ApiError | undefined>(undefined);
export const history = signal<History>(EMPTY);

/** Starts asking; answers how to stop, which forgets what was seen: another key may be another tenant's. */
export function watchFleet(): () => void {
  const stop = repeat(EVERY_MS, async (aborted) => {
    try {
      const seen = await ask<Fleet>('/fleet', aborted);
      if (seen.engine !== null) history.value = withFigures(history.value, fleet.value?.engine ?? null, seen.engine);
      fleet.value = seen;
      fleetProblem.value = undefined;
      return true;
    } catch (error) {
      if (!aborted.aborted) fleetProblem.value = error instanceof ApiError ? error : new ApiError(0, String(error));
      return false;
    }
  });
  return () => {
    stop();
    history.value = EMPTY;
    fleet.value = undefined;
  };
}

/** The history with one more point. Counters that went back are those of another process: no rate is told of them. */
export function withFigures(before: History, last: EngineFigures | null, now: EngineFigures): History {
  const at = Date.parse(now.now) / 1000;
  const newest = before.at.at(-1);
  if (newest !== undefined && at <= newest) return before;
  const rate = (name: 'polls' | 'eventsFound'): number | null => {
    if (last === null || newest === undefined || now[name] < last[name]) return null;
    return (now[name] - last[name]) / (at - newest);
  };
  const add = <T>(column: readonly T[], value: T): T[] => [...column.slice(1 - POINTS_MAX), value];
  return {
    at: add(before.at, at),
    pollsPerSecond: add(before.pollsPerSecond, rate('polls')),
    eventsPerSecond: add(before.eventsPerSecond, rate('eventsFound')),
    due: add(before.due, now.due),
    leased: add(before.leased, now.leasesHeld),
    oldestDue: add(before.oldestDue, now.oldestDueSeconds),
  };
}
