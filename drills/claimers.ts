/**
 * Many claimers at once, each on a connection of its own, over plans that overlap on purpose.
 *
 * A row may be planned in several batches (a re-shard, two ticks at once); each plan made by the real tick is copied to
 * other timer shards, whose lock does not keep the copies apart, and all copies are claimed at the same time. Leases end
 * in every way: by commit, by the end of the batch, by running out. What happened is read from two ledgers that no code
 * under test writes: a trigger in the database that records every change of a lease whoever makes it, and what the
 * claimers themselves were told.
 */
import { batchIdOf, type ClaimedTrigger, systemClock } from '@milkrun/core';
import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';
import { openDrillDb, uuidsFrom } from './lib/workerdb.ts';

const TIMER_SHARDS = 8;
const BATCH = 500;
const COPIES = 2;
const LEASE_SECONDS = 2;
const IDLE_MS = 2;
/** Rows that are never paced; rows of a toolkit that is; and connections that are, with rows each. */
const ROWS = 40_000;
const PACED_ROWS = 1_000;
const PACED_CONNECTIONS = 100;
const PACED_CONNECTION_ROWS = 32;
const PER_MINUTE = 60;
/** Times are kept in microseconds and read as floats. */
const ROUNDING_SECONDS = 0.001;
/** What claim counts a row of these as: 302 bytes of definition by the feed's rule, and 200 around it. */
const ROW_BYTES = 502;
const BYTES_MAX = 8 * 1024 * 1024;
const CUT_ROWS = 100;

interface Plan {
  readonly batchId: string;
  readonly keys: number;
}

interface Totals {
  claimed: number;
  claims: number;
  doubleTold: number;
  overLimit: number;
}

export const drill: Drill = {
  name: 'claimers',
  about: 'Claimers that race for the same rows never lease one twice, and none takes more than its limits.',
  defaults: { count: 100_000 },
  fullCount: 1_000_000,
  ciCount: 20_000,
  flags: { claimers: 'claimers at once, a connection each; default 64' },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const claimers = integerFrom('claimers', flags.claimers, 64, 2);
    const random = randomFrom(seed);
    const opened = await openDrillDb({ connections: 6, timerShards: TIMER_SHARDS });
    const own: WorkerDb[] = [];
    const totals: Totals = { claimed: 0, claims: 0, doubleTold: 0, overLimit: 0 };
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      if (violations <= 20) log(`violation: ${problem}`);
    };
    try {
      const { db, url } = opened;
      await fill(db);
      await keepLedger(db);
      await Promise.all(
        Array.from({ length: claimers }, async (_, n) => {
          own.push(await openWorkerDb({ url, connections: 1, migrate: false }));
          await db.heartbeatWorker({ workerId: `claimer-${n}`, width: 1 });
        }),
      );
      await race({ db, own, count, random, totals, report, log });
      const ledger = await readLedger(db);
      if (ledger.leases !== totals.claimed) report(`${ledger.leases} leases were taken, ${totals.claimed} were told`);
      if (ledger.double > 0) report(`${ledger.double} leases were taken from a live batch`);
      if (ledger.repeated > 0) report(`${ledger.repeated} epochs of a row were leased more than once`);
      if (ledger.skipped > 0) report(`${ledger.skipped} leases did not raise the epoch by one`);
      if (ledger.contested === 0) report('no two plans named the same row: nothing was contested');
      const paced = await pacedBeyond(db);
      if (paced.beyond > 0) report(`${paced.beyond} rows were taken above ${PER_MINUTE} a minute`);
      if (paced.taken === 0) report('no paced row was taken');
      const doubleLeases = ledger.double + ledger.repeated + totals.doubleTold;
      const overLimit = totals.overLimit + paced.beyond;
      return {
        tried: totals.claimed,
        violations,
        claimers,
        claims: totals.claims,
        contested: ledger.contested,
        doubleLeases,
        overLimit,
        pacedTaken: paced.taken,
      };
    } finally {
      await Promise.all(own.map((one) => one.close()));
      await opened.close();
    }
  },
};

async function fill(db: WorkerDb): Promise<void> {
  let from = 0;
  // Paced rows are the oldest, so that each plan begins with those whose hold has just ended.
  const insert = async (toolkit: string, connection: string, rows: number, age: string): Promise<void> => {
    await db.sql.unsafe(`
      create temporary table made on commit drop as
      select shard, id from (select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid as id
        from generate_series(${from + 1}, ${from + rows}) n) i
        cross join lateral (select (get_byte(h, 0) * 256 + get_byte(h, 1)) % 64 as shard from sha256(id::text::bytea) h) s;
      insert into polling_triggers (shard, trigger_id, config_version, created_at, tenant_id, toolkit, slug, version_wanted, connection_id, poll_policy, config)
        select shard, id, 1, now(), 'tenant', '${toolkit}', 'drill', '1', '${connection}', '{"dedupe":"unique","repeatable":true}', '{}' from made;
      insert into polling_trigger_runs (shard, enabled, owner, interval_s, trigger_id, phase_s, tenant_h, toolkit_h, def_bytes, connection_h, next_poll_at, primed)
        select shard, true, 'v', 300, id, 0, hash32('tenant'), hash32('${toolkit}'), ${ROW_BYTES - 200}, hash64('tenant', '${connection}'), now() - interval '${age}', true from made;
      insert into polling_trigger_states (shard, trigger_id) select shard, id from made;`);
    from += rows;
  };
  await insert('free', 'free', ROWS, '1 s');
  await insert('paced', 'free', PACED_ROWS, '1 h');
  await db.sql`insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
    values (hash32('paced'), 0, ${PER_MINUTE}, now(), now(), 'operator', 'paced', '', '')`;
  for (let n = 0; n < PACED_CONNECTIONS; n += 1) {
    const connection = `paced-${n}`;
    await insert('free', connection, PACED_CONNECTION_ROWS, '1 h');
    await db.sql`insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (hash32('free'), hash64('tenant', ${connection}), ${PER_MINUTE}, now(), now(), 'operator', 'free', 'tenant', ${connection})`;
  }
  await db.sql`analyze`;
}

/** Whatever gives a row an owner is written down by the database, with whether the owner before still held it. */
async function keepLedger(db: WorkerDb): Promise<void> {
  await db.sql.unsafe(`
    create schema drill;
    create table drill.leases (at timestamptz not null, trigger_id uuid not null, epoch integer not null, epoch_before integer not null,
      batch_no bigint not null, was_live boolean not null);
    create function drill.record() returns trigger language plpgsql as $$
    begin
      insert into drill.leases
      select statement_timestamp(), n.trigger_id, n.lease_epoch, o.lease_epoch, n.lease_owner, exists (
        select from batches b where b.batch_no = o.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp())
      from was o join became n on n.trigger_id = o.trigger_id
      where n.lease_owner is not null and (n.lease_owner is distinct from o.lease_owner or n.lease_epoch <> o.lease_epoch);
      return null;
    end $$;
    create trigger ledger after update on polling_trigger_runs referencing old table as was new table as became
      for each statement execute function drill.record()`);
}

interface Race {
  readonly db: WorkerDb;
  readonly own: readonly WorkerDb[];
  readonly count: number;
  readonly random: () => number;
  readonly totals: Totals;
  readonly report: (problem: string) => void;
  readonly log: (line: string) => void;
}

async function race({ db, own, count, random, totals, report, log }: Race): Promise<void> {
  const uuid = uuidsFrom(random);
  const plans: Plan[] = [];
  const told = new Map<string, Set<number>>();
  let shard = 0;
  let said = 0;
  let failure: { readonly error: unknown } | undefined;
  const isOver = (): boolean => totals.claimed >= count || failure !== undefined;

  /** Plans what is due of one timer shard after the other, and each plan again for its neighbours. */
  async function plan(): Promise<void> {
    shard = (shard + 1) % TIMER_SHARDS;
    const timerShard = shard;
    const batchIds = Array.from({ length: 16 }, () => batchIdOf(timerShard, uuid()));
    const { planned } = await db.tick({ timerShard, batchSize: BATCH, batchIds, dispatch: true });
    for (const one of planned) {
      plans.push(one);
      for (let copy = 1; copy <= COPIES; copy += 1) {
        const other = (timerShard + copy) % TIMER_SHARDS;
        const batchId = batchIdOf(other, uuid());
        await db.sql`insert into batches (batch_id, timer_shard, planned, started_at, key_shards, key_epochs, key_ids)
          select ${batchId}, ${other}, planned, statement_timestamp(), key_shards, key_epochs, key_ids from batches where batch_id = ${one.batchId}`;
        plans.push({ batchId, keys: one.keys });
      }
    }
  }

  async function planner(): Promise<void> {
    while (!isOver()) {
      if (plans.length < own.length) await plan();
      else await systemClock.sleep(IDLE_MS);
    }
  }

  function check(triggers: readonly ClaimedTrigger[], keys: number, bytesMax: number): void {
    totals.claims += 1;
    totals.claimed += triggers.length;
    const most = Math.min(keys, Math.floor(bytesMax / ROW_BYTES));
    if (triggers.length > most) {
      totals.overLimit += 1;
      report(`a claim took ${triggers.length} rows, at most ${most} were allowed`);
    }
    for (const { triggerId, leaseEpoch } of triggers) {
      const epochs = told.get(triggerId) ?? new Set();
      told.set(triggerId, epochs);
      if (epochs.has(leaseEpoch)) {
        totals.doubleTold += 1;
        report(`${triggerId} at epoch ${leaseEpoch} was told to two claimers`);
      }
      epochs.add(leaseEpoch);
    }
    if (totals.claimed - said >= 100_000) {
      said = totals.claimed;
      log(`${totals.claimed} of ${count} rows claimed in ${totals.claims} claims`);
    }
  }

  async function claimer(mine: WorkerDb): Promise<void> {
    while (!isOver()) {
      const one = plans.splice(Math.floor(random() * plans.length), 1)[0];
      if (one === undefined) {
        await systemClock.sleep(IDLE_MS);
        continue;
      }
      const bytesMax = random() < 0.1 ? CUT_ROWS * ROW_BYTES : BYTES_MAX;
      const { triggers } = await mine.claim({ batchId: one.batchId, leaseSeconds: LEASE_SECONDS, bytesMax });
      check(triggers, one.keys, bytesMax);
      await leave(mine, one.batchId, triggers);
    }
  }

  /** A lease ends by commit, by the end of its batch, or by nothing at all. */
  async function leave(mine: WorkerDb, batchId: string, triggers: readonly ClaimedTrigger[]): Promise<void> {
    const how = random();
    if (how < 0.2) return;
    if (how < 0.7 || triggers.length === 0) {
      await mine.end(batchId);
      return;
    }
    const rows = triggers.map(({ shard: s, triggerId, leaseEpoch }) => ({
      ...{ shard: s, triggerId, leaseEpoch, events: 0, polled: true },
      ...{ outcome: 'more' as const, code: 'ok' as const },
    }));
    await db.commit({ batchId, rows, end: true, forced: false, open: 0 });
  }

  const guarded = (work: Promise<void>): Promise<void> =>
    work.catch((error: unknown) => {
      failure ??= { error };
    });
  await Promise.all([guarded(planner()), ...own.map((mine) => guarded(claimer(mine)))]);
  if (failure !== undefined) throw failure.error;
}

interface Ledger {
  readonly leases: number;
  readonly double: number;
  readonly repeated: number;
  readonly skipped: number;
  /** Keys that several plans of one epoch named. */
  readonly contested: number;
}

async function readLedger(db: WorkerDb): Promise<Ledger> {
  const [row] = await db.sql<Ledger[]>`
    select count(*)::int as leases, count(*) filter (where was_live)::int as double,
      (count(*) - count(distinct (trigger_id, epoch)))::int as repeated,
      count(*) filter (where epoch <> epoch_before + 1)::int as skipped,
      (select count(*)::int from batches where claimed_at is not null and entries < planned) as contested
    from drill.leases`;
  return row as Ledger;
}

/**
 * How many paced rows were taken, and how many of them too many or too soon: one claim may take a minute's worth, and then
 * nobody any until those have been worked off.
 */
async function pacedBeyond(db: WorkerDb): Promise<{ readonly taken: number; readonly beyond: number }> {
  const rows = await db.sql<{ pair: string; at: number; taken: number }[]>`
    select t.toolkit || '/' || t.connection_id as pair, extract(epoch from l.at)::float8 as at, count(*)::int as taken
    from drill.leases l join polling_triggers t using (trigger_id) where t.toolkit = 'paced' or t.connection_id like 'paced-%'
    group by 1, l.batch_no, 2 order by 1, 2`;
  let taken = 0;
  let beyond = 0;
  for (const own of Map.groupBy(rows, ({ pair }) => pair).values()) {
    let freeAt = 0;
    for (const row of own) {
      taken += row.taken;
      beyond += row.at < freeAt - ROUNDING_SECONDS ? row.taken : Math.max(0, row.taken - PER_MINUTE);
      freeAt = Math.max(freeAt, row.at) + (row.taken * 60) / PER_MINUTE;
    }
  }
  return { taken, beyond };
}
