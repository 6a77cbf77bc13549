/**
 * Events that are not one run each: collected until a pause (debounce) or a size (batch), or handed to a run that is open.
 *
 * What was collected is in the database; the workflow that waits holds a key alone. So an event that is delivered twice is
 * collected once, and what a lost workflow had collected is found by the next event of its key.
 */
import { hash } from 'node:crypto';
import type { CollectDecision, CollectFacts, NewEvent } from '@milkrun/core';
import { type ActivityDefinition, type EventEntry, eventEntriesOf } from './definition.ts';
import { durationMs } from './duration.ts';
import { eventKeyOf } from './ids.ts';

/** Events and bytes a run is shown; the count is exact whatever was cut. */
const SHOWN = { events: 1_000, bytes: 1024 * 1024 } as const;
const TYPE = 'dev.milkrun.events.collected';

/** Where an event goes that matched. */
export type Handling =
  | { readonly to: 'start' }
  | { readonly to: 'collect' | 'run'; readonly entry: number; readonly key: string };

/** What an entry asks for, without the key's value. */
export function handlingOf({ event }: EventEntry): { readonly to: Handling['to']; readonly key: string | undefined } {
  if (event.debounce !== undefined) return { to: 'collect', key: event.debounce.key };
  if (event.batch !== undefined) return { to: 'collect', key: event.batch.key };
  return event.deliver === 'signal' ? { to: 'run', key: event.key } : { to: 'start', key: undefined };
}

/** Whether what was collected is handed on now. `spec` and `entry` are those of the last event. */
export function decideCollect({ spec, entry: n, count, firstMs, lastMs, nowMs }: CollectFacts): CollectDecision {
  const entry = eventEntriesOf(JSON.parse(spec) as ActivityDefinition)[n]?.event;
  // The version of the last event collects no more: what was collected before is handed on as it is.
  let [dueMs, take] = [nowMs, SHOWN.events as number];
  if (entry?.debounce !== undefined) {
    const { period, max_wait } = entry.debounce;
    [dueMs, take] = [Math.min(lastMs + durationMs(period), firstMs + durationMs(max_wait)), Number.MAX_SAFE_INTEGER];
  } else if (entry?.batch !== undefined) {
    const { size, max_wait } = entry.batch;
    [dueMs, take] = [count >= size ? nowMs : firstMs + durationMs(max_wait), size];
  }
  return dueMs > nowMs ? { waitMs: dueMs - nowMs } : { take };
}

/** The event of a run over what was collected. `records`: JSON text, in order of arrival, `count` of them in all. */
export function collectedEvent(
  activityId: string,
  key: string,
  batch: string,
  given: {
    readonly records: readonly string[];
    readonly count: number;
    readonly firstMs: number;
    readonly lastMs: number;
  },
): NewEvent {
  const events: unknown[] = [];
  let [bytes, hops] = [0, 0];
  for (const record of given.records) {
    const event = JSON.parse(record) as { hops?: unknown };
    hops = Math.max(hops, Number(event.hops ?? 0) || 0);
    bytes += Buffer.byteLength(record);
    if (events.length < SHOWN.events && bytes <= SHOWN.bytes) events.push(event);
  }
  const id = hash('sha256', JSON.stringify([key, batch]), 'hex').slice(0, 32);
  const source = `/activities/${activityId}/collected`;
  const time = new Date(given.lastMs).toISOString();
  const data = { key, count: given.count, firstAt: new Date(given.firstMs).toISOString(), lastAt: time, events };
  const record = JSON.stringify({
    specversion: '1.0',
    id,
    source,
    type: TYPE,
    time,
    datacontenttype: 'application/json',
    ...(hops === 0 ? {} : { hops }),
    data,
  });
  return { key: eventKeyOf({ source, id }), source, id, type: TYPE, time, origin: 'collected', record };
}
