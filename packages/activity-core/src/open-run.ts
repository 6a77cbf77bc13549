/** The decision with which a run is opened: pure, from what the database says under the lock of the activity. */
import type { NewEvent, OpenRunDecision, OpenRunFacts } from '@milkrun/core';
import { celRoots, compileKey } from './condition.ts';
import { type ActivityDefinition, atEntryOf, cronEntryOf } from './definition.ts';
import { durationMs } from './duration.ts';
import { eventKeyOf } from './ids.ts';
import { decideTick } from './misfire.ts';
import type { OpenStepInput } from './run-types.ts';
import { tickKeyOf } from './ticks.ts';
import { misfirePolicyOf, tickRuleOf } from './time-trigger.ts';

const TYPES = { cron: 'dev.milkrun.cron.fired', at: 'dev.milkrun.at.fired' } as const;

type Not = { readonly status: 'missed' | 'coalesced' | 'skipped' | 'failed'; readonly reason: string };

export function decideOpen(facts: OpenRunFacts, input: OpenStepInput): OpenRunDecision {
  const definition = JSON.parse(facts.spec) as ActivityDefinition;
  const { origin } = input.trigger;
  const opened =
    origin === 'cron' || origin === 'at' ? timed(definition, facts, input, origin) : evented(definition, facts, input);
  if (opened.status !== 'running') return opened;
  const { concurrency, rate } = definition;
  if (concurrency === undefined) return rate === undefined ? opened : { ...opened, status: 'queued' };
  const activity = { id: input.activityId, slug: facts.slug, version: facts.version };
  try {
    const roots = celRoots({ event: JSON.parse(opened.event) as unknown, activity });
    const key = String(compileKey(concurrency.key, ['event', 'activity']).evaluate(roots)).slice(0, 500);
    return { ...opened, status: 'queued', concurrencyKey: key };
  } catch (error) {
    return { ...opened, status: 'failed', reason: `concurrency.key: ${(error as Error).message}` };
  }
}

/** A run of an event or of a hand. */
function evented(definition: ActivityDefinition, facts: OpenRunFacts, input: OpenStepInput): OpenRunDecision {
  const { eventKey, origin } = input.trigger;
  const event = facts.event ?? '{}';
  const base = {
    coveredMs: null,
    window: null,
    event,
    newEvent: null,
    concurrencyKey: null,
    dryRun: input.trigger.dryRun === true || definition.dry_run,
    isDone: false,
  };
  const not = ({ status, reason }: Not): OpenRunDecision => ({
    ...base,
    status,
    reason,
    dedupeKey: `event:${eventKey}`,
  });
  if (facts.event === null) return not({ status: 'failed', reason: `the event ${eventKey} is not stored` });
  if (origin === 'manual') return { ...base, status: 'running', reason: null, dedupeKey: `event:${eventKey}` };
  if (facts.status === 'tripped') return not({ status: 'skipped', reason: 'the activity is tripped' });
  if (!facts.enabled) return not({ status: 'skipped', reason: 'the activity is disabled' });
  try {
    return {
      ...base,
      status: 'running',
      reason: null,
      dedupeKey: eventDedupeKey(definition, event, `event:${eventKey}`, facts.nowMs),
    };
  } catch (error) {
    return not({ status: 'failed', reason: `dedupe.key: ${(error as Error).message}` });
  }
}

function eventDedupeKey({ dedupe }: ActivityDefinition, text: string, byEvent: string, nowMs: number): string {
  if (dedupe === undefined || (dedupe.strategy !== 'subject' && dedupe.strategy !== 'key')) return byEvent;
  const event = JSON.parse(text) as { subject?: string };
  const bucket = Math.floor(nowMs / durationMs(dedupe.window as string));
  if (dedupe.strategy === 'subject')
    return event.subject === undefined ? byEvent : `subject:${event.subject}@${bucket}`;
  const key = compileKey(dedupe.key as string, ['event']).evaluate(celRoots({ event }));
  return `key:${String(key)}@${bucket}`;
}

/** A run of a tick. */
function timed(
  definition: ActivityDefinition,
  facts: OpenRunFacts,
  { activityId, scheduledFor, trigger }: OpenStepInput,
  origin: 'cron' | 'at',
): OpenRunDecision {
  // A trigger by hand of the schedule itself has a nominal time like any other tick.
  const nominalMs = scheduledFor === null ? facts.nowMs : Date.parse(scheduledFor);
  const nominal = new Date(nominalMs).toISOString();
  const base = {
    coveredMs: null,
    window: null,
    newEvent: null,
    concurrencyKey: null,
    dryRun: trigger.dryRun === true || definition.dry_run,
    isDone: false,
  };
  const data = {
    scheduledFor: nominal,
    windowStart: null as string | null,
    windowEnd: nominal,
    missed: [] as string[],
  };
  const not = (
    { status, reason }: Not,
    dedupeKey = `${origin}:${nominal}`,
    more: Partial<OpenRunDecision> = {},
  ): OpenRunDecision => ({
    ...base,
    status,
    reason,
    dedupeKey,
    event: JSON.stringify({ type: TYPES[origin], data }),
    ...more,
  });
  if (!facts.enabled && trigger.forced !== true) return not({ status: 'missed', reason: 'the activity is disabled' });
  if (facts.status === 'tripped') return not({ status: 'missed', reason: 'the activity is tripped' });
  if (origin === 'at') return once(definition, facts, nominalMs);
  const entry = cronEntryOf(definition);
  if (entry === undefined) return not({ status: 'coalesced', reason: 'the activity has no cron entry any more' });
  const rule = tickRuleOf(entry);
  const key = `cron:${tickKeyOf(rule, nominalMs)}`;
  const decision = decideTick({
    rule,
    misfire: misfirePolicyOf(entry),
    nominalMs,
    nowMs: facts.nowMs,
    coveredMs: facts.coveredMs ?? nominalMs - 1,
  });
  const { coveredMs } = decision;
  // Asked for by hand: it runs for this tick alone, and what is covered stays.
  const byHand = trigger.forced === true;
  const window = byHand ? { startMs: nominalMs, endMs: nominalMs, missed: [], missedCount: 0 } : decision.window;
  if (window === null) {
    const { outcome, reason } = decision;
    return not({ status: outcome === 'missed' ? 'missed' : 'coalesced', reason: reason ?? '' }, key, { coveredMs });
  }
  const newEvent = fired(activityId, origin, nominal, {
    scheduledFor: nominal,
    windowStart: new Date(window.startMs).toISOString(),
    windowEnd: new Date(window.endMs).toISOString(),
    missed: window.missed.map((ms) => new Date(ms).toISOString()),
    missedCount: window.missedCount,
  });
  return {
    ...base,
    status: 'running',
    reason: null,
    dedupeKey: key,
    coveredMs: byHand ? null : coveredMs,
    window,
    event: newEvent.record,
    newEvent,
  };

  function once(of: ActivityDefinition, { nowMs, status: state }: OpenRunFacts, atMs: number): OpenRunDecision {
    const at = atEntryOf(of);
    const isSame = at !== undefined && Math.abs(Date.parse(at.at) - atMs) < 1_000;
    if (!isSame) return not({ status: 'coalesced', reason: 'the activity is not to run at this time any more' });
    if (state === 'done') return not({ status: 'coalesced', reason: 'it has run' });
    const lateMs = nowMs - atMs;
    if (lateMs > durationMs(at.misfire.window)) {
      return not({ status: 'missed', reason: `${Math.round(lateMs / 1000)} s late` }, undefined, {
        isDone: true,
        coveredMs: atMs,
      });
    }
    const event = fired(activityId, 'at', nominal, data);
    const window = { startMs: atMs, endMs: atMs, missedCount: 0 };
    const dedupeKey = `at:${nominal}`;
    return {
      ...base,
      status: 'running',
      reason: null,
      dedupeKey,
      coveredMs: atMs,
      window,
      event: event.record,
      newEvent: event,
      isDone: true,
    };
  }
}

/** The event every firing of a schedule makes, so that the log of events is whole. */
function fired(activityId: string, origin: 'cron' | 'at', id: string, data: object): NewEvent {
  const source = `/activities/${activityId}/schedule`;
  const type = TYPES[origin];
  const record = JSON.stringify({
    specversion: '1.0',
    id,
    source,
    type,
    time: id,
    datacontenttype: 'application/json',
    data,
  });
  return { key: eventKeyOf({ source, id }), source, id, type, time: id, origin, record };
}
