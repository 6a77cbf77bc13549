/** What Temporal would bill, counted from histories: starts, steps, timers, signals and continue-as-new. */
import type { Rig } from './fleet-rig.ts';

/** History events that are an action each. */
const KINDS: Readonly<Record<string, string>> = {
  workflowExecutionStartedEventAttributes: 'start',
  activityTaskScheduledEventAttributes: 'step',
  timerStartedEventAttributes: 'timer',
  workflowExecutionSignaledEventAttributes: 'signal',
};

/** Every workflow of the rig's server, closed ones too; `polls` is what they did together. */
export async function actionsPerPoll(
  { client }: Pick<Rig, 'client'>,
  polls: number,
): Promise<{ readonly perPoll: number; readonly byKind: Readonly<Record<string, number>> }> {
  const byKind: Record<string, number> = {};
  for await (const { workflowId, runId } of client.workflow.list()) {
    const { events } = await client.workflow.getHandle(workflowId, runId).fetchHistory();
    for (const event of events ?? []) {
      const found = Object.entries(KINDS).find(
        ([attributes]) => event[attributes as 'timerStartedEventAttributes'] != null,
      );
      if (found !== undefined) byKind[found[1]] = (byKind[found[1]] ?? 0) + 1;
    }
  }
  const sum = Object.values(byKind).reduce((total, n) => total + n, 0);
  return { perPoll: sum / Math.max(1, polls), byKind };
}
