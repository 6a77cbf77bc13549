/** Steps over what was collected, and over what is handed to open runs. */
import { ApplicationFailure, Context } from '@temporalio/activity';
import { collectedEvent, decideCollect } from '../collect.ts';
import { startRun } from '../commands.ts';
import { runWorkflowIdOf, taskIdOf } from '../ids.ts';
import type { InboxSteps } from '../run-types.ts';
import type { RunDeps } from './deps.ts';
import { newTask, planOf } from './planning.ts';

/** Events one step hands to a run. */
const DELIVERED_AT_ONCE = 100;

export function createInboxSteps({ store, client, metrics }: RunDeps): InboxSteps {
  return {
    async collectRound({ activityId, key, batch }) {
      const answer = await store.takeCollected({ activityId, key, batch }, decideCollect, (given) =>
        collectedEvent(activityId, key, batch, given),
      );
      if (answer.state !== 'taken') return answer;
      const { event, version } = answer;
      const workflowId = runWorkflowIdOf(activityId, event);
      const start = { activityId, workflowId, origin: 'event' as const, eventKey: event.key, version };
      const more = { dryRun: false, scheduledFor: null, forced: false };
      await startRun(client, Context.current().info.taskQueue, { ...start, ...more });
      return { state: 'started' };
    },

    async takeDelivered(runId) {
      const run = await store.run(runId);
      if (run === null) throw ApplicationFailure.nonRetryable(`there is no run ${runId}`, 'run.gone');
      const context = await store.context(runId);
      for (let taken = 0; taken < DELIVERED_AT_ONCE; taken += 1) {
        const next = run.inboxKey === null ? null : await store.nextDelivered(run.activityId, run.inboxKey);
        if (next === null) return { taken };
        const { eventKey } = next;
        const plan = planOf({ ...run, event: JSON.parse(next.record) as Record<string, unknown> }, context);
        // Two events of one run make tasks of their own, however alike their items are.
        const tasks = plan.tasks.map((task) => ({
          ...newTask(runId, task),
          taskId: taskIdOf(runId, task.ruleId, `${task.itemKey}@${eventKey}`),
        }));
        await store.addPlan(runId, eventKey, { tasks, truncated: plan.truncated });
        metrics.count('activity.events_delivered', 1);
      }
      return { taken: DELIVERED_AT_ONCE };
    },

    async nextDelivered({ activityId, key }) {
      const next = await store.nextDelivered(activityId, key);
      return next === null ? null : { eventKey: next.eventKey, version: next.version };
    },
  };
}
