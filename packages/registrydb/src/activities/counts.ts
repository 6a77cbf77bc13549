/** How the tasks of a run stand. */
import type { TaskCounts } from '@milkrun/core';
import { sql } from 'drizzle-orm';
import type { Runner } from '../database.ts';

export async function readCounts(runner: Runner, runId: string): Promise<TaskCounts> {
  const [row] = await runner.execute<Record<keyof TaskCounts, string>>(sql`
    select count(*) as planned,
      count(*) filter (where status in ('planned', 'running', 'waiting')) as open,
      count(*) filter (where status = 'done') as done,
      count(*) filter (where status = 'failed') as failed,
      count(*) filter (where status in ('done', 'failed', 'cancelled') and mode = 'human') as "endedHuman",
      count(*) filter (where status = 'suppressed') as suppressed,
      count(*) filter (where status = 'cancelled') as cancelled
    from activity_tasks where run_id = ${runId}::uuid`);
  const number = (name: keyof TaskCounts): number => Number(row?.[name] ?? 0);
  return {
    planned: number('planned'),
    open: number('open'),
    done: number('done'),
    failed: number('failed'),
    endedHuman: number('endedHuman'),
    suppressed: number('suppressed'),
    cancelled: number('cancelled'),
  };
}
