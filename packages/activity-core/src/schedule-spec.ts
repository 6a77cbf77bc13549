/** A definition's time entry as a Temporal schedule: pure, so that what is wanted can be compared with what is there. */
import { hash } from 'node:crypto';
import { canonicalJson, type ScheduledActivity } from '@milkrun/core';
import type { CalendarSpec, ScheduleDescription, ScheduleOptions, ScheduleUpdateOptions } from '@temporalio/client';
import { defineSearchAttributeKey } from '@temporalio/common';
import { type ActivityDefinition, atEntryOf, type CronEntry, cronEntryOf } from './definition.ts';
import { durationMs } from './duration.ts';
import { scheduledWorkflowIdOf, scheduleIdOf } from './ids.ts';
import { ACTIVITY_ID, ACTIVITY_QUEUES, ACTIVITY_WORKFLOWS } from './names.ts';
import type { RunTrigger } from './run-types.ts';
import { ticksAfter } from './ticks.ts';
import { misfirePolicyOf, tickRuleOf } from './time-trigger.ts';

/** Rises when the same definition is to make another schedule. */
const MAPPING = 1;
const CATCHUP_MS_MIN = 10_000;
const OVERLAP = { skip: 'SKIP', catchup: 'BUFFER_ALL', compress: 'BUFFER_ONE' } as const;
const MONTHS = [
  ...(['JANUARY', 'FEBRUARY', 'MARCH', 'APRIL', 'MAY', 'JUNE', 'JULY'] as const),
  ...(['AUGUST', 'SEPTEMBER', 'OCTOBER', 'NOVEMBER', 'DECEMBER'] as const),
];

const activityIdKey = defineSearchAttributeKey(ACTIVITY_ID, 'KEYWORD');

export interface WantedSchedule {
  readonly scheduleId: string;
  readonly fingerprint: string;
  readonly options: Omit<ScheduleOptions, 'scheduleId' | 'memo'>;
  readonly paused: boolean;
  /** Why it is paused; begins with our name, so that a pause by somebody else is told apart. */
  readonly note: string;
}

export const NOTE = 'milkrun: ';

/** What is wanted; null: no schedule, because the activity ran once and is done. */
export function wantedSchedule(
  activity: ScheduledActivity,
  { taskQueue = ACTIVITY_QUEUES.runs, nowMs }: { readonly taskQueue?: string; readonly nowMs: number },
): WantedSchedule | null {
  if (activity.status === 'done') return null;
  const definition = JSON.parse(activity.spec) as ActivityDefinition;
  const { activityId } = activity;
  const times = timesOf(definition, nowMs);
  const isTripped = activity.status === 'tripped';
  const paused = !activity.enabled || isTripped;
  const by = `disabled by ${activity.disabledBy ?? 'its definition'}${activity.disabledReason ? `: ${activity.disabledReason}` : ''}`;
  const note =
    NOTE + (isTripped ? `tripped: ${activity.statusReason ?? ''}` : paused ? by : `enabled (${activity.slug})`);
  const trigger: RunTrigger = { origin: times.origin, eventKey: null, version: null };
  const action = {
    type: 'startWorkflow' as const,
    workflowType: ACTIVITY_WORKFLOWS.run,
    workflowId: scheduledWorkflowIdOf(activityId),
    taskQueue,
    args: [activityId, trigger],
    typedSearchAttributes: [{ key: activityIdKey, value: activityId }],
  };
  const said = {
    mapping: MAPPING,
    spec: times.spec,
    policies: times.policies,
    action,
    remaining: times.remainingActions ?? 0,
  };
  const fingerprint = hash('sha256', canonicalJson(JSON.parse(JSON.stringify(said))), 'hex').slice(0, 32);
  return {
    scheduleId: scheduleIdOf(activityId),
    fingerprint,
    paused,
    note,
    options: {
      spec: times.spec,
      policies: times.policies,
      action,
      state: {
        paused,
        note,
        ...(times.remainingActions === undefined ? {} : { remainingActions: times.remainingActions }),
      },
    },
  };
}

function timesOf(definition: ActivityDefinition, nowMs: number) {
  const cron = cronEntryOf(definition);
  if (cron !== undefined) return cronTimes(cron, nowMs);
  const at = atEntryOf(definition);
  if (at === undefined) throw new TypeError(`${definition.slug} has no time entry`);
  return {
    origin: 'at' as const,
    spec: { calendars: [calendarOf(Date.parse(at.at))], timezone: 'UTC' },
    policies: { overlap: 'ALLOW_ALL' as const, catchupWindow: durationMs(at.misfire.window), pauseOnFailure: false },
    remainingActions: 1,
  };
}

function cronTimes(cron: CronEntry, nowMs: number) {
  const { policy, graceMs, windowMs } = misfirePolicyOf(cron);
  const catchupWindow = Math.max(CATCHUP_MS_MIN, policy === 'skip' ? graceMs : windowMs);
  const shifted = cron.dst.gap === 'shift' ? shiftedCalendars(cron, nowMs) : [];
  return {
    origin: 'cron' as const,
    spec: {
      cronExpressions: [cron.cron],
      timezone: cron.timezone,
      ...(cron.jitter === undefined ? {} : { jitter: durationMs(cron.jitter) }),
      ...(shifted.length === 0 ? {} : { calendars: shifted }),
    },
    policies: { overlap: OVERLAP[policy], catchupWindow, pauseOnFailure: false },
    remainingActions: undefined,
  };
}

/** The first minute after each gap that swallows a tick, from this year on to the end of the year after next. */
function shiftedCalendars(cron: CronEntry, nowMs: number): CalendarSpec[] {
  const rule = tickRuleOf(cron);
  const year = new Date(nowMs).getUTCFullYear();
  const calendars = new Map<number, CalendarSpec>();
  for (const { at, flag } of ticksAfter(rule, Date.UTC(year, 0, 1))) {
    if (at === null) continue;
    if (at >= Date.UTC(year + 3, 0, 1)) break;
    if (flag === 'gap') calendars.set(at, calendarOf(rule.zone.wallAt(at)));
  }
  return [...calendars.values()];
}

function calendarOf(wallMs: number): CalendarSpec {
  const at = new Date(wallMs);
  return {
    year: at.getUTCFullYear(),
    month: MONTHS[at.getUTCMonth()] as (typeof MONTHS)[number],
    dayOfMonth: at.getUTCDate(),
    dayOfWeek: '*',
    hour: at.getUTCHours(),
    minute: at.getUTCMinutes(),
    second: at.getUTCSeconds(),
  };
}

/** Of what the server shows, so that an edit by hand is seen: expressions come back compiled, so texts can not be compared. */
export function shownFingerprint({ spec, policies, action }: ScheduleDescription): string {
  const { workflowType, workflowId, taskQueue, args } = action;
  const shown = { spec, policies, action: { workflowType, workflowId, taskQueue, args } };
  return hash('sha256', canonicalJson(JSON.parse(JSON.stringify(shown))), 'hex').slice(0, 32);
}

/** The update of a schedule; a pause by somebody else stays. */
export function updateOf(
  { options, paused }: WantedSchedule,
  state: ScheduleDescription['state'],
): ScheduleUpdateOptions {
  const isPausedOutside = !paused && state.paused && state.note?.startsWith(NOTE) !== true;
  return {
    ...options,
    ...(isPausedOutside ? { state: { ...options.state, paused: true, note: state.note } } : {}),
  } as ScheduleUpdateOptions;
}
