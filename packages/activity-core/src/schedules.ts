/**
 * Keeps the schedules in Temporal as the definitions say: create, update, pause, unpause, delete, leave.
 *
 * Only schedules with our prefix and our installation's name are ever touched. What somebody edited by hand is restored and
 * written to the audit trail; what somebody paused stays paused and is shown. Ticks nobody opened are found and named.
 */
import type { Clock, Log, Metrics, ScheduledActivity, ScheduleStore } from '@milkrun/core';
import { type Client, type ScheduleDescription, ScheduleNotFoundError } from '@temporalio/client';
import { type ActivityDefinition, cronEntryOf } from './definition.ts';
import { durationMs } from './duration.ts';
import { activityIdOfSchedule, scheduleIdOf } from './ids.ts';
import { NOTE, shownFingerprint, updateOf, type WantedSchedule, wantedSchedule } from './schedule-spec.ts';
import { startOf } from './start-of.ts';
import { dueTicks, type TickRule, tickKeyOf } from './ticks.ts';
import { misfirePolicyOf, tickRuleOf } from './time-trigger.ts';

type SyncVerb = 'create' | 'update' | 'restore' | 'pause' | 'unpause' | 'delete' | 'leave';

export interface SyncStep {
  readonly verb: SyncVerb;
  readonly scheduleId: string;
  readonly slug: string | null;
  readonly why: string;
}

export interface SyncResult {
  readonly steps: readonly SyncStep[];
  /** At most 100, each with the schedule it concerns. */
  readonly errors: readonly { readonly scheduleId: string; readonly message: string }[];
}

export interface ScheduleDeps {
  readonly store: ScheduleStore;
  readonly client: Client;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Queue of runs; the product's own by default. */
  readonly taskQueue?: string;
}

export interface Schedules {
  /** Brings the schedule of one activity into step; of one that is gone it deletes it. */
  syncOne(activityId: string): Promise<SyncStep>;
  /** All of them, orphans included. Partial failures are listed and stop nothing. `dryRun`: says what it would do. */
  sync(options?: { readonly dryRun?: boolean }): Promise<SyncResult>;
  /** Schedules of this installation by id, eventually consistent. */
  list(): Promise<readonly string[]>;
  /** Ticks that are due and that nobody opened: made up for as the policy says, the others named. */
  recover(): Promise<{ readonly started: number; readonly missed: number }>;
}

const ERRORS_MAX = 100;
/** An orphan is deleted when it was seen twice so far apart: the list may be behind. */
const ORPHAN_MS = 30_000;
/** So long after its time a tick that has no run counts as not opened. */
const OVERDUE_MS = 60_000;
const NAMED_MAX = 1_000;

export function createSchedules(deps: ScheduleDeps): Schedules {
  const { store, client, clock, log, metrics } = deps;
  const orphans = new Map<string, number>();
  /** Ticks made up for by this process: their runs may still wait for a worker. */
  const madeUp = new Map<string, number>();

  const wantedOf = (activity: ScheduledActivity): WantedSchedule | null =>
    wantedSchedule(activity, {
      nowMs: clock.now(),
      ...(deps.taskQueue === undefined ? {} : { taskQueue: deps.taskQueue }),
    });

  async function describe(scheduleId: string): Promise<ScheduleDescription | null> {
    try {
      return await client.schedule.getHandle(scheduleId).describe();
    } catch (error) {
      if (error instanceof ScheduleNotFoundError) return null;
      throw error;
    }
  }

  async function bring(activity: ScheduledActivity, dryRun: boolean): Promise<SyncStep> {
    const installation = await store.installation();
    const wanted = wantedOf(activity);
    const scheduleId = scheduleIdOf(activity.activityId);
    const handle = client.schedule.getHandle(scheduleId);
    const actual = await describe(scheduleId);
    const step = (verb: SyncVerb, why: string): SyncStep => ({ verb, scheduleId, slug: activity.slug, why });
    if (wanted === null) {
      if (actual === null) return step('leave', 'it has run');
      if (!dryRun) await handle.delete();
      return step('delete', 'it has run');
    }
    if (actual === null) {
      if (!dryRun) {
        await client.schedule.create({ ...wanted.options, scheduleId, memo: { installation } });
        await note(activity, wanted);
      }
      return step('create', 'there was none');
    }
    if (actual.memo?.installation !== installation)
      throw new Error('a schedule of this id belongs to another installation');
    const [said, shown] = (activity.scheduleFingerprint ?? '').split(':');
    const isEdited = said === wanted.fingerprint && shown !== shownFingerprint(actual);
    if (said !== wanted.fingerprint || isEdited) {
      if (!dryRun) {
        await handle.update(({ state }) => updateOf(wanted, state));
        await note(activity, wanted, isEdited ? 'the schedule was edited by hand' : undefined);
      }
      return isEdited ? step('restore', 'it was edited by hand') : step('update', 'the definition says otherwise');
    }
    return pauseAsWanted(wanted, actual, step, dryRun);
  }

  async function pauseAsWanted(
    wanted: WantedSchedule,
    { state }: ScheduleDescription,
    step: (verb: SyncVerb, why: string) => SyncStep,
    dryRun: boolean,
  ): Promise<SyncStep> {
    const handle = client.schedule.getHandle(wanted.scheduleId);
    if (wanted.paused && (!state.paused || state.note !== wanted.note)) {
      if (!dryRun) await handle.pause(wanted.note);
      return step('pause', wanted.note);
    }
    if (!wanted.paused && state.paused) {
      // Whoever paused it elsewhere had a reason; it is shown and not undone.
      if (!state.note?.startsWith(NOTE)) return step('leave', `paused outside: ${state.note ?? 'without a note'}`);
      if (!dryRun) await handle.unpause(wanted.note);
      return step('unpause', wanted.note);
    }
    return step('leave', 'as it should be');
  }

  async function note(activity: ScheduledActivity, wanted: WantedSchedule, correction?: string): Promise<void> {
    const actual = await describe(wanted.scheduleId);
    const shown = actual === null ? '' : shownFingerprint(actual);
    await store.noteSchedule(activity.activityId, `${wanted.fingerprint}:${shown}`, correction);
  }

  async function remove(scheduleId: string): Promise<void> {
    try {
      await client.schedule.getHandle(scheduleId).delete();
    } catch (error) {
      if (!(error instanceof ScheduleNotFoundError)) throw error;
    }
  }

  /** True when the schedule is of this installation; one without the name is looked at closely. */
  async function isOurs(
    scheduleId: string,
    memo: Record<string, unknown> | undefined,
    installation: string,
  ): Promise<boolean> {
    const named = memo?.installation ?? (await describe(scheduleId))?.memo?.installation;
    return named === installation;
  }

  async function list(): Promise<string[]> {
    const installation = await store.installation();
    const ours: string[] = [];
    for await (const { scheduleId, memo } of client.schedule.list()) {
      if (activityIdOfSchedule(scheduleId) === undefined) continue;
      if (await isOurs(scheduleId, memo, installation)) ours.push(scheduleId);
    }
    return ours.sort();
  }

  return {
    list,

    async syncOne(activityId) {
      const [activity] = await store.scheduled(activityId);
      if (activity !== undefined) return bring(activity, false);
      const scheduleId = scheduleIdOf(activityId);
      const actual = await describe(scheduleId);
      const isOwn = actual !== null && actual.memo?.installation === (await store.installation());
      if (isOwn) await remove(scheduleId);
      const verb = isOwn ? 'delete' : 'leave';
      return { verb, scheduleId, slug: null, why: 'no activity with a time entry has this id' };
    },

    async sync({ dryRun = false } = {}) {
      const steps: SyncStep[] = [];
      const errors: { scheduleId: string; message: string }[] = [];
      const wanted = new Set<string>();
      const attempt = async (scheduleId: string, work: () => Promise<SyncStep | undefined>): Promise<void> => {
        try {
          const step = await work();
          if (step === undefined) return;
          steps.push(step);
          metrics.count('activity.schedule_steps', 1, { verb: step.verb });
          if (step.verb !== 'leave') log.info({ ...step, dryRun }, 'activity.schedule_synced');
        } catch (error) {
          const message = error instanceof Error ? error.message : String(error);
          log.warn({ scheduleId, error: message }, 'activity.schedule_failed');
          if (errors.length < ERRORS_MAX) errors.push({ scheduleId, message });
        }
      };
      for (const activity of await store.scheduled()) {
        const scheduleId = scheduleIdOf(activity.activityId);
        wanted.add(scheduleId);
        await attempt(scheduleId, () => bring(activity, dryRun));
      }
      const found = await list();
      for (const scheduleId of orphans.keys()) if (!found.includes(scheduleId)) orphans.delete(scheduleId);
      for (const scheduleId of found) {
        if (wanted.has(scheduleId)) continue;
        await attempt(scheduleId, async () => {
          const seenAt = orphans.get(scheduleId);
          if (seenAt === undefined) orphans.set(scheduleId, clock.now());
          if (!dryRun && (seenAt === undefined || clock.now() - seenAt < ORPHAN_MS)) return undefined;
          if (!dryRun) await remove(scheduleId);
          return { verb: 'delete', scheduleId, slug: null, why: 'its activity is gone' };
        });
      }
      return { steps, errors };
    },

    async recover() {
      let started = 0;
      let missed = 0;
      for (const activity of await store.scheduled()) {
        const entry = cronEntryOf(JSON.parse(activity.spec) as ActivityDefinition);
        if (entry === undefined || !activity.enabled || activity.status !== 'active') continue;
        const rule = tickRuleOf(entry);
        const misfire = misfirePolicyOf(entry);
        const slackMs = OVERDUE_MS + Math.max(misfire.graceMs, durationMs(entry.jitter ?? '0s'));
        const untilMs = clock.now() - slackMs;
        const { activityId } = activity;
        const afterMs = Math.max(activity.coveredMs, madeUp.get(activityId) ?? 0);
        const gap = await unopened(rule, activityId, afterMs, untilMs);
        if (gap.length === 0) continue;
        const kept = keptTicks(gap, misfire, clock.now());
        const given = gap.filter((at) => !kept.includes(at));
        const why = {
          activityId,
          slug: activity.slug,
          ticks: gap.map((at) => new Date(at).toISOString()).slice(0, 20),
        };
        log.warn({ ...why, count: gap.length, madeUp: kept.length }, 'activity.ticks_not_opened');
        metrics.count('activity.ticks_not_opened', gap.length);
        // For compress the run itself covers the ticks before its own: it finds them behind the mark.
        const named = misfire.policy === 'compress' && kept.length > 0 ? [] : given.slice(-NAMED_MAX);
        const lastGiven = kept.length > 0 ? activity.coveredMs : (given.at(-1) ?? activity.coveredMs);
        const rows = named.map((at) => ({ nominalMs: at, dedupeKey: `cron:${tickKeyOf(rule, at)}` }));
        await store.noteMissed(activityId, rows, 'no run was opened for it', lastGiven);
        await store.command(kept.map((at) => startOf(activityId, at, false)));
        madeUp.set(activityId, gap.at(-1) as number);
        started += kept.length;
        missed += named.length;
      }
      return { started, missed };
    },
  };

  async function unopened(rule: TickRule, activityId: string, afterMs: number, untilMs: number): Promise<number[]> {
    if (untilMs <= afterMs) return [];
    const { ticks } = dueTicks(rule, afterMs, untilMs, 600_000);
    if (ticks.length === 0) return [];
    const opened = await store.openedTicks(activityId, afterMs, untilMs);
    return ticks.filter((at) => !opened.has(at));
  }
}

/** Which of the ticks nobody opened are made up for. */
function keptTicks(
  gap: readonly number[],
  { policy, windowMs, max }: ReturnType<typeof misfirePolicyOf>,
  nowMs: number,
): readonly number[] {
  if (policy === 'skip') return [];
  const young = gap.filter((at) => nowMs - at <= windowMs);
  return young.slice(policy === 'compress' ? -1 : -Math.min(max, NAMED_MAX));
}
