/**
 * The engine's parts as a worker puts them together, for drills that run batches hop by hop: a real workerdb, the real
 * steps, snapshots, control-plane client and poll runner over sockets. The control plane and the poll function are
 * stand-ins whose misbehaviour a drill scripts; the object store is in memory. Pauses that a client would make cost nothing:
 * they are added to its clock.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import {
  BATCH_STEPS,
  type BatchDeps,
  type BatchLimits,
  createLocalKeysFrom,
  createSnapshots,
  DEFAULT_LIMITS,
  type HopSteps,
  PollSlots,
  runHop,
  type StepContext,
} from '@milkrun/batch-poller';
import { createControlPlane } from '@milkrun/control-plane';
import {
  type BatchPollerInput,
  batchIdOf,
  type Clock,
  type ControlPlane,
  type FeedChange,
  type Log,
  noLog,
  noMetrics,
  type ObjectStore,
  systemClock,
  systemRng,
  type TriggerChange,
  uuidv7,
} from '@milkrun/core';
import { createMemoryObjectStore } from '@milkrun/object-store';
import { createPollRunner, LOCAL_CREDENTIALS } from '@milkrun/poll-runner';
import { createDatabase, startControlPlaneStandIn, startPollFunctionStandIn } from '@milkrun/testkit';
import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';

const POLICY = { maxRetryCounter: 3, leaseSeconds: 45 };
/** A page that creates more spreads their first polls over the interval. */
const FEED_PAGE = 100;
const HOP_PAUSE_MS = 60_000;

export interface RigOptions {
  /** A server on which databases may be created. */
  readonly pgUrl: string;
  readonly width?: number;
  readonly limits?: Partial<BatchLimits>;
  readonly log?: Log;
  readonly objects?: ObjectStore;
}

export interface RigRow {
  readonly code: string;
  readonly halt: string | null;
  /** JSON text as PostgreSQL prints it. */
  readonly cursor: string | null;
  readonly leased: boolean;
  readonly poisons: number;
}

export type Rig = Awaited<ReturnType<typeof openRig>>;

export async function openRig(options: RigOptions) {
  const { pgUrl, width = 100, limits = {}, log = noLog, objects = createMemoryObjectStore() } = options;
  const db: WorkerDb = await openWorkerDb({ url: await createDatabase(pgUrl), connections: 8 });
  await db.ensureTimerShards(1);
  let waitedMs = 0;
  const clock: Clock = {
    now: () => systemClock.now() + waitedMs,
    monotonic: () => systemClock.monotonic() + waitedMs,
    sleep: async (ms) => {
      waitedMs += ms;
    },
  };
  const keys = createLocalKeysFrom([randomBytes(32)]);
  const source = await startPollFunctionStandIn();
  const runner = createPollRunner({
    functionName: 'poll',
    region: 'us-east-1',
    endpoint: source.url,
    credentials: async () => LOCAL_CREDENTIALS,
    width,
    clock,
  });
  const slots = new PollSlots({ width, clock: systemClock });
  let controlPlane = await startControlPlaneStandIn();
  let client: ControlPlane = connect();
  let version = 0;

  function connect(): ControlPlane {
    return createControlPlane({ url: controlPlane.url, key: 'a-key-of-the-drill', clock, rng: systemRng });
  }

  /** A process of its own for each step: nothing decoded is carried over. */
  function deps(): BatchDeps {
    return {
      store: db,
      snapshots: createSnapshots({ objects, keys, metrics: noMetrics, log, clock: systemClock }),
      controlPlane: client,
      runner,
      timers: { arm: async () => {} },
      slots,
      clock: systemClock,
      rng: systemRng,
      metrics: noMetrics,
      log,
      limits: { ...DEFAULT_LIMITS, pollDeadlineMs: 10_000, ...limits },
      storeAvailable: () => true,
      draining: new AbortController().signal,
      alone: async () => false,
    };
  }

  const context: StepContext = { attempt: 1, signal: new AbortController().signal, heartbeat: () => {} };
  const steps: HopSteps = {
    claimAndSnapshot: (input) => BATCH_STEPS.claimAndSnapshot(deps(), input, context),
    fetchAuth: (input) => BATCH_STEPS.fetchAuth(deps(), input, context),
    poll: (input) => BATCH_STEPS.poll(deps(), input, context),
    broadcast: (input) => BATCH_STEPS.broadcast(deps(), input, context),
    commit: (input) => BATCH_STEPS.commit(deps(), input, context),
  };
  const host = {
    isCancellation: () => false,
    uncancelled: <T>(work: () => Promise<T>) => work(),
    warn: () => {},
  };

  return {
    db,
    source,
    objects,
    steps,
    /** The control plane in use: another one after `newControlPlane`. */
    get controlPlane() {
      return controlPlane;
    },
    /** Another control plane under another address, and a client that knows nothing of it yet. */
    async newControlPlane(): Promise<void> {
      const [oldClient, oldServer] = [client, controlPlane];
      controlPlane = await startControlPlaneStandIn();
      client = connect();
      await oldClient.close();
      await oldServer.close();
    },
    /** Makes triggers, due at once, or changes them. Answers their ids. */
    async feed(changes: readonly Partial<TriggerChange>[]): Promise<string[]> {
      const full = changes.map((change): FeedChange => {
        version += 1;
        return {
          op: 'upsert',
          triggerId: randomUUID(),
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
          ...change,
        } as FeedChange;
      });
      for (let at = 0; at < full.length; at += FEED_PAGE) {
        const changes = full.slice(at, at + FEED_PAGE);
        await db.applyFeedPage({ after: null, next: '', changes, source: 'push' });
      }
      return full.map(({ triggerId }) => triggerId);
    },
    /** Makes every polled trigger due now. */
    async makeDue(): Promise<void> {
      await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '1 s'
        where enabled and (halted_code is null or halted_probe)`;
      await db.sql`update timer_shards set backoff_until = null, backoff_level = 0`;
    },
    /** Plans one batch over all that is due. */
    async plan(): Promise<BatchPollerInput> {
      const batchIds = [batchIdOf(0, uuidv7(systemClock, systemRng))];
      const { planned } = await db.tick({ timerShard: 0, batchSize: 5_000, batchIds, dispatch: true });
      const [one] = planned;
      if (one === undefined) throw new Error('nothing is due');
      return { batchId: one.batchId, timerShard: 0, size: one.keys, retryCounter: 0, policy: POLICY };
    },
    /** One hop; the next one's input, or undefined when the batch is over. */
    async hop(input: BatchPollerInput): Promise<BatchPollerInput | undefined> {
      const end = await runHop(input, steps, host);
      if (end.kind === 'over') return undefined;
      waitedMs += HOP_PAUSE_MS;
      return end.input;
    },
    /** Plans a batch and runs it to its end; answers how many hops it took. */
    async round(from?: BatchPollerInput): Promise<number> {
      let hops = 0;
      for (let input = from ?? (await this.plan()), next = true; next; hops += 1) {
        const after = await this.hop(input);
        next = after !== undefined;
        if (after !== undefined) input = after;
      }
      return hops;
    },
    async rows(): Promise<ReadonlyMap<string, RigRow>> {
      const rows = await db.sql`
        select t.trigger_id as id, c.code, h.code as halt, s.cursor::text as cursor, t.poison_count as poisons,
          exists (select from batches b where b.batch_no = t.lease_owner and b.ended_at is null
            and b.expires_at > statement_timestamp()) as leased
        from polling_trigger_runs t join polling_trigger_states s using (shard, trigger_id)
        left join codes c on c.no = t.last_code left join codes h on h.no = t.halted_code`;
      return new Map(rows.map(({ id, ...row }) => [id as string, row as unknown as RigRow]));
    },
    async leases(): Promise<number> {
      const [row] = await db.sql`select count(*)::int as n from polling_trigger_runs t join batches b
        on b.batch_no = t.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp()`;
      return row?.n as number;
    },
    async close(): Promise<void> {
      await client.close();
      await runner.close();
      await Promise.all([controlPlane.close(), source.close()]);
      await db.close();
    },
  };
}
