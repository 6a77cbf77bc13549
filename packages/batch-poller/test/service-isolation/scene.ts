/**
 * The service-isolation harness: the five steps against a real workerdb, the real control-plane client and the real poll
 * runner over sockets. In memory: object store and TimerManager. Scripted: what the other side answers, when the clock
 * moves, and where a process dies.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { createControlPlane } from '@milkrun/control-plane';
import {
  type BatchCheck,
  type BatchPollerInput,
  type BatchStore,
  batchIdOf,
  type Clock,
  eventIdOf,
  type FeedChange,
  noLog,
  noMetrics,
  type ObjectStore,
  ObjectStoreUnavailable,
  systemClock,
  systemRng,
  type TriggerChange,
  uuidv7,
} from '@milkrun/core';
import { createMemoryObjectStore } from '@milkrun/object-store';
import { createPollRunner, LOCAL_CREDENTIALS } from '@milkrun/poll-runner';
import { createDatabase, PATIENCE, startControlPlaneStandIn, startPollFunctionStandIn } from '@milkrun/testkit';
import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';
import { expect, inject, vi } from 'vitest';
import { broadcast } from '../../src/activities/broadcast.ts';
import { claimAndSnapshot } from '../../src/activities/claim-and-snapshot.ts';
import { commit } from '../../src/activities/commit.ts';
import { fetchAuth } from '../../src/activities/fetch-auth.ts';
import { poll } from '../../src/activities/poll.ts';
import { type BatchDeps, type BatchLimits, DEFAULT_LIMITS } from '../../src/deps.ts';
import { PollSlots } from '../../src/poll-slots.ts';
import { createLocalKeys } from '../../src/snapshot/local-keys.ts';
import { createSnapshots } from '../../src/snapshot/snapshot.ts';
import type { StepResult } from '../../src/step.ts';
import { createBatchActivities } from '../../src/temporal.ts';
import { SceneClock } from './scene-clock.ts';

export const STEPS = ['claim', 'auth', 'poll', 'broadcast', 'commit'] as const;
export type StepName = (typeof STEPS)[number];

const LEASE_SECONDS = 45;
const HOPS_MAX = 3;

/** A process that died: thrown by a durable write that was made, or was not. */
export class Died extends Error {
  override readonly name = 'Died';
}

const CHANGING = [
  'polling_triggers',
  'polling_trigger_runs',
  'polling_trigger_states',
  'batches',
  'batch_fences',
  'timer_shards',
  'workers',
  'source_limits',
  'source_health',
  'held_events',
  'dead_letters',
  'lifecycle_outbox',
  'poll_log',
  'tombstones',
];

/** One database a file; each scene finds it empty. */
export async function openDatabase(): Promise<WorkerDb> {
  return await openWorkerDb({ url: await createDatabase(inject('pgUrl')), connections: 8 });
}

export interface SceneOptions {
  readonly limits?: Partial<BatchLimits>;
  readonly width?: number;
  readonly alone?: boolean;
}

export async function openScene(db: WorkerDb, options: SceneOptions = {}) {
  await db.sql.unsafe(
    `${CHANGING.map((table) => `delete from ${table};`).join('')}
     update fleet set braked = false, polled = 0, brake_reset_at = '-infinity';`,
  );
  await db.ensureTimerShards(1);
  const [controlPlane, source] = await Promise.all([startControlPlaneStandIn(), startPollFunctionStandIn()]);
  const clock = new SceneClock();
  /** Pauses of the two clients cost nothing here: what they would have waited is only added up. */
  let awayMs = 0;
  const patient: Clock = {
    now: () => systemClock.now() + awayMs,
    monotonic: () => systemClock.monotonic() + awayMs,
    sleep: async (ms) => {
      awayMs += ms;
    },
  };
  const memory = createMemoryObjectStore();
  const arms: number[] = [];
  const draining = new AbortController();
  /** Called around each durable write, with what is written; throwing is the death of the process. */
  const writes: { before?: (what: string) => void; after?: (what: string) => void } = {};
  async function durable<T>(what: string, write: () => Promise<T>): Promise<T> {
    writes.before?.(what);
    const done = await write();
    writes.after?.(what);
    return done;
  }
  let isAway = false;
  const reachable = <Args extends unknown[], T>(call: (...args: Args) => Promise<T>) => {
    return async (...args: Args): Promise<T> => {
      if (isAway) throw new ObjectStoreUnavailable('the object store is away');
      return await call(...args);
    };
  };
  let checks = 0;
  const ahead = (check: BatchCheck): BatchCheck => ({
    ...check,
    nowMs: check.nowMs + clock.now() - systemClock.now(),
  });
  const objects: ObjectStore = {
    ...memory,
    get: reachable(memory.get),
    list: reachable(memory.list),
    putIfAbsent: (key, bytes) =>
      durable(`put ${key.split('/').slice(2).join('/')}`, () => memory.putIfAbsent(key, bytes)),
  };
  const store: BatchStore = {
    ...db,
    // The database's clock goes forward with the scene's.
    extend: async (input) => ahead(await db.extend(input)),
    check: async (batchId) => {
      const check = await db.check(batchId);
      checks += 1;
      return ahead(check);
    },
    claim: (input) => durable('claim', () => db.claim(input)),
    holdFenced: (events) => durable('holdFenced', () => db.holdFenced(events)),
    commit: (input) => durable('commit', () => db.commit(input)),
    end: (batchId) => durable('end', () => db.end(batchId)),
  };
  const keys = createLocalKeys(randomBytes(32).toString('base64'));
  const metrics = noMetrics;
  const log = noLog;
  const client = createControlPlane({
    url: controlPlane.url,
    key: 'a-key-for-these-tests-only',
    clock: patient,
    rng: systemRng,
  });
  const runner = createPollRunner({
    functionName: 'poll',
    region: 'us-east-1',
    endpoint: source.url,
    credentials: async () => LOCAL_CREDENTIALS,
    width: options.width ?? 50,
    clock: patient,
  });
  const slots = new PollSlots({ width: options.width ?? 50, clock });
  const freshDeps = (): BatchDeps => ({
    store,
    // A step runs anywhere: nothing decoded is carried over.
    snapshots: createSnapshots({ objects, keys, clock, metrics, log }),
    controlPlane: client,
    runner,
    timers: {
      arm: async (timerShard: number) => {
        arms.push(timerShard);
      },
    },
    slots,
    clock,
    rng: systemRng,
    metrics,
    log,
    limits: { ...DEFAULT_LIMITS, pollDeadlineMs: 5_000, ...options.limits },
    storeAvailable: () => true,
    draining: draining.signal,
    alone: async () => options.alone ?? false,
  });

  let version = 0;
  /** Makes a trigger that is due now. */
  async function trigger(over: Partial<TriggerChange> = {}): Promise<string> {
    const triggerId = over.triggerId ?? randomUUID();
    await change({ ...over, triggerId });
    return triggerId;
  }
  async function change(over: Partial<TriggerChange> & { readonly triggerId: string }): Promise<void> {
    version += 1;
    const full = {
      op: 'upsert',
      configVersion: version,
      tenantId: 'tenant-1',
      toolkit: 'synthetic',
      slug: 'synthetic',
      version: '1',
      config: '{}',
      connectionId: 'connection-1',
      intervalSeconds: 60,
      enabled: true,
      createdAt: '2026-01-01T00:00:00.000Z',
      poll: { dedupe: 'unique', repeatable: true },
      primed: false,
      pollNow: false,
      ...over,
    } as FeedChange;
    await db.applyFeedPage({ after: null, next: '', changes: [full], source: 'push' });
  }
  async function remove(triggerId: string): Promise<void> {
    version += 1;
    const changes: FeedChange[] = [{ op: 'delete', triggerId, configVersion: version }];
    await db.applyFeedPage({ after: null, next: '', changes, source: 'push' });
  }

  /** Plans one batch over everything due. */
  async function plan(): Promise<BatchPollerInput> {
    const batchIds = [batchIdOf(0, uuidv7(systemClock, systemRng))];
    const { planned } = await db.tick({ timerShard: 0, batchSize: 5_000, batchIds, dispatch: true });
    const [one] = planned;
    if (one === undefined) throw new Error('nothing is due');
    const policy = { maxRetryCounter: HOPS_MAX, leaseSeconds: LEASE_SECONDS };
    return { batchId: one.batchId, timerShard: 0, size: one.keys, retryCounter: 0, policy };
  }

  interface RunOptions {
    readonly hop?: number;
    readonly attempt?: number;
    readonly force?: boolean;
    readonly signal?: AbortSignal;
  }
  /** One attempt of one step, in a process of its own. */
  async function run(step: StepName, input: BatchPollerInput, over: RunOptions = {}): Promise<StepResult> {
    const { hop = input.retryCounter, attempt = 1, force = hop >= HOPS_MAX } = over;
    const own = { ...input, retryCounter: hop };
    const context = { attempt, signal: over.signal ?? new AbortController().signal, heartbeat: () => {} };
    const deps = freshDeps();
    switch (step) {
      case 'claim':
        return await claimAndSnapshot(deps, own, context);
      case 'auth':
        return await fetchAuth(deps, own, context);
      case 'poll':
        return await poll(deps, own, context);
      case 'broadcast':
        return await broadcast(deps, own, context);
      case 'commit':
        return await commit(deps, { ...own, force, askedSeconds: 0 }, context);
    }
  }
  /** The corridor once: the results of the steps, the last of them commit's. */
  async function hop(input: BatchPollerInput, over: RunOptions = {}): Promise<StepResult> {
    let last: StepResult = { status: 'ok', done: 0, left: 0 };
    for (const step of STEPS) {
      last = await run(step, input, over);
      if (last.status === 'ended') return last;
    }
    return last;
  }
  /** Runs the hops of a batch from one on, until it has ended. */
  async function settled(input: BatchPollerInput, from = 1): Promise<void> {
    for (let at = from; at <= HOPS_MAX; at += 1) {
      // What an endpoint asked us to stay away for lies between two hops, as the workflow's back-off does.
      awayMs += 60_000;
      const end = await hop(input, { hop: at });
      if (end.status === 'ended' || end.left === 0) break;
    }
  }
  /** Plans a batch and runs it to its end, hop by hop. */
  async function round(): Promise<BatchPollerInput> {
    const input = await plan();
    await settled(input, 0);
    return input;
  }
  async function makeDue(): Promise<void> {
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '1 s' where enabled and (halted_code is null or halted_probe)`;
    await db.sql`update timer_shards set backoff_until = null, backoff_level = 0`;
  }
  /** Primes triggers without telling anything, so that a test starts from a known memory. */
  async function primed(count: number, over: Partial<TriggerChange> = {}): Promise<string[]> {
    const made: string[] = [];
    for (let at = 0; at < count; at += 1) made.push(await trigger(over));
    await round();
    await makeDue();
    controlPlane.stateCalls.length = 0;
    controlPlane.connCalls.length = 0;
    source.calls.length = 0;
    return made;
  }
  async function row(triggerId: string) {
    const [found] = await db.sql`
      select t.*, c.code, h.code as halt, s.cursor::text as cursor, octet_length(s.seen || s.seen_added) / 8 as seen,
        extract(epoch from t.next_poll_at - statement_timestamp())::float8 as due_in,
        exists (select from batches b where b.batch_no = t.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp()) as leased
      from polling_trigger_runs t join polling_trigger_states s using (shard, trigger_id)
      left join codes c on c.no = t.last_code left join codes h on h.no = t.halted_code where t.trigger_id = ${triggerId}`;
    if (found === undefined) throw new Error(`no row ${triggerId}`);
    return {
      code: found.code as string,
      halt: found.halt as string | null,
      cursor: found.cursor as string | null,
      seen: found.seen as number,
      primed: found.primed as boolean,
      leased: found.leased as boolean,
      epoch: found.lease_epoch as number,
      failures: found.failure_count as number,
      poisons: found.poison_count as number,
      /** Seconds from now; null when it is not polled any more. */
      dueIn: found.due_in as number | null,
      versionUsed: found.version_used as string | null,
    };
  }
  const count = async (table: string): Promise<number> =>
    Number((await db.sql.unsafe(`select count(*) as n from ${table}`))[0]?.n);

  return {
    db,
    clock,
    controlPlane,
    source,
    arms,
    slots,
    writes,
    objects: memory,
    trigger,
    change,
    remove,
    plan,
    run,
    hop,
    settled,
    round,
    makeDue,
    primed,
    row,
    count,
    /** Names of the batch's objects, such as `auth/0.1`. */
    objectNames: async (batchId: string, prefix = '') =>
      (await memory.list(`batches/${batchId}/${prefix}`)).map((key) => key.split('/').slice(2).join('/')),
    /** The steps as Temporal runs them. */
    activities: () => createBatchActivities(freshDeps()),
    storeIsAway: (away: boolean) => {
      isAway = away;
    },
    /** Changes a byte of each object under a prefix of the batch. */
    async damage(batchId: string, prefix: string): Promise<void> {
      for (const key of await memory.list(`batches/${batchId}/${prefix}`)) {
        const bytes = (await memory.get(key)) as Uint8Array;
        bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) ^ 1;
        await memory.delete(key);
        await memory.putIfAbsent(key, bytes);
      }
    },
    /** Waits until a step that runs has read its fence once more. */
    async fenceRead(): Promise<void> {
      const before = checks;
      await vi.waitFor(() => expect(checks).toBeGreaterThan(before), { ...PATIENCE, interval: 5 });
    },
    drain: () => draining.abort(new Error('the worker drains')),
    expire: (batchId: string) =>
      db.sql`update batches set expires_at = statement_timestamp() - interval '1 s' where batch_id = ${batchId}`,
    /** Ids the items of a trigger have, whatever happens. */
    idsOf: (triggerId: string, ...itemKeys: string[]) => itemKeys.map((key) => eventIdOf(triggerId, key)),
    leases: () =>
      count(
        'polling_trigger_runs t join batches b on b.batch_no = t.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp()',
      ),
    async close() {
      await client.close();
      await runner.close();
      await Promise.all([controlPlane.close(), source.close()]);
    },
  };
}

export type Scene = Awaited<ReturnType<typeof openScene>>;
