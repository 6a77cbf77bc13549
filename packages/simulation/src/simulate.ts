/**
 * One run: a fleet small enough to be thought about, users who change their minds, workers and parts that fail in every
 * way the seed armed; then the faults stop, and everything must come to rest.
 */
import { createSnapshots } from '@milkrun/batch-poller';
import { eventIdOf, noLog, noMetrics, type ObjectStore } from '@milkrun/core';
import { checkHistory, type Finding } from './checkers.ts';
import { type FaultKind, Faults, type FiredFault, MOMENT_FAULTS } from './faults.ts';
import type { Ending, Fact, History, Item, TriggerFacts } from './history.ts';
import { createSimulatedKeys } from './keys.ts';
import { createMachineInPlace } from './machine.ts';
import { type Instruction, ModelControlPlane, type TriggerRecord } from './model/control-plane.ts';
import { ModelObjects } from './model/objects.ts';
import type { Source } from './model/source.ts';
import { isLive, rowFactsOf } from './model/tables.ts';
import { ModelTemporal } from './model/temporal.ts';
import { createModelWorkerDb } from './model/workerdb.ts';
import { createRandom, type Random } from './random.ts';
import type { Settings, Universe } from './universe.ts';
import { startWorker, type Worker } from './worker.ts';
import { EPOCH_MS, World } from './world.ts';

export interface RunOptions {
  /** Numbers of faults to leave out, and of users' edits: what shrinking does. */
  readonly withoutFaults?: ReadonlySet<number>;
  readonly withoutEdits?: ReadonlySet<number>;
  readonly keepTrace?: boolean;
}

export interface Run {
  readonly seed: number;
  readonly findings: readonly Finding[];
  readonly history: History;
  readonly fired: readonly FiredFault[];
  /** Edits made, each as a line. */
  readonly edits: readonly string[];
  readonly traceHash: string;
  readonly trace: readonly string[];
  /** Moments run. */
  readonly steps: number;
  /** Seconds of virtual time. */
  readonly virtualSeconds: number;
}

const MINUTE = 60_000;
const WORKERS = 2;
const REST_MS_MAX = 20 * MINUTE;
/** After the last fault every answer that was late has come. */
const LIFT_MS = 100_000;
const HOUR = 3_600_000;
const SLOW_SEEDS = 0.15;

export async function simulate(seed: number, options: RunOptions = {}): Promise<Run> {
  const world = new World(options.keepTrace === true);
  const plan = createRandom(seed, 'plan');
  const faults = new Faults(createRandom(seed, 'faults'), () => world.time, options.withoutFaults);
  const facts: Fact[] = [];
  const note: Universe['note'] = (fact) => void facts.push({ ...fact, at: world.time } as Fact);
  // Sources that take their time, one after the other: what happens meanwhile finds a batch in the middle of its polls.
  const isSlow = createRandom(seed, 'pace').chance(SLOW_SEEDS);
  const settings: Settings = {
    leaseSeconds: plan.pick([20, 45]),
    maxHops: plan.pick([1, 2, 3]),
    batchSize: plan.pick([3, 8, 50]),
    tickMs: plan.pick([2_000, 10_000]),
    pollWidth: isSlow ? 1 : plan.pick([1, 4, 50]),
    pollMs: isSlow ? 4_000 : 0,
    chunkEventsMax: plan.pick([2, 5, 500]),
    pagesMax: plan.pick([2, 20]),
  };
  const around = { world, faults, random: createRandom(seed, 'world') };
  const engineRandom = createRandom(seed, 'engine');
  const controlPlane = new ModelControlPlane(() => world.now());
  const sources = new Map<string, Source>();
  const db = createModelWorkerDb({
    now: () => world.now(),
    random: () => engineRandom.next(),
    tickMs: settings.tickMs,
    onTick: ({ ready, planned }) =>
      note({
        kind: 'ticked',
        ready: ready.map(({ row, rank }) => ({ triggerId: row.triggerId, tenantId: row.tenantId, rank })),
        planned: planned.map(({ batchId, keys }) => ({
          batchId,
          triggerIds: (keys ?? []).map(({ triggerId }) => triggerId),
        })),
      }),
    onFeed: ({ triggerId, op, fences, lifts, moves, asks, before, row }) =>
      note({
        kind: 'fed',
        triggerId,
        op,
        fences,
        lifts,
        moves,
        asks,
        before,
        after: rowFactsOf(row),
        configVersion: row?.configVersion ?? 0,
      }),
  });
  const temporal = new ModelTemporal(around, {
    hop: (batchId, hop) => note({ kind: 'hop', batchId, hop }),
    over: (batchId, status) => note({ kind: 'batch_over', batchId, status }),
  });
  const universe: Universe = {
    ...around,
    settings,
    db,
    objects: new ModelObjects(),
    controlPlane,
    sources,
    temporal,
    engineRandom,
    blobKey: engineRandom.bytes(32),
    facts,
    note,
  };
  const fleet = makeFleet(universe, plan);
  const faultsMs = plan.between(1, 3) * MINUTE;
  const workers = startWorkers(universe, plan);
  planMoments(universe, plan, faultsMs, workers);
  const edits = planUsers(universe, plan, faultsMs, fleet, options.withoutEdits ?? new Set());
  // In production such a promise ends the process.
  const unheard = (error: unknown): void => note({ kind: 'unheard', error: String(error) });
  process.on('unhandledRejection', unheard);
  await world.run(faultsMs);
  faults.active = false;
  note({ kind: 'faults_off' });
  world.trace('faults are off');
  const rest = planRest(universe, fleet, faultsMs);
  await world.run(faultsMs + REST_MS_MAX, rest.isReached);
  process.off('unhandledRejection', unheard);
  const history: History = {
    seed,
    triggers: fleet.map((trigger) => trigger.facts()),
    facts,
    ending: await endingOf(universe, fleet, facts, faultsMs, rest.isReached()),
    leaseSeconds: settings.leaseSeconds,
    maxHops: settings.maxHops,
  };
  return {
    seed,
    findings: checkHistory(history),
    history,
    fired: faults.fired,
    edits,
    traceHash: world.traceHash(),
    trace: world.traceLines(),
    steps: world.steps,
    virtualSeconds: Math.round(world.time / 1000),
  };
}

interface FleetTrigger {
  readonly triggerId: string;
  readonly source: Source;
  readonly connections: Set<string>;
  facts(): TriggerFacts;
}

function makeFleet(universe: Universe, plan: Random): FleetTrigger[] {
  const { controlPlane, sources } = universe;
  const tenants = ['tenant-a', 'tenant-b'];
  for (const tenantId of tenants) {
    for (let n = 0; n < 2; n += 1) {
      const connectionId = `connection-${n}`;
      const lastsSeconds = plan.chance(0.3) ? plan.integer(20, 200) : undefined;
      controlPlane.connections.set(JSON.stringify([tenantId, connectionId]), {
        tenantId,
        connectionId,
        status: 'active',
        lastsSeconds,
      });
    }
  }
  const fleet: FleetTrigger[] = [];
  const count = plan.integer(2, 9);
  for (let n = 0; n < count; n += 1) {
    const triggerId = idOf(plan);
    const tenantId = plan.chance(0.7) ? (tenants[0] as string) : (tenants[1] as string);
    const kind = plan.pick(['log', 'log', 'listing', 'queue'] as const);
    const createdAt = new Date(EPOCH_MS - plan.integer(0, 100) * 1000).toISOString();
    const source: Source = { kind, items: [], pageItems: plan.pick([1, 3, 10]), popped: 0 };
    const connections = new Set([`connection-${plan.integer(0, 1)}`]);
    const record: TriggerRecord = {
      triggerId,
      tenantId,
      toolkit: plan.pick(['toolkit-x', 'toolkit-y']),
      version: '1',
      name: 'new-item',
      config: '{"q":0}',
      connectionId: [...connections][0] as string,
      intervalSeconds: plan.pick([8, 20, 45]),
      enabled: true,
      deleted: false,
      since: plan.chance(0.2) ? new Date(EPOCH_MS - 50_000).toISOString() : undefined,
      createdAt,
      dedupe: kind === 'listing' ? plan.pick(['unique', 'watermark'] as const) : 'unique',
      repeatable: kind !== 'queue',
      primed: false,
      pollState: undefined,
    };
    sources.set(triggerId, source);
    const before = plan.integer(0, 4);
    for (let item = 0; item < before; item += 1) addItem(source, EPOCH_MS - plan.integer(1, 200) * 1000, false);
    controlPlane.triggers.set(triggerId, record);
    controlPlane.change(triggerId, () => {});
    const { toolkit, dedupe, intervalSeconds } = record;
    fleet.push({
      triggerId,
      source,
      connections,
      facts: () => ({
        triggerId,
        tenantId,
        toolkit,
        kind,
        dedupe,
        intervalSeconds,
        items: source.items,
        pageItems: source.pageItems,
        connections: [...connections],
      }),
    });
  }
  return fleet;
}

function idOf(plan: Random): string {
  const hex = Buffer.from(plan.bytes(16)).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
}

function addItem(source: Source, atMs: number, isBad: boolean): Item {
  const n = source.items.length;
  const item = { key: `${isBad ? 'bad' : 'item'}-${n}`, occurredAt: new Date(atMs).toISOString(), data: { n } };
  source.items.push(item);
  return item;
}

function startWorkers(universe: Universe, plan: Random): Worker[] {
  const { world } = universe;
  const workers: Worker[] = [];
  for (let n = 0; n < WORKERS; n += 1) {
    const offMs = plan.chance(0.2) ? plan.integer(-HOUR, HOUR) : plan.integer(-50, 50);
    world.after(plan.between(0, 2_000), () => {
      world.touched();
      workers[n] = startWorker(universe, `worker-${n}.0`, offMs);
    });
  }
  return workers;
}

/** Faults that strike a process or a part at a moment, not a call. */
function planMoments(universe: Universe, plan: Random, untilMs: number, workers: Worker[]): void {
  const { world, faults, random, temporal, controlPlane } = universe;
  let generation = 1;
  const replace = (n: number, afterMs: number): void => {
    world.after(afterMs, () => {
      world.touched();
      workers[n] = startWorker(universe, `worker-${n}.${generation}`, 0);
      generation += 1;
    });
  };
  const act: Readonly<Record<(typeof MOMENT_FAULTS)[number], () => string | undefined>> = {
    crash: () => {
      const n = random.integer(0, WORKERS - 1);
      const worker = workers[n];
      if (worker === undefined || worker.process.isDead) return undefined;
      worker.process.kill();
      worker.leave();
      replace(n, random.between(500, 30_000));
      return worker.process.name;
    },
    pause: () => {
      const worker = workers[random.integer(0, WORKERS - 1)];
      if (worker === undefined || worker.process.isDead) return undefined;
      worker.process.pause(random.between(1_000, 100_000));
      return worker.process.name;
    },
    clock_jump: () => {
      const worker = workers[random.integer(0, WORKERS - 1)];
      if (worker === undefined || worker.process.isDead) return undefined;
      worker.process.jump(random.integer(-HOUR, HOUR));
      return worker.process.name;
    },
    drain: () => {
      const n = random.integer(0, WORKERS - 1);
      const worker = workers[n];
      if (worker === undefined || worker.process.isDead) return undefined;
      void worker.drain().then(() => {
        if (worker.process.isDead) return;
        worker.process.kill();
        replace(n, random.between(500, 10_000));
      });
      return worker.process.name;
    },
    temporal_away: () => {
      temporal.goAway(random.between(2_000, 60_000));
      return 'temporal';
    },
    cancel: () => {
      const running = temporal.running();
      if (running.length === 0) return undefined;
      const batchId = random.pick(running);
      temporal.cancel(batchId);
      return batchId;
    },
    gone: () => {
      const triggerId = random.pick([...controlPlane.triggers.keys()]);
      controlPlane.gone.add(triggerId);
      world.after(random.between(1_000, 60_000), () => void controlPlane.gone.delete(triggerId));
      return triggerId;
    },
  };
  for (const kind of MOMENT_FAULTS) {
    const times = plan.integer(1, 3);
    for (let n = 0; n < times; n += 1) {
      const at = plan.between(3_000, untilMs);
      if (!faults.isArmed(kind)) continue;
      world.after(at, () => {
        if (!faults.fire(kind as FaultKind, 'moment')) return;
        world.touched();
        world.trace(`fault ${kind}: ${act[kind]()}`);
      });
    }
  }
}

/** What users, providers and operators do: items appear, definitions change, connections come and go. */
function planUsers(
  universe: Universe,
  plan: Random,
  untilMs: number,
  fleet: readonly FleetTrigger[],
  without: ReadonlySet<number>,
): string[] {
  const { world, controlPlane } = universe;
  const done: string[] = [];
  for (const { source, triggerId } of fleet) {
    const items = plan.integer(0, 12);
    for (let n = 0; n < items; n += 1) {
      const isBad = plan.chance(0.05);
      const isPoison = plan.chance(0.05);
      world.after(plan.between(0, untilMs), () => {
        const { key } = addItem(source, world.now(), isBad);
        if (isPoison) controlPlane.poison.add(eventIdOf(triggerId, key));
      });
    }
  }
  const act = editsOf(universe);
  const count = plan.chance(0.15) ? 0 : plan.integer(1, 10);
  for (let number = 1; number <= count; number += 1) {
    const at = plan.between(2_000, untilMs);
    const trigger = plan.pick(fleet);
    const what = plan.pick(EDITS);
    world.after(at, () => {
      if (without.has(number)) return;
      world.touched();
      const said = act[what](trigger);
      done.push(`${number}. at ${(world.time / 1000).toFixed(1)} s: ${what} ${trigger.triggerId.slice(-4)} ${said}`);
      world.trace(`user ${what} ${trigger.triggerId} ${said}`);
    });
  }
  return done;
}

const EDITS = [
  'config',
  'config',
  'name',
  'disable',
  'disable',
  'enable',
  'delete',
  'rewind',
  'rewind',
  'rewind_to_start',
  'poll_now',
  'poll_all_now',
  'interval',
  'version',
  'connection',
  'resume',
  'start_over',
  'connection_expires',
  'clear_halts',
] as const;

type Edit = (typeof EDITS)[number];

/** What each edit does; answers what there is to say about it. */
function editsOf(universe: Universe): Readonly<Record<Edit, (trigger: FleetTrigger) => string>> {
  const { world, controlPlane, db, random } = universe;
  let edits = 0;
  const change = ({ triggerId }: FleetTrigger, edit: (record: TriggerRecord) => void, instruction?: Instruction) => {
    const record = controlPlane.triggers.get(triggerId);
    if (record === undefined || record.deleted) return 'no more';
    controlPlane.change(triggerId, edit, instruction);
    return '';
  };
  return {
    config: (trigger) => {
      edits += 1;
      return change(trigger, (record) => {
        record.config = `{"q":${edits}}`;
      });
    },
    name: (trigger) => {
      edits += 1;
      return change(trigger, (record) => {
        record.name = `new-item-${edits}`;
      });
    },
    disable: (trigger) => {
      if (random.chance(0.6))
        world.after(random.between(1_000, 60_000), () => {
          change(trigger, (record) => {
            record.enabled = true;
          });
        });
      return change(trigger, (record) => {
        record.enabled = false;
      });
    },
    enable: (trigger) =>
      change(trigger, (record) => {
        record.enabled = true;
      }),
    delete: (trigger) =>
      change(trigger, (record) => {
        record.deleted = true;
      }),
    rewind: (trigger) => {
      const { kind, items } = trigger.source;
      if (kind !== 'log') return 'no cursor';
      const cursor = String(random.integer(0, items.length));
      return `to ${cursor} ${change(trigger, () => {}, { cursor })}`;
    },
    rewind_to_start: (trigger) =>
      change(
        trigger,
        (record) => {
          record.since = random.chance(0.5) ? new Date(EPOCH_MS - 100_000).toISOString() : undefined;
        },
        { cursor: 'null' },
      ),
    poll_now: (trigger) => change(trigger, () => {}, { pollNow: true }),
    poll_all_now: () => String(db.pollAllNow()),
    interval: (trigger) =>
      change(trigger, (record) => {
        record.intervalSeconds = random.pick([5, 10, 30, 60]);
      }),
    version: (trigger) =>
      change(trigger, (record) => {
        record.version = String(Number(record.version) + 1);
      }),
    connection: (trigger) => {
      const connectionId = `connection-${random.integer(0, 1)}`;
      trigger.connections.add(connectionId);
      return change(trigger, (record) => {
        record.connectionId = connectionId;
      });
    },
    resume: (trigger) => change(trigger, () => {}, { resume: 'cursor' }),
    start_over: (trigger) => change(trigger, () => {}, { resume: 'now' }),
    connection_expires: () => {
      const connection = random.pick([...controlPlane.connections.values()]);
      connection.status = random.pick(['expired', 'revoked', 'refresh_failed']);
      world.after(random.between(5_000, 90_000), () => {
        connection.status = 'active';
      });
      return `${connection.tenantId} ${connection.connectionId}`;
    },
    clear_halts: () => HALTS.map((code) => db.clearHalts(code)).join(' '),
  };
}

const HALTS = [
  'auth.expired',
  'auth.revoked',
  'auth.not_found',
  'receiver_gone',
  'quarantined',
  'poll.permanent',
  'cursor_lost',
];

/** What an operator does once the faults are over, and when everything has come to rest. */
function planRest(universe: Universe, fleet: readonly FleetTrigger[], fromMs: number) {
  const { world, controlPlane, db, temporal } = universe;
  const polledSince = world.now() + LIFT_MS;
  controlPlane.gone.clear();
  for (const connection of controlPlane.connections.values()) connection.status = 'active';
  // Late attempts of the first phase may halt or fail a trigger yet: after them everything is lifted and asked for.
  const lift = (): void => {
    world.touched();
    for (const code of HALTS) db.clearHalts(code);
    db.pollAllNow();
    temporal.arm(0);
  };
  world.after(LIFT_MS, lift);
  world.after(6 * MINUTE, lift);
  const isReached = (): boolean => {
    if (world.time < fromMs + LIFT_MS + 5_000) return false;
    const now = world.now();
    const { rows, batches, outbox } = db.tables;
    for (const batch of batches.values()) {
      const isPending = batch.claimedAt === null && batch.endedAt === null && batch.startedAt > now - MINUTE;
      if (isPending || isLive(batch, now)) return false;
    }
    for (const row of rows.values()) {
      if (!row.enabled) continue;
      if (row.haltedCode !== null || row.lastOkAt === null || row.lastOkAt < polledSince) return false;
      if (row.nextPollAt === null || row.nextPollAt <= now) return false;
    }
    const isFed = fleet.every(({ triggerId }) => {
      const record = controlPlane.triggers.get(triggerId);
      return record === undefined || record.deleted === !rows.has(triggerId);
    });
    return isFed && outbox.every(({ acknowledgedAt }) => acknowledgedAt !== null);
  };
  return { isReached };
}

async function endingOf(
  universe: Universe,
  fleet: readonly FleetTrigger[],
  facts: readonly Fact[],
  faultsOffAt: number,
  rested: boolean,
): Promise<Ending> {
  const { world, db, objects, faults } = universe;
  const { rows, batches, held, letters, outbox } = db.tables;
  const now = world.now();
  const byTrigger = <T>(list: Iterable<T>, idOfOne: (one: T) => string, value: (one: T) => string | undefined) => {
    const found: Record<string, string[]> = {};
    for (const one of list) {
      const text = value(one);
      const id = idOfOne(one);
      if (text === undefined) continue;
      found[id] ??= [];
      found[id].push(text);
    }
    return found;
  };
  return {
    at: world.time,
    faultsOffAt,
    rested,
    liveBatches: [...batches.values()].filter((batch) => isLive(batch, now)).map(({ batchId }) => batchId),
    rows: [...rows.values()].map((row) => ({
      ...(rowFactsOf(row) as NonNullable<ReturnType<typeof rowFactsOf>>),
      triggerId: row.triggerId,
      lastOkAt: row.lastOkAt === null ? null : row.lastOkAt - EPOCH_MS,
      dueInMs: row.nextPollAt === null ? null : row.nextPollAt - now,
    })),
    held: byTrigger(
      [...held.values()].flat(),
      ({ triggerId }) => triggerId,
      ({ eventId }) => eventId,
    ),
    letters: byTrigger(
      letters.values(),
      ({ triggerId }) => triggerId,
      ({ eventId }) => eventId ?? undefined,
    ),
    badItems: byTrigger(
      letters.values(),
      ({ triggerId }) => triggerId,
      ({ eventId, raw }) => (eventId === null ? keyOfRaw(raw) : undefined),
    ),
    authObjects: objects.all().filter((key) => key.includes('/auth/')),
    saved: await savedOf(
      universe,
      facts,
      new Set(fleet.map(({ triggerId }) => triggerId).filter((id) => rows.has(id))),
    ),
    unsentLifecycle: outbox.filter(({ acknowledgedAt }) => acknowledgedAt === null).length,
    faults: faults.fired.length,
    faultKinds: [...new Set(faults.fired.map(({ kind }) => kind))],
  };
}

function keyOfRaw(raw: string): string | undefined {
  return /"key":"([^"]+)"/.exec(Buffer.from(raw, 'base64').toString())?.[1];
}

/**
 * Events of every result object that can still be read: what was saved, whichever chain it belonged to. Not what arrived after
 * its process had died: nobody was told that it is saved, as with what lay in that process's memory.
 */
async function savedOf(universe: Universe, facts: readonly Fact[], triggerIds: ReadonlySet<string>) {
  const orphaned = new Set(facts.flatMap((fact) => (fact.kind === 'stored' && fact.orphaned ? [fact.key] : [])));
  const { objects, engineRandom, blobKey, db } = universe;
  const store: ObjectStore = {
    putIfAbsent: async (key, body) => objects.put(key, body),
    get: async (key) => objects.get(key),
    list: async (prefix) => objects.list(prefix),
    delete: async (key) => objects.remove(key),
    probe: async () => {},
    close: async () => {},
  };
  const snapshots = createSnapshots({
    objects: store,
    keys: createSimulatedKeys(blobKey, engineRandom),
    clock: { now: () => 0, monotonic: () => 0, sleep: async () => {} },
    machine: createMachineInPlace(engineRandom),
    metrics: noMetrics,
    log: noLog,
  });
  const saved: { batchId: string; triggerId: string; eventIds: string[] }[] = [];
  for (const batchId of db.tables.batches.keys()) {
    for (const { record, at } of await snapshots.readResults(batchId)) {
      if (record.events.length === 0 || !triggerIds.has(record.triggerId)) continue;
      if (orphaned.has(`batches/${batchId}/${at.object}`)) continue;
      saved.push({ batchId, triggerId: record.triggerId, eventIds: record.events.map(({ eventId }) => eventId) });
    }
  }
  return saved;
}
