/**
 * Routes events to activities: store → match → start, each repeatable, so that whoever delivers an event may deliver it again.
 *
 * Nothing is lost and nothing runs twice: an event is acknowledged by its deliverer only when `route` has resolved, and a
 * second delivery finds runs that were started already. What can never be routed goes to dead letters with its raw bytes.
 */
import type { Log, MatchNote, Metrics, NewEvent, RouterStore } from '@milkrun/core';
import type { Client } from '@temporalio/client';
import type { Handling } from './collect.ts';
import { signalInbox, startRun } from './commands.ts';
import type { ActivityDefinition } from './definition.ts';
import { type ActivityEvent, EVENT_LIMITS, eventOf, hopsOf, recordOf } from './event.ts';
import { createTypeCheck, type EventTypePolicy } from './event-schema.ts';
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
  /** `approved`: events whose type was not approved are refused; `open` by default. */
  readonly eventTypes?: EventTypePolicy;
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

type DeadStage = 'decode' | 'schema' | 'conflict' | 'loop';

export type Routed =
  | { readonly result: 'routed'; readonly started: number; readonly already: number }
  /** Put to dead letters: it must not be delivered again. */
  | { readonly result: 'dead'; readonly stage: DeadStage; readonly error: string };

export interface Router {
  /** Throws when the database or Temporal can not do it now: nothing is lost, deliver it again. */
  route(delivery: Delivery): Promise<Routed>;
}

const MATCHERS_MAX = 10_000;

export function createRouter(deps: RouterDeps): Router {
  const { store, client, log, metrics, taskQueue = ACTIVITY_QUEUES.runs } = deps;
  const checkType = createTypeCheck(deps.eventTypes ?? 'open');
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

  async function dead(delivery: Delivery, stage: DeadStage, error: string, eventKey: string | null): Promise<Routed> {
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
      const stored = { key, id, source, type, time, origin, record };
      const received = await store.receive(tenantId, stored, (registered) => checkType(event, tenantId, registered));
      metrics.count('activity.events_received', 1, { origin, state: received.state });
      if (received.state === 'refused') return dead(delivery, 'schema', received.reason, key);
      const { state, candidates } = received;
      if (state === 'conflict') {
        return dead(delivery, 'conflict', `another event of ${source} has the id ${id}`, key);
      }
      const handlings = new Map<string, Handling>();
      const notes: MatchNote[] = candidates.map(({ activityId, version, spec, enabled, status }) => {
        const match = matcherOf(activityId, version, spec)(event);
        if (!match.matched) return { activityId, version, result: 'unmatched', reason: match.reason };
        if (!enabled || status !== 'active') {
          return { activityId, version, result: 'disabled', reason: enabled ? `the activity is ${status}` : null };
        }
        handlings.set(activityId, match.handling);
        return { activityId, version, result: 'matched', reason: null };
      });
      await store.noteMatches(tenantId, key, notes);
      let [started, already] = [0, 0];
      for (const { activityId, version, result } of notes) {
        if (result !== 'matched') continue;
        const handling = handlings.get(activityId);
        if (handling !== undefined && handling.to !== 'start') {
          const input = { tenantId, activityId, eventKey: key, version, ...handling };
          // Once a run has it, another delivery changes nothing.
          if ((await store.collect(input)).taken) already += 1;
          else {
            await signalInbox(client, taskQueue, input);
            started += 1;
            metrics.count('activity.events_collected', 1, { to: handling.to });
          }
          continue;
        }
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
