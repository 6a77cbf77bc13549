/** The commit step over a sealed snapshot and a workerdb that answers by script: what a test says of both, and what came of it. */
import {
  type BatchStore,
  type ClaimedTrigger,
  type Clock,
  type CommitInput,
  type CommitResult,
  eventIdOf,
  type HeldEvent,
  noLog,
  type TriggerState,
  uuidv7,
} from '@milkrun/core';
import { commit } from '../src/activities/commit.ts';
import { type BatchDeps, DEFAULT_LIMITS } from '../src/deps.ts';
import type { AuthRecord, DeliveredRecord, ResultRecord, VerdictRecord } from '../src/snapshot/records.ts';
import { resultRecord, trigger } from './factories.ts';
import { createHarness } from './snapshot/harness.ts';

const PLANNED_MS = Date.parse('2026-01-01T00:00:00Z');
const NOW_MS = PLANNED_MS + 42_000;
/** A clock that stands still: who sleeps sleeps until the step is over. */
const clock: Clock = {
  now: () => NOW_MS,
  monotonic: () => 1_000,
  sleep: (_ms, signal) =>
    new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true })),
};
const rng = { next: () => 0.5, bytes: (count: number) => new Uint8Array(count).fill(7) };
export const BATCH = `batch-poller:0:${uuidv7({ ...clock, now: () => PLANNED_MS }, rng)}`;
const NOTHING: CommitResult = { committed: 0, exceptions: [], nextDueInMs: null, arm: false, halted: {} };

export interface Script {
  readonly entries: readonly ClaimedTrigger[];
  readonly results?: readonly ResultRecord[];
  readonly delivered?: readonly DeliveredRecord[];
  readonly verdicts?: readonly VerdictRecord[];
  readonly fenced?: readonly { triggerId: string; deleted: boolean }[];
  /** What the batch still owns, asked for in later hops. */
  readonly owned?: readonly ClaimedTrigger[];
  readonly answer?: Partial<CommitResult>;
  readonly states?: readonly TriggerState[];
  readonly hop?: number;
  readonly force?: boolean;
  readonly askedSeconds?: number;
  readonly live?: boolean;
  readonly draining?: boolean;
  readonly attempt?: number;
  /** The object store cannot be read. */
  readonly away?: boolean;
  /** The object that lists the batch's entries is lost. */
  readonly unlisted?: boolean;
  /** The lease runs out after the step has begun. */
  readonly expires?: boolean;
}

export async function runCommit(script: Script) {
  const { hop = 0, force = false, askedSeconds = 0, live = true } = script;
  const harness = createHarness();
  const writing = harness.fresh();
  if (script.unlisted !== true) await writing.writeEntries(BATCH, script.entries);
  const auth: AuthRecord = { connectionId: 'c', tenantId: 't', auth: '{}', expiresAtMs: null, fetchedAtMs: 0, hop: 0 };
  await writing.writeAuth(BATCH, 0, 1, [auth]);
  if (script.verdicts !== undefined) await writing.writeVerdicts(BATCH, 0, 1, 0, script.verdicts);
  if (script.results !== undefined) {
    const writer = writing.resultWriter(BATCH, 0, 1);
    for (const record of script.results) await writer.append(record);
    await writer.close();
  }
  await writing.deliveredWriter(BATCH, 0, 1).record(script.delivered ?? []);

  const did: string[] = [];
  const commits: CommitInput[] = [];
  const held: HeldEvent[] = [];
  const reads: number[] = [];
  const counted: Record<string, number> = {};
  const logged: string[] = [];
  const errors: string[] = [];
  const note = (kind: string, name: string, value: number, tags: object = {}): void => {
    counted[`${kind} ${[name, ...Object.values(tags)].join(' ')}`] = value;
  };
  const says = (fields: Readonly<Record<string, unknown>>, event: string): void => {
    logged.push(event);
    errors.push(String(fields.error));
  };
  const check = { live, fenced: (script.fenced ?? []).map((row) => ({ shard: 27, ...row })), brake: false };
  const store = {
    extend: async () => check,
    check: async () => check,
    claim: async () =>
      script.expires === true
        ? { status: 'ended', triggers: [] }
        : { status: 'again', triggers: script.owned ?? script.entries },
    readStates: async (keys: readonly object[]) => {
      reads.push(keys.length);
      return script.states ?? [];
    },
    holdFenced: async (events: readonly HeldEvent[]) => void held.push(...events),
    commit: async (input: CommitInput) => {
      did.push('commit');
      commits.push(input);
      return { ...NOTHING, committed: input.rows.length, ...script.answer };
    },
    end: async () => void did.push('end'),
  } as unknown as BatchStore;
  const draining = new AbortController();
  if (script.draining === true) draining.abort();
  const snapshots = harness.fresh();
  const deps = {
    store,
    snapshots:
      script.away === true ? { ...snapshots, readResults: () => Promise.reject(new Error('away')) } : snapshots,
    timers: { arm: async (shard: number) => void did.push(`arm ${shard}`) },
    clock,
    rng,
    metrics: {
      count: (name: string, value = 1, tags: object = {}) => note('count', name, value, tags),
      gauge: (name: string, value: number, tags: object = {}) => note('gauge', name, value, tags),
      observe: (name: string, value: number, tags: object = {}) => note('observe', name, value, tags),
    },
    log: { ...noLog, error: says },
    limits: DEFAULT_LIMITS,
    draining: draining.signal,
    alone: async () => true,
  } as unknown as BatchDeps;
  const policy = { maxRetryCounter: 3, leaseSeconds: 45 };
  const input = { batchId: BATCH, timerShard: 4, size: 1, retryCounter: hop, policy, force, askedSeconds };
  const context = { attempt: script.attempt ?? 1, signal: new AbortController().signal, heartbeat: () => {} };
  const result = await commit(deps, input, context);
  const authLeft = (await harness.objects.list(`batches/${BATCH}/auth/`)).length;
  return { result, did, commits, held, reads, counted, logged, errors, authLeft };
}

export const ids = (count: number): string[] =>
  Array.from({ length: count }, (_, n) => `3f2b8c1e-6f0a-4a53-9d53-${String(n).padStart(12, '0')}`);
export const triggers = (count: number, over: Partial<ClaimedTrigger> = {}): ClaimedTrigger[] =>
  ids(count).map((triggerId) => trigger({ triggerId, ...over }));
export const of = (triggerId: string, over: Partial<ResultRecord> = {}): ResultRecord =>
  resultRecord({ triggerId, ...over });
export const withEvent = (triggerId: string, key = 'a'): ResultRecord => {
  const event = { eventId: eventIdOf(triggerId, key), json: `{"key":"${key}"}` };
  return of(triggerId, { events: [event], newKeys: 'AAAAAAAAAAE=' });
};
export const [A, B, C] = ids(3) as [string, string, string];
