/** What a run has come to, from its tasks. */
import type { TaskCounts } from '@milkrun/core';
import type { ActivityDefinition } from './definition.ts';

/** How many tasks may fail of `count`. */
export function toleratedOf({ spawn }: Pick<ActivityDefinition, 'spawn'>, count: number): number {
  const { tolerate } = spawn;
  if (typeof tolerate === 'number') return tolerate;
  return Math.floor((count * Math.min(100, Number(tolerate.slice(0, -1)))) / 100);
}

/** `partial`: some tasks failed, but no more than are tolerated, or the list was cut. */
export function closingStatus(
  definition: Pick<ActivityDefinition, 'spawn'>,
  counts: TaskCounts,
  truncated: boolean,
): 'succeeded' | 'partial' | 'failed' {
  const failed = counts.failed + counts.cancelled;
  if (failed > toleratedOf(definition, counts.planned - counts.suppressed)) return 'failed';
  return failed > 0 || truncated ? 'partial' : 'succeeded';
}
