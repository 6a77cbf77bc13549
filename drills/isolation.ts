/**
 * Credentials of one trigger never reach another's poll, whatever `/conn/batch` answers: shuffled, missing, doubled,
 * under other tenants, invented, with ids that are almost right, refused for being too large. Each batch has connections of
 * several tenants, equal connection ids among them, and ids that look like something else.
 *
 * Two ways. Over real sockets and a real workerdb: whole batches of the engine, as many as `sockets` says. In one process:
 * the real client, matching, auth step, sealed snapshot and poll step, with the wire, the poll function and the lease in
 * memory, because 100,000 batches over sockets would take hours. In both, every credential says whom it was made for, and
 * every poll looks at what it was given.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import {
  BATCH_STEPS,
  type BatchDeps,
  createLocalKeysFrom,
  createSnapshots,
  DEFAULT_LIMITS,
  PollSlots,
  type StepContext,
} from '@milkrun/batch-poller';
import { createControlPlane, type Wire } from '@milkrun/control-plane';
import {
  type BatchPollerInput,
  type BatchStore,
  type ClaimedTrigger,
  type Clock,
  noLog,
  noMetrics,
  type PollRunner,
  systemClock,
  systemRng,
} from '@milkrun/core';
import { createMemoryObjectStore } from '@milkrun/object-store';
import type { AskedConnection, Scripted } from '@milkrun/testkit';
import { claimedTrigger } from './lib/claimed-trigger.ts';
import { type Connection, CrookedAnswers, identity } from './lib/crooked-answers.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';
import { withPostgres } from './lib/parts.ts';
import { randomFrom } from './lib/random.ts';
import { openRig } from './lib/rig.ts';

const AT_ONCE = 8;
const SOCKET_CONNECTIONS = 24;
/** Of batches in one process, those that go on to a second hop. */
const SECOND_HOP_SHARE = 0.2;

interface Tally {
  batches: number;
  polls: number;
  foreignCredentials: number;
  /** Polls of a connection that no answer of its batch had named once and as active. */
  unnamed: number;
}

export const drill: Drill = {
  name: 'isolation',
  about: 'No answer of /conn/batch, however wrong, gives a poll the credentials of another trigger.',
  defaults: { count: 5_000 },
  fullCount: 100_000,
  ciCount: 500,
  flags: { sockets: 'batches over sockets and a real workerdb, of those counted; default 20' },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const sockets = Math.min(count, integerFrom('sockets', flags.sockets, 20, 1));
    const random = randomFrom(seed);
    const answers = new CrookedAnswers(random);
    const tally: Tally = { batches: 0, polls: 0, foreignCredentials: 0, unnamed: 0 };
    await overSockets(sockets, answers, random, tally, log);
    const inProcess = createInProcess(answers, tally, log);
    let next = sockets;
    const lane = async (): Promise<void> => {
      while (next < count) {
        const batch = next;
        next += 1;
        await inProcess.runBatch(randomFrom(seed + batch));
        if (tally.batches % 10_000 === 0) log(`${tally.batches} of ${count} batches, ${tally.polls} polls`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    await inProcess.close();
    const { batches, polls, foreignCredentials, unnamed } = tally;
    // Without polls, or with a crooked way that was never taken, nothing was proved.
    const idle = answers.unused.length + (polls > batches ? 0 : 1);
    for (const way of answers.unused) log(`violation: no answer was ${way}`);
    return {
      tried: batches,
      violations: foreignCredentials + unnamed + idle,
      faults: answers.made,
      foreignCredentials,
      unnamed,
      polls,
      batchesOverSockets: sockets,
      answers: answers.ways,
    };
  },
};

/** Whom a trigger in one process belongs to. */
interface Owner {
  readonly of: Connection;
  readonly answers: CrookedAnswers;
  /** Which connections the batch's answers have named once and as active. */
  readonly named: Set<string>;
}

/** Compares what a poll was given with whom it is for. */
function judge(
  trigger: Connection,
  auth: unknown,
  named: ReadonlySet<string>,
  tally: Tally,
  log: (line: string) => void,
): void {
  tally.polls += 1;
  const own = identity(trigger);
  const madeFor = (auth as { madeFor?: unknown } | null)?.madeFor;
  if (madeFor !== own) {
    tally.foreignCredentials += 1;
    log(`violation: a poll for ${own} was given what was made for ${String(madeFor)}`);
  } else if (!named.has(own)) {
    tally.unnamed += 1;
    log(`violation: a poll for ${own} was made, and its connection was not named once and as active`);
  }
}

async function overSockets(
  batches: number,
  answers: CrookedAnswers,
  random: () => number,
  tally: Tally,
  log: (line: string) => void,
): Promise<void> {
  await withPostgres(async (pgUrl) => {
    const rig = await openRig({ pgUrl });
    try {
      const connections = answers.connections(SOCKET_CONNECTIONS);
      const wanted = connections.flatMap((of) => Array.from({ length: 1 + Math.floor(random() * 3) }, () => of));
      const ids = await rig.feed(wanted);
      const byId = new Map(ids.map((id, n) => [id, wanted[n] as Connection]));
      const named = new Set<string>();
      rig.controlPlane.conn = (asks): Scripted => {
        const answer = answers.answer(asks);
        for (const own of answer.named) named.add(own);
        return { status: answer.status, body: answer.body };
      };
      rig.source.script = (call) => {
        judge(byId.get(call.trigger.id) as Connection, call.auth, named, tally, log);
        return undefined;
      };
      for (let batch = 0; batch < batches; batch += 1) {
        named.clear();
        if (batch > 0) await rig.makeDue();
        // Halted ones are lifted, as their owners would: or after some batches nothing would be left to poll.
        await rig.db.sql`update polling_trigger_runs set halted_code = null, halted_at = null, halted_probe = false,
          next_poll_at = statement_timestamp() - interval '1 s' where halted_code is not null`;
        await rig.round();
        tally.batches += 1;
      }
    } finally {
      await rig.close();
    }
  });
}

/** One process without sockets and database; see the head of this file. */
function createInProcess(all: CrookedAnswers, tally: Tally, log: (line: string) => void) {
  const objects = createMemoryObjectStore();
  const keys = createLocalKeysFrom([randomBytes(32)]);
  const signal = new AbortController().signal;
  const context: StepContext = { attempt: 1, signal, heartbeat: () => {} };
  const owners = new Map<string, Owner>();
  /** No pause of a client is waited for. */
  const clock: Clock = { ...systemClock, sleep: async () => {} };
  const wire: Wire = {
    async request({ body }) {
      const asks = JSON.parse(body ?? '{}').connections as AskedConnection[];
      // A call asks for one batch.
      const { answers, named } = owners.get(asks[0]?.triggerIds[0] ?? '') as Owner;
      const answer = answers.answer(asks);
      for (const own of answer.named) named.add(own);
      return { statusCode: answer.status, headers: {}, body: bodyOf(answer.body) };
    },
    timeout: () => signal,
    close: async () => {},
  };
  const client = createControlPlane({ url: 'http://in.process', key: 'k', clock, rng: systemRng, wire });
  const runner: PollRunner = {
    async poll({ body }) {
      const { trigger, auth } = JSON.parse(body) as { trigger: { id: string }; auth: unknown };
      const { of, named } = owners.get(trigger.id) as Owner;
      judge(of, auth, named, tally, log);
      return { code: 'ok', page: { items: [], cursor: '1', more: false }, bytes: 10 };
    },
    available: () => true,
    close: async () => {},
  };
  const live = { live: true, fenced: [], brake: false };
  /** A lease that holds and rows that remember nothing; no other statement is part of these two steps. */
  const store = {
    check: async () => live,
    extend: async () => live,
    readStates: async () => [],
  } as unknown as BatchStore;
  const slots = new PollSlots({ width: 64, clock: systemClock });
  const deps: BatchDeps = {
    store,
    snapshots: createSnapshots({ objects, keys, metrics: noMetrics, log: noLog, clock: systemClock }),
    controlPlane: client,
    runner,
    timers: { arm: async () => {} },
    slots,
    clock: systemClock,
    rng: systemRng,
    metrics: noMetrics,
    log: noLog,
    limits: DEFAULT_LIMITS,
    storeAvailable: () => true,
    draining: signal,
    alone: async () => true,
  };
  return {
    async runBatch(random: () => number): Promise<void> {
      const answers = all.of(random);
      const batchId = `batch-poller:0:${randomUUID()}`;
      const connections = answers.connections(2 + Math.floor(random() * 5));
      const named = new Set<string>();
      const triggers = connections.flatMap((of): ClaimedTrigger[] =>
        Array.from({ length: 1 + Math.floor(random() * 2) }, () => claimedTrigger({ triggerId: randomUUID(), ...of })),
      );
      for (const { triggerId, tenantId, connectionId } of triggers) {
        owners.set(triggerId, { of: { tenantId, connectionId }, answers, named });
      }
      await deps.snapshots.writeEntries(batchId, triggers);
      const policy = { maxRetryCounter: 3, leaseSeconds: 45 };
      const hops = random() < SECOND_HOP_SHARE ? 2 : 1;
      for (let retryCounter = 0; retryCounter < hops; retryCounter += 1) {
        const input: BatchPollerInput = { batchId, timerShard: 0, size: triggers.length, retryCounter, policy };
        await BATCH_STEPS.fetchAuth(deps, input, context);
        await BATCH_STEPS.poll(deps, input, context);
      }
      tally.batches += 1;
      deps.snapshots.forget(batchId);
      for (const key of await objects.list(`batches/${batchId}/`)) await objects.delete(key);
      for (const { triggerId } of triggers) owners.delete(triggerId);
    },
    close: () => client.close(),
  };
}

function bodyOf(text: string): AsyncIterable<Uint8Array> & { destroy(): unknown } {
  async function* parts(): AsyncGenerator<Uint8Array> {
    yield Buffer.from(text);
  }
  return Object.assign(parts(), { destroy: () => undefined });
}
