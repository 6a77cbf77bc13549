/** Ids of runs, schedules and tasks: made and parsed side by side. None carries a secret. */
import { hash } from 'node:crypto';

const RUN = 'activity-';
const SCHEDULE = 'activity-schedule-';
const TASK = 'task-';
const ITEM_KEY = /^[A-Za-z0-9._@/-]{1,100}$/;

const short = (text: string, characters: number): string => hash('sha256', text, 'hex').slice(0, characters);

/** `activity-{activity_id}:{event_id}@{8 hex of sha256(source)}`: two producers that use one id stay apart. */
export function runWorkflowIdOf(activityId: string, event: { readonly source: string; readonly id: string }): string {
  return `${RUN}${activityId}:${event.id}@${short(event.source, 8)}`;
}

/** `activity-{activity_id}:{collect|run}-{32 hex of sha256(key)}`: who collects the events of a key, or the run they go to. */
export function inboxWorkflowIdOf(activityId: string, to: 'collect' | 'run', key: string): string {
  return `${RUN}${activityId}:${to}-${short(key, 32)}`;
}

/** The id of the runs of a schedule; the server appends `-` and the nominal time, RFC 3339. */
export function scheduledWorkflowIdOf(activityId: string): string {
  return `${RUN}${activityId}:cron`;
}

/** `activity-schedule-{activity_id}`. */
export function scheduleIdOf(activityId: string): string {
  return SCHEDULE + activityId;
}

/** The activity of a schedule id of ours, or undefined. */
export function activityIdOfSchedule(scheduleId: string): string | undefined {
  return new RegExp(`^${SCHEDULE}([0-9a-f-]{36})$`).exec(scheduleId)?.[1];
}

/**
 * `task-{run}:{rule}:{item key}`. The item key stays readable where it is short and plain, else it is hashed. Editing the
 * order of a list makes no new ids.
 */
export function taskIdOf(runId: string, ruleId: string, itemKey: string): string {
  return `${TASK}${runId}:${ruleId}:${ITEM_KEY.test(itemKey) ? itemKey : `~${short(itemKey, 32)}`}`;
}

/** Key of an event in the log: source and id, as 32 hex characters of their hash. Lengths frame the two. */
export function eventKeyOf({ source, id }: { readonly source: string; readonly id: string }): string {
  return short(`${Buffer.byteLength(source)}:${source}${id}`, 32);
}
