/**
 * Routes events to activities: store → match → start, each repeatable, so that whoever delivers an event may deliver it again.
 *
 * Nothing is lost and nothing runs twice: an event is acknowledged by its deliverer only when `route` has resolved, and a
 * second delivery finds runs that were started already. What can never be routed goes to dead letters with its raw bytes.
 */
import type { Log, MatchNote, Metrics, NewEvent, RouterStore } from '@milkrun/core';
import type { Client } from '@temporalio/client';
import { startRun } from './commands.ts';
import type { ActivityDefinition } from './definition.ts';
import { type ActivityEvent, EVENT_LIMITS, eventOf, hopsOf, recordOf } from './event.ts';
import { eventKeyOf, runWorkflowIdOf } from './ids.ts';
import { compileMatcher, type Matcher } from './match.ts';
import { ACTIVITY_QUEUES } from './names.ts';
import { messageValueOf } from './nats-binding.ts';
import { Refused } from './problem.ts';

export interface RouterDeps {
  readonly store: RouterStore;
  readonly client: Client;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Queue of runs; the product's own by default. */
  readonly taskQueue?: string;
}

/** A message as it was delivered. */
export interface Delivery {
  readonly tenantId: string;
  readonly origin: NewEvent['origin'];
  readonly raw: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly streamSeq: number | null;
  /** 1 for the first. */
  readonly tries: number;
}

export type Routed =
  | { readonly result: 'routed'; readonly started: number; readonly already: number }
  /** Put to dead letters: it must not be delivered again. */
  | { readonly result: 'dead'; readonly stage: 'decode' | 'conflict' | 'loop'; readonly error: string };

export interface Router {
  /** Throws when the database or Temporal can not do it now: nothing is lost, deliver it again. */
  route(delivery: Delivery): Promise<Routed>;
}

const MATCHERS_MAX = 10_000;

export function createRouter({ store, client, log, metrics, taskQueue = ACTIVITY_QUEUES.runs }: RouterDeps): Router {
  const matchers = new Map<string, Matcher>();

  /** Compiled once a version; versions never change. */
  function matcherOf(activityId: string, version: number, spec: string): Matcher {
    const key = `${activityId} ${version}`;
    let matcher = matchers.get(key);
    if (matcher === undefined) {
      matcher = compileMatcher(JSON.parse(spec) as ActivityDefinition);
      if (matchers.size >= MATCHERS_MAX) matchers.clear();
      matchers.set(key, matcher);
    }
    return matcher;
  }

  async function dead(
    delivery: Delivery,
    stage: 'decode' | 'conflict' | 'loop',
    error: string,
    eventKey: string | null,
  ): Promise<Routed> {
    const { tenantId, raw, headers, streamSeq, tries } = delivery;
    await store.deadLetter({ tenantId, stage, eventKey, raw, headers, streamSeq, error, tries });
    metrics.count('activity.events_dead', 1, { stage });
    log.warn({ stage, error, streamSeq }, 'activity.event_dead');
    return { result: 'dead', stage, error };
  }

  return {
    async route(delivery) {
      const { tenantId, origin } = delivery;
      let event: ActivityEvent;
      try {
        event = eventOf(messageValueOf(delivery.headers, delivery.raw));
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        return dead(delivery, 'decode', error.message, null);
      }
      const key = eventKeyOf(event);
      if (hopsOf(event) > EVENT_LIMITS.hops) {
        return dead(delivery, 'loop', `more than ${EVENT_LIMITS.hops} events in a row made each other`, key);
      }
      const { id, source, type, time } = event;
      const record = JSON.stringify(recordOf(event));
      const { state, candidates } = await store.receive(tenantId, { key, id, source, type, time, origin, record });
      metrics.count('activity.events_received', 1, { origin, state });
      if (state === 'conflict') {
        return dead(delivery, 'conflict', `another event of ${source} has the id ${id}`, key);
      }
      const notes: MatchNote[] = candidates.map(({ activityId, version, spec, enabled, status }) => {
        const match = matcherOf(activityId, version, spec)(event);
        if (!match.matched) return { activityId, version, result: 'unmatched', reason: match.reason };
        if (!enabled || status !== 'active') {
          return { activityId, version, result: 'disabled', reason: enabled ? `the activity is ${status}` : null };
        }
        return { activityId, version, result: 'matched', reason: null };
      });
      await store.noteMatches(tenantId, key, notes);
      let [started, already] = [0, 0];
      for (const { activityId, version, result } of notes) {
        if (result !== 'matched') continue;
        const workflowId = runWorkflowIdOf(activityId, event);
        const start = { activityId, workflowId, origin: 'event' as const, eventKey: key, version };
        const answer = await startRun(client, taskQueue, {
          ...start,
          dryRun: false,
          scheduledFor: null,
          forced: false,
        });
        if (answer === 'started') started += 1;
        else already += 1;
      }
      return { result: 'routed', started, already };
    },
  };
}
