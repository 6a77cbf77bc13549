/**
 * The real steps around a real workerdb and a real snapshot store. What is the drill's own is the world outside: a provider
 * that lists items, and a receiver that keeps what it accepted.
 */
import {
  type BatchDeps,
  type BatchLimits,
  createLocalKeysFrom,
  createSnapshots,
  DEFAULT_LIMITS,
  PollSlots,
  type StepContext,
} from '@milkrun/batch-poller';
import {
  type BatchPollerInput,
  type BatchStore,
  type ControlPlane,
  type KeyProvider,
  noLog,
  noMetrics,
  type ObjectStore,
  type PollReply,
  type PollRunner,
  type StateAnswer,
  type StateResult,
  systemClock,
  systemRng,
} from '@milkrun/core';

export const LEASE_SECONDS = 45;
const WIDTH = 64;

export interface Receiver extends ControlPlane {
  /** How often each event was accepted. */
  readonly accepted: ReadonlyMap<string, number>;
  /** Takes results as a control plane does, and answers so. */
  accept(results: readonly StateResult[]): StateAnswer;
}

export interface ReceiverOptions {
  /** Looks at one `/state` first; undefined leaves it to `accept`. */
  readonly onState?: (results: readonly StateResult[]) => Promise<StateAnswer | undefined>;
}

/** A control plane that answers every connection and accepts every event. */
export function createReceiver({ onState }: ReceiverOptions = {}): Receiver {
  const accepted = new Map<string, number>();
  const accept = (results: readonly StateResult[]): StateAnswer => {
    for (const { events } of results) {
      for (const event of events) {
        const { id } = JSON.parse(event) as { id: string };
        accepted.set(id, (accepted.get(id) ?? 0) + 1);
      }
    }
    const statuses = results.map(({ triggerId }) => ({ triggerId, status: 'accepted' as const }));
    return { kind: 'answered', statuses, lifecycle: [] };
  };
  return {
    accepted,
    accept,
    async fetchConnections(asks) {
      return asks.map(({ connectionId, tenantId }) => ({
        connectionId,
        tenantId,
        code: 'ok' as const,
        auth: '{}',
        lastsMs: null,
      }));
    },
    postState: async ({ results }) => (await onState?.(results)) ?? accept(results),
    readChanges: async () => ({ kind: 'unavailable', reason: 'this control plane has no feed' }),
    available: () => true,
    close: async () => {},
  };
}

export interface PollAsked {
  readonly triggerId: string;
  /** JSON text. */
  readonly cursor: string;
  readonly since: string | undefined;
}

/** A poll function that runs in this process. */
export function createProvider(answer: (asked: PollAsked) => PollReply | Promise<PollReply>): PollRunner {
  return {
    async poll({ body }) {
      const { trigger, cursor, since } = JSON.parse(body) as {
        trigger: { id: string };
        cursor: unknown;
        since?: string;
      };
      return await answer({ triggerId: trigger.id, cursor: JSON.stringify(cursor), since });
    },
    available: () => true,
    close: async () => {},
  };
}

/** A page as a poll function answers it. */
export function pageOf(
  items: readonly { key: string; occurredAt?: string }[],
  cursor: unknown,
  more = false,
): PollReply {
  const page = { items: items.map((item) => ({ ...item, data: item })), cursor: JSON.stringify(cursor), more };
  return { code: 'ok', page, bytes: 0 };
}

export interface StepWorld {
  readonly store: BatchStore;
  readonly objects: ObjectStore;
  readonly keys: KeyProvider;
  readonly controlPlane: ControlPlane;
  readonly runner: PollRunner;
  readonly limits?: Partial<BatchLimits>;
}

/** What a step is given, as in a process that has just started: nothing decoded is carried over. */
export function stepDeps({ store, objects, keys, controlPlane, runner, limits }: StepWorld): BatchDeps {
  return {
    store,
    snapshots: createSnapshots({ objects, keys, clock: systemClock, metrics: noMetrics, log: noLog }),
    controlPlane,
    runner,
    timers: { arm: async () => {} },
    slots: new PollSlots({ width: WIDTH, clock: systemClock }),
    clock: systemClock,
    rng: systemRng,
    metrics: noMetrics,
    log: noLog,
    limits: { ...DEFAULT_LIMITS, ...limits },
    storeAvailable: () => true,
    draining: new AbortController().signal,
    alone: async () => false,
  };
}

/** A key for a store that goes with the drill. */
export const drillKeys = (): KeyProvider => createLocalKeysFrom([new Uint8Array(32).fill(7)]);

export function contextOf(attempt: number): StepContext {
  return { attempt, signal: new AbortController().signal, heartbeat: () => {} };
}

export function inputOf(batchId: string, size: number, hop = 0): BatchPollerInput {
  return {
    batchId,
    timerShard: 0,
    size,
    retryCounter: hop,
    policy: { maxRetryCounter: 3, leaseSeconds: LEASE_SECONDS },
  };
}
