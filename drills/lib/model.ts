/**
 * Model-based properties: random commands at the real engine (PostgreSQL, the five steps, the snapshot store) and at a
 * reference that keeps only what must hold: version, epoch, owner, cursor and primed of a row, the results a batch has and
 * which of them was told, and what the receiver took. After each command both must say the same.
 */
import { BATCH_STEPS, type BatchDeps } from '@milkrun/batch-poller';
import {
  type BatchPollerInput,
  type BatchStore,
  batchIdOf,
  eventIdOf,
  type FeedChange,
  type ObjectStore,
  type StateResult,
  systemClock,
  systemRng,
  uuidv7,
} from '@milkrun/core';
import { createObjectStore } from '@milkrun/object-store';
import type { WorkerDb } from '@milkrun/workerdb';
import fc from 'fast-check';
import { contextOf, createProvider, createReceiver, drillKeys, inputOf, pageOf, stepDeps } from './steps.ts';
import { changeOf, expire, makeDue, push } from './workerdb.ts';

const TRIGGERS = 3;
const HOPS_MAX = 3;
const BATCH_SIZE = 10;

/** What the poll of one trigger by one attempt found: items `from` to `to`, the last not among them. */
interface Chain {
  readonly hop: number;
  readonly attempt: number;
  readonly from: number;
  readonly to: number;
  readonly primes: boolean;
}

interface Entry {
  readonly trigger: number;
  readonly epoch: number;
  readonly chains: Chain[];
  /** The chain that was first recorded as delivered. */
  told: Chain | undefined;
  gone: boolean;
}

interface ModelBatch {
  readonly id: string;
  hop: number;
  attempt: number;
  live: boolean;
  readonly entries: Entry[];
}

interface ModelRow {
  readonly id: string;
  version: number;
  isDeleted: boolean;
  enabled: boolean;
  halted: boolean;
  epoch: number;
  committed: number;
  /** Place of the batch that leases it. */
  owner: number | undefined;
  primed: boolean;
  cursor: number | null;
  config: number;
  items: number;
  isGone: boolean;
  readonly delivered: Set<number>;
}

export class Model {
  readonly rows: ModelRow[] = [];
  readonly batches: ModelBatch[] = [];
  isReceiverAway = false;
  /** Results of attempts that hang, and the place of each among the real ones. */
  readonly waiting: { readonly chains: readonly (readonly [Entry, Chain])[]; readonly place: number }[] = [];

  constructor(ids: readonly string[]) {
    for (const id of ids) {
      this.rows.push({
        ...{ id, version: 1, isDeleted: false, enabled: true, halted: false, epoch: 0, committed: 0, owner: undefined },
        ...{ primed: false, cursor: null, config: 0, items: 2, isGone: false, delivered: new Set<number>() },
      });
    }
  }

  row(entry: Entry): ModelRow {
    return this.rows[entry.trigger] as ModelRow;
  }

  /** Whether the row is still leased by this batch, under the epoch it claimed. */
  owns(batch: ModelBatch, entry: Entry): boolean {
    const row = this.row(entry);
    return batch.live && !row.isDeleted && row.epoch === entry.epoch && this.batches[row.owner ?? -1] === batch;
  }

  /** The result that counts: the one first told, else the first by hop and attempt. */
  chosen({ told, chains }: Entry): Chain | undefined {
    return told ?? chains.toSorted((a, b) => a.hop - b.hop || a.attempt - b.attempt)[0];
  }
}

type Death = 'before' | 'after' | undefined;

/** The engine under the commands. */
export class Real {
  /** How many commands were run. */
  commands = 0;
  readonly changes: FeedChange[] = [];
  readonly late: { readonly release: () => void; readonly ended: Promise<unknown> }[] = [];
  private readonly db: WorkerDb;
  private readonly objects: ObjectStore = createObjectStore('memory:');
  private readonly model: Model;
  private readonly receiver: ReturnType<typeof createReceiver>;
  private readonly runs = new Map<string, number>();

  constructor(db: WorkerDb, model: Model) {
    this.db = db;
    this.model = model;
    this.receiver = createReceiver({ onState: async (results) => this.onState(results) });
  }

  private rowOf(triggerId: string): ModelRow {
    return this.model.rows.find(({ id }) => id === triggerId) as ModelRow;
  }

  private onState(results: readonly StateResult[]) {
    if (this.model.isReceiverAway) return { kind: 'unavailable' as const, reason: 'away' };
    const gone = results.filter(({ triggerId }) => this.rowOf(triggerId).isGone);
    const kept = results.filter((result) => !gone.includes(result));
    const answer = this.receiver.accept(kept);
    if (gone.length === 0 || answer.kind !== 'answered') return answer;
    const statuses = [...answer.statuses, ...gone.map(({ triggerId }) => ({ triggerId, status: 'gone' as const }))];
    return { ...answer, statuses };
  }

  /** A process that starts anew; it dies at its write of `what`, before it is made or after. */
  private deps(what?: string, death?: Death, gate = async (): Promise<void> => {}): BatchDeps {
    const dying = async <T>(write: string, work: () => Promise<T>): Promise<T> => {
      if (write !== what) return await work();
      await gate();
      if (death === 'before') throw new Error('the process has died');
      const done = await work();
      if (death === 'after') throw new Error('the process has died');
      return done;
    };
    const store: BatchStore = { ...this.db, commit: (input) => dying('commit', () => this.db.commit(input)) };
    return stepDeps({
      store,
      objects: {
        ...this.objects,
        putIfAbsent: (key, body) => dying(key.split('/').at(-2) ?? '', () => this.objects.putIfAbsent(key, body)),
      },
      keys: drillKeys(),
      controlPlane: this.receiver,
      runner: createProvider(({ triggerId, cursor }) => {
        const { items } = this.rowOf(triggerId);
        const from = cursor === 'null' ? 0 : Number(cursor);
        const found = Array.from({ length: items - from }, (_, n) => ({
          key: `item-${from + n}`,
          occurredAt: '2020-01-01T00:00:00.000Z',
        }));
        return pageOf(found, items);
      }),
      // One post and one record for all, so that a death falls on all alike.
      limits: { broadcastLanes: 1 },
    });
  }

  async reset(): Promise<void> {
    const tables = [
      ...[
        'polling_triggers',
        'polling_trigger_runs',
        'polling_trigger_states',
        'batches',
        'batch_fences',
        'tombstones',
      ],
      ...['lifecycle_outbox', 'source_limits', 'source_health', 'held_events', 'dead_letters'],
    ];
    await this.db.sql.unsafe(tables.map((table) => `delete from ${table};`).join(''));
    await this.db.sql.unsafe(
      'update fleet set braked = false; update timer_shards set backoff_until = null, backoff_level = 0',
    );
    await this.db.heartbeatWorker({ workerId: 'model', width: 1 });
    await this.push(this.model.rows.map(({ id }) => changeOf(id, 1, { config: '{"n":0}' })));
  }

  async push(changes: readonly FeedChange[]): Promise<void> {
    this.changes.push(...changes);
    await push(this.db, changes);
  }

  pushAgain(): Promise<void> {
    return push(this.db, this.changes);
  }

  /** Plans and claims what is due; answers the batch and what it leased. */
  async claim(): Promise<{ readonly batchId: string; readonly leased: ReadonlyMap<string, number> } | undefined> {
    await makeDue(this.db);
    const batchIds = [batchIdOf(0, uuidv7(systemClock, systemRng))];
    const { planned } = await this.db.tick({ timerShard: 0, batchSize: BATCH_SIZE, batchIds, dispatch: true });
    const [one] = planned;
    if (one === undefined) return undefined;
    await BATCH_STEPS.claimAndSnapshot(this.deps(), inputOf(one.batchId, one.keys), contextOf(1));
    const rows = await this.db.sql<{ id: string; epoch: number }[]>`
      select t.trigger_id as id, t.lease_epoch as epoch from polling_trigger_runs t join batches b on b.batch_no = t.lease_owner
      where b.batch_id = ${one.batchId}`;
    return { batchId: one.batchId, leased: new Map(rows.map(({ id, epoch }) => [id, epoch])) };
  }

  private inputOf({ id, hop }: ModelBatch): BatchPollerInput {
    return inputOf(id, TRIGGERS, hop);
  }

  async extend({ id, hop }: ModelBatch): Promise<boolean> {
    return (await this.db.extend({ batchId: id, leaseSeconds: 45, hop, step: 'poll', open: null })).live;
  }

  /** Numbers of attempts rise over all steps of a batch, so that each writes objects of its own. */
  attemptOf({ id }: ModelBatch): number {
    const next = (this.runs.get(id) ?? 0) + 1;
    this.runs.set(id, next);
    return next;
  }

  async poll(batch: ModelBatch, attempt: number, death: Death): Promise<void> {
    await BATCH_STEPS.fetchAuth(this.deps(), this.inputOf(batch), contextOf(attempt));
    await dead(death, BATCH_STEPS.poll(this.deps('results', death), this.inputOf(batch), contextOf(attempt)));
  }

  /** Polls, and hangs before the result is stored. Resolves when it hangs, or has ended without anything to store. */
  async pollLate(batch: ModelBatch, attempt: number): Promise<void> {
    await BATCH_STEPS.fetchAuth(this.deps(), this.inputOf(batch), contextOf(attempt));
    const gate = Promise.withResolvers<void>();
    const hangs = Promise.withResolvers<void>();
    const hang = (): Promise<void> => {
      hangs.resolve();
      return gate.promise;
    };
    const ended = BATCH_STEPS.poll(this.deps('results', undefined, hang), this.inputOf(batch), contextOf(attempt));
    ended.catch(() => {});
    await Promise.race([hangs.promise, ended]);
    this.late.push({ release: gate.resolve, ended });
  }

  /** Lets an attempt that hangs go on to its end. */
  async arrive(place: number): Promise<void> {
    const late = this.late[place];
    late?.release();
    await late?.ended.catch(() => {});
  }

  async broadcast(batch: ModelBatch, attempt: number, death: Death): Promise<void> {
    await dead(death, BATCH_STEPS.broadcast(this.deps('delivered', death), this.inputOf(batch), contextOf(attempt)));
  }

  async commit(batch: ModelBatch, attempt: number, force: boolean, death: Death): Promise<void> {
    const input = { ...this.inputOf(batch), force, askedSeconds: 0 };
    await dead(death, BATCH_STEPS.commit(this.deps('commit', death), input, contextOf(attempt)));
  }

  expire({ id }: ModelBatch): Promise<void> {
    return expire(this.db, id);
  }

  async close(): Promise<void> {
    for (const place of this.late.keys()) await this.arrive(place);
  }

  /** Every row and what the receiver took, against the reference. */
  async agree(): Promise<void> {
    const rows = await this.db.sql<
      {
        id: string;
        version: number;
        enabled: boolean;
        halted: boolean;
        epoch: number;
        committed: number;
        primed: boolean;
        cursor: string | null;
        owner: string | null;
      }[]
    >`
      select t.trigger_id as id, p.config_version::int as version, t.enabled, t.halted_code is not null as halted, t.lease_epoch as epoch,
        t.last_committed_epoch as committed, t.primed, s.cursor::text as cursor, (select b.batch_id from batches b
          where b.batch_no = t.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp()) as owner
      from polling_trigger_runs t join polling_triggers p using (shard, trigger_id) join polling_trigger_states s using (shard, trigger_id)`;
    const found = new Map(rows.map((row) => [row.id, row]));
    for (const row of this.model.rows) {
      const owner = this.model.batches[row.owner ?? -1];
      const { id, version, enabled, halted, epoch, committed, primed } = row;
      const wanted = row.isDeleted
        ? undefined
        : {
            ...{ id, version, enabled, halted, epoch, committed, primed },
            cursor: row.cursor === null ? null : String(row.cursor),
            owner: owner?.live ? owner.id : null,
          };
      same(found.get(id), wanted, `row of trigger ${this.model.rows.indexOf(row)}`);
      const taken = Array.from({ length: row.items }, (_, n) => n).filter((n) =>
        this.receiver.accepted.has(eventIdOf(id, `item-${n}`)),
      );
      same(
        taken,
        [...row.delivered].toSorted((a, b) => a - b),
        `what was taken of trigger ${this.model.rows.indexOf(row)}`,
      );
    }
  }
}

/** A step that dies must have died, unless it never came to the write it was to die at. */
async function dead(death: Death, step: Promise<unknown>): Promise<void> {
  try {
    await step;
  } catch (error) {
    if (death === undefined || (error as Error).message !== 'the process has died') throw error;
  }
}

function same(found: unknown, wanted: unknown, what: string): void {
  const sorted = (value: unknown): string =>
    JSON.stringify(value, (_, member) =>
      typeof member === 'object' && member !== null && !Array.isArray(member)
        ? Object.fromEntries(Object.entries(member).toSorted())
        : member,
    ) ?? 'nothing';
  if (sorted(found) !== sorted(wanted))
    throw new Error(`${what}: the engine has ${sorted(found)}, it should be ${sorted(wanted)}`);
}

type Command = fc.AsyncCommand<Model, Real>;

/** Does what the function says to both sides, then compares them. */
function command(
  name: string,
  run: (model: Model, real: Real) => Promise<void>,
  check: (model: Model) => boolean = () => true,
): Command {
  return {
    check,
    async run(model, real) {
      await run(model, real);
      real.commands += 1;
      await real.agree();
    },
    toString: () => name,
  };
}

const hasBatches = (model: Model): boolean => model.batches.length > 0;
/** Mostly the newest ones; those that are over write too. */
const batchOf = (model: Model, n: number): ModelBatch =>
  model.batches[Math.max(0, model.batches.length - 1 - (n % 3))] as ModelBatch;

function change(
  name: string,
  n: number,
  effect: (row: ModelRow) => Partial<Parameters<typeof changeOf>[2]> | 'delete',
): Command {
  return command(
    `${name}(${n})`,
    async (model, real) => {
      const row = model.rows[n] as ModelRow;
      row.version += 1;
      const over = effect(row);
      if (over === 'delete') await real.push([{ op: 'delete', triggerId: row.id, configVersion: row.version }]);
      else
        await real.push([
          changeOf(row.id, row.version, { config: `{"n":${row.config}}`, enabled: row.enabled, ...over }),
        ]);
    },
    (model) => !(model.rows[n] as ModelRow).isDeleted,
  );
}

const claim = (): Command =>
  command('claim', async (model, real) => {
    const due = model.rows.filter(
      (row) => !row.isDeleted && row.enabled && !row.halted && !model.batches[row.owner ?? -1]?.live,
    );
    const claimed = await real.claim();
    same(
      [...(claimed?.leased ?? [])].toSorted(),
      due.map(({ id, epoch }) => [id, epoch + 1]).toSorted(),
      'what was claimed',
    );
    if (claimed === undefined) return;
    const entries = due.map((row): Entry => {
      row.epoch += 1;
      row.owner = model.batches.length;
      return { trigger: model.rows.indexOf(row), epoch: row.epoch, chains: [], told: undefined, gone: false };
    });
    model.batches.push({ id: claimed.batchId, hop: 0, attempt: 0, live: true, entries });
  });

/** What a poll of the batch finds now: of its own entries those that have no result. */
function found(model: Model, batch: ModelBatch, attempt: number): readonly (readonly [Entry, Chain])[] {
  return batch.entries.flatMap((entry) => {
    if (!model.owns(batch, entry) || entry.chains.length > 0) return [];
    const { cursor, items, primed } = model.row(entry);
    return [[entry, { hop: batch.hop, attempt, from: cursor ?? 0, to: items, primes: !primed }] as const];
  });
}

const poll = (n: number, death: Death): Command =>
  command(
    `poll(${n}${death === undefined ? '' : `, dies ${death}`})`,
    async (model, real) => {
      const batch = batchOf(model, n);
      const attempt = real.attemptOf(batch);
      for (const [entry, chain] of found(model, batch, attempt)) if (death !== 'before') entry.chains.push(chain);
      await real.poll(batch, attempt, death);
    },
    hasBatches,
  );

/** An attempt that was taken for lost: it stores what it found when somebody else may have polled. */
const pollLate = (n: number): Command =>
  command(
    `pollLate(${n})`,
    async (model, real) => {
      const batch = batchOf(model, n);
      const attempt = real.attemptOf(batch);
      model.waiting.push({ chains: found(model, batch, attempt), place: real.late.length });
      await real.pollLate(batch, attempt);
    },
    hasBatches,
  );

const lateArrives = (): Command =>
  command(
    'lateArrives',
    async (model, real) => {
      const { chains = [], place = -1 } = model.waiting.shift() ?? {};
      for (const [entry, chain] of chains) entry.chains.push(chain);
      await real.arrive(place);
    },
    ({ waiting }) => waiting.length > 0,
  );

const deliver = (n: number, death: Death): Command =>
  command(
    `deliver(${n}${death === undefined ? '' : `, dies ${death}`})`,
    async (model, real) => {
      const batch = batchOf(model, n);
      const attempt = real.attemptOf(batch);
      const sends = batch.entries.flatMap((entry) => {
        const chain = model.chosen(entry);
        const isSent =
          chain !== undefined && (chain.primes || chain.to > chain.from) && entry.told === undefined && !entry.gone;
        return isSent && model.owns(batch, entry) ? [[entry, chain] as const] : [];
      });
      // A 410 is a record of its own: which of several a death would fall on is left open.
      const dies = sends.some(([entry]) => model.row(entry).isGone) ? undefined : death;
      for (const [entry, chain] of model.isReceiverAway ? [] : sends) {
        const row = model.row(entry);
        if (row.isGone) {
          entry.gone = true;
          continue;
        }
        if (!chain.primes) for (let item = chain.from; item < chain.to; item += 1) row.delivered.add(item);
        if (dies !== 'before') entry.told = chain;
      }
      await real.broadcast(batch, attempt, dies);
    },
    hasBatches,
  );

const commit = (n: number, isForced: boolean, death: Death): Command =>
  command(
    `${isForced ? 'force' : 'commit'}(${n}${death === undefined ? '' : `, dies ${death}`})`,
    async (model, real) => {
      const batch = batchOf(model, n);
      const attempt = real.attemptOf(batch);
      const force = isForced || batch.hop >= HOPS_MAX;
      const { live } = batch;
      if (live && death !== 'before') settle(model, batch, force);
      await real.commit(batch, attempt, force, death);
      // What goes on after a commit is another hop.
      if (live && death !== 'before') batch.hop = Math.min(HOPS_MAX, batch.hop + 1);
    },
    hasBatches,
  );

function settle(model: Model, batch: ModelBatch, force: boolean): void {
  let open = 0;
  for (const entry of batch.entries) {
    if (!model.owns(batch, entry)) continue;
    const row = model.row(entry);
    const chain = model.chosen(entry);
    const isTold = chain !== undefined && (entry.told !== undefined || (!chain.primes && chain.to === chain.from));
    if (!isTold && !entry.gone && !(force && chain !== undefined)) {
      open += 1;
      continue;
    }
    // A prime that could not be told keeps its place, and primes on.
    if (isTold || chain?.primes) row.cursor = (chain as Chain).to;
    if (isTold && chain?.primes) row.primed = true;
    if (entry.gone) row.halted = true;
    row.owner = undefined;
    row.committed = entry.epoch;
  }
  if (force || open === 0) batch.live = false;
}

/** Commands over all that can happen to a batch and to its triggers. */
export function commands(maxCommands: number): fc.Arbitrary<Iterable<Command>> {
  const trigger = fc.nat(TRIGGERS - 1);
  const batch = fc.nat(2);
  const death = fc.constantFrom<Death>(undefined, undefined, undefined, 'before', 'after');
  return fc.commands(
    [
      fc.constant(claim()),
      fc.constant(claim()),
      batch.map((n) =>
        command(
          `extend(${n})`,
          async (model, real) => {
            const own = batchOf(model, n);
            same(await real.extend(own), own.live, 'whether the lease lives');
          },
          hasBatches,
        ),
      ),
      fc.tuple(batch, death).map(([n, how]) => poll(n, how)),
      fc.tuple(batch, death).map(([n, how]) => poll(n, how)),
      batch.map(pollLate),
      fc.constant(lateArrives()),
      fc.tuple(batch, death).map(([n, how]) => deliver(n, how)),
      fc.tuple(batch, death).map(([n, how]) => deliver(n, how)),
      fc.tuple(batch, death).map(([n, how]) => commit(n, false, how)),
      fc.tuple(batch, death).map(([n, how]) => commit(n, false, how)),
      fc.tuple(batch, death).map(([n, how]) => commit(n, true, how)),
      batch.map((n) =>
        command(
          `hop(${n})`,
          async (model) => {
            const own = batchOf(model, n);
            if (own.hop < HOPS_MAX) own.hop += 1;
          },
          hasBatches,
        ),
      ),
      batch.map((n) =>
        command(
          `expire(${n})`,
          async (model, real) => {
            const own = batchOf(model, n);
            own.live = false;
            await real.expire(own);
          },
          hasBatches,
        ),
      ),
      trigger.map((n) =>
        command(`grow(${n})`, async (model) => {
          (model.rows[n] as ModelRow).items += 1;
        }),
      ),
      fc.boolean().map((isAway) =>
        command(`receiver(${isAway ? 'away' : 'back'})`, async (model) => {
          model.isReceiverAway = isAway;
        }),
      ),
      fc.tuple(trigger, fc.boolean()).map(([n, isGone]) =>
        command(`gone(${n}, ${isGone})`, async (model) => {
          (model.rows[n] as ModelRow).isGone = isGone;
        }),
      ),
      trigger.map((n) => change('rename', n, () => ({}))),
      trigger.map((n) =>
        change('edit', n, (row) => {
          row.config += 1;
          if (row.enabled) row.halted = false;
          return fenced(row);
        }),
      ),
      trigger.map((n) =>
        change('disable', n, (row) => {
          if (row.enabled) fenced(row);
          row.enabled = false;
          return { enabled: false };
        }),
      ),
      trigger.map((n) =>
        change('enable', n, (row) => {
          row.enabled = true;
          row.halted = false;
          fenced(row);
          return { enabled: true, resume: 'cursor' };
        }),
      ),
      fc.tuple(trigger, fc.nat(3)).map(([n, back]) =>
        change('rewind', n, (row) => {
          row.cursor = Math.max(0, row.items - back);
          row.primed = true;
          if (row.enabled) row.halted = false;
          fenced(row);
          return { cursor: String(row.cursor), resume: 'cursor' };
        }),
      ),
      trigger.map((n) =>
        change('delete', n, (row) => {
          row.isDeleted = true;
          return 'delete';
        }),
      ),
      fc.constant(command('readAgain', (_, real) => real.pushAgain())),
    ],
    { maxCommands, size: 'max' },
  );
}

function fenced(row: ModelRow): Record<string, never> {
  row.epoch += 1;
  row.owner = undefined;
  return {};
}
