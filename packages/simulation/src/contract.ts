/**
 * One contract for the model of workerdb and for PostgreSQL: generated calls go to both, every answer and every row must be
 * the same. Time stands still in both but when the test moves it, and PostgreSQL's random() is as constant as the model's:
 * a schema in front of its own gives it another clock.
 */
import { isDeepStrictEqual } from 'node:util';
import {
  type BatchStore,
  batchIdOf,
  type ClaimedTrigger,
  type Code,
  type CommitRow,
  type DispatchStore,
  type FeedChange,
  keyHashOf,
  type TriggerChange,
} from '@milkrun/core';
import { createModelWorkerDb, type ModelWorkerDb } from './model/workerdb.ts';
import { createRandom, type Random } from './random.ts';

/** The PostgreSQL side: workerdb's own door, as much of it as the contract calls. */
export interface ContractDb extends BatchStore, DispatchStore {
  pollNow(actor: string, triggerId: string): Promise<boolean>;
  clearHalts(actor: string, code: Code): Promise<number>;
  readonly sql: {
    unsafe(query: string, parameters?: (number | string)[]): PromiseLike<readonly Record<string, unknown>[]>;
  };
}

const START = Date.UTC(2026, 0, 5, 12);
const HALF = 0.5;
const TRIGGERS = 7;

/** Run once in a database before it is opened for the contract: its clock and its dice are the test's from then on. */
export function contractClock(database: string): string {
  return `
create schema if not exists sim;
create table if not exists sim.clock (now timestamptz not null);
create or replace function sim.statement_timestamp() returns timestamptz language sql volatile as 'select now from sim.clock';
create or replace function sim.random() returns float8 language sql volatile as 'select 0.5::float8';
insert into sim.clock select now() where not exists (select from sim.clock);
alter database "${database}" set search_path = sim, pg_catalog, public;`;
}

class ContractBroken extends Error {
  override readonly name = 'ContractBroken';
}

function same(said: string, model: unknown, real: unknown): void {
  if (isDeepStrictEqual(model, real)) return;
  throw new ContractBroken(`${said}\n${difference(model, real, '')}`);
}

/** The first places where two values differ. */
function difference(model: unknown, real: unknown, path: string): string {
  if (typeof model !== 'object' || typeof real !== 'object' || model === null || real === null)
    return isDeepStrictEqual(model, real)
      ? ''
      : `  ${path}: model ${JSON.stringify(model)}, PostgreSQL ${JSON.stringify(real)}\n`;
  const names = new Set([...Object.keys(model), ...Object.keys(real)]);
  return [...names]
    .map((name) =>
      difference((model as Record<string, unknown>)[name], (real as Record<string, unknown>)[name], `${path}.${name}`),
    )
    .join('')
    .slice(0, 1_000);
}

const CHANGING =
  `polling_triggers polling_trigger_runs polling_trigger_states batches batch_fences timer_shards workers source_limits
  source_health turns held_events dead_letters lifecycle_outbox poll_log tombstones resync_marks ranked_keys holds_log`.split(
    /\s+/,
  );

interface Pair {
  readonly db: ContractDb;
  readonly model: ModelWorkerDb;
  at: number;
}

async function fresh(db: ContractDb): Promise<Pair> {
  const clock = { at: START };
  const model = createModelWorkerDb({ now: () => clock.at, random: () => HALF });
  const pair: Pair = Object.assign(clock, { db, model });
  await setClock(db, pair.at);
  await db.sql.unsafe(
    `${CHANGING.map((table) => `delete from ${table};`).join('')}
     update change_feed set cursor = null, resync_token = null, resync_started_at = null;
     update fleet set braked = false, polled = 0, brake_reset_at = '-infinity';`,
  );
  await db.ensureTimerShards(1);
  pair.model.ensureTimerShards(1);
  return pair;
}

const setClock = async (db: ContractDb, at: number): Promise<void> => {
  await db.sql.unsafe('update sim.clock set now = to_timestamp($1::float8)', [at / 1000]);
};

/** Everything the contract is about, of PostgreSQL. */
async function tablesOfPostgres(db: ContractDb) {
  const ms = (column: string): string => `round(extract(epoch from ${column}) * 1000)::float8`;
  const rows = await db.sql.unsafe(`
    select t.trigger_id::text as id, p.config_version::int as version, t.enabled, t.interval_s, t.phase_s, ${ms('t.next_poll_at')} as next, t.lease_epoch as epoch,
      t.last_committed_epoch as committed, b.batch_id as owner, ${ms('t.last_ok_at')} as ok, ${ms('t.last_polled_at')} as polled, t.failure_count as failures,
      t.poison_count as poisons, t.quiet_polls as quiet, c.code, t.primed, t.halted_probe as probe, h.code as halted, ${ms('t.halted_at')} as halted_at,
      t.version_used as used, s.cursor::text as cursor, encode(s.seen || s.seen_added, 'base64') as seen, p.slug, p.connection_id as connection, p.config::text as config,
      ${ms('p.since')} as since, ${ms('p.created_at')} as created, t.state_bytes as bytes, t.def_bytes as def
    from polling_trigger_runs t join polling_triggers p using (shard, trigger_id) join polling_trigger_states s using (shard, trigger_id)
    left join batches b on b.batch_no = t.lease_owner left join codes c on c.no = t.last_code left join codes h on h.no = t.halted_code order by 1`);
  const batches = await db.sql.unsafe(`
    select batch_id as id, hop, open, entries, planned, step, ${ms('claimed_at')} as claimed, ${ms('expires_at')} as expires, ${ms('ended_at')} as ended
    from batches order by 1`);
  const fences = await db.sql.unsafe(`
    select b.batch_id as batch, f.trigger_id::text as id, f.deleted from batch_fences f join batches b using (batch_no) order by 1, 2`);
  const [shard] = await db.sql.unsafe(`
    select case when wake_at = '-infinity' then null else ${ms('wake_at')} end as wake, ${ms('ticked_at')} as ticked, ${ms('backoff_until')} as backoff, backoff_level as level from timer_shards`);
  const outbox = await db.sql.unsafe(`
    select trigger_id::text as id, config_version::int as version, state, code, ${ms('at')} as at from lifecycle_outbox order by 1, 2, 3, 4`);
  const held = await db.sql.unsafe('select trigger_id::text as id, event_id as event from held_events order by 1, 2');
  const letters = await db.sql.unsafe(
    `select trigger_id::text as id, stage, code, event_id as event from dead_letters order by 1, 2, 3, 4`,
  );
  const limits = await db.sql.unsafe(
    `select toolkit, connection_id as connection, per_minute as pace, ${ms('not_before')} as until, reason from source_limits order by 1, 2`,
  );
  const tombs = await db.sql.unsafe(
    'select trigger_id::text as id, config_version::int as version from tombstones order by 1',
  );
  return plain({ rows, batches, fences, shard, outbox, held, letters, limits, tombs });
}

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
const round = (at: number | null): number | null =>
  at === null || at === Number.NEGATIVE_INFINITY ? null : Math.round(at);
const by =
  (text: (one: Record<string, unknown>) => string) => (a: Record<string, unknown>, b: Record<string, unknown>) =>
    text(a) < text(b) ? -1 : text(a) > text(b) ? 1 : 0;

/** The same of the model. */
function tablesOfModel({ tables }: ModelWorkerDb) {
  const batchOf = (no: number | null): string | null =>
    [...tables.batches.values()].find(({ batchNo }) => batchNo === no)?.batchId ?? null;
  const rows = [...tables.rows.values()].map((row) => ({
    id: row.triggerId,
    version: row.configVersion,
    enabled: row.enabled,
    interval_s: row.intervalS,
    phase_s: row.phaseS,
    next: round(row.nextPollAt),
    epoch: row.leaseEpoch,
    committed: row.lastCommittedEpoch,
    owner: batchOf(row.leaseOwner),
    ok: round(row.lastOkAt),
    polled: round(row.lastPolledAt),
    failures: row.failureCount,
    poisons: row.poisonCount,
    quiet: row.quietPolls,
    code: row.lastCode,
    primed: row.primed,
    probe: row.haltedProbe,
    halted: row.haltedCode,
    halted_at: round(row.haltedAt),
    used: row.versionUsed,
    cursor: row.cursor,
    seen: Buffer.from(row.seen).toString('base64'),
    slug: row.slug,
    connection: row.connectionId,
    config: row.config,
    since: round(row.since),
    created: round(row.createdAt),
    bytes: row.stateBytes,
    def: row.defBytes,
  }));
  const id = by((one) => String(one.id));
  const batches = [...tables.batches.values()].map((batch) => ({
    id: batch.batchId,
    hop: batch.hop,
    open: batch.open,
    entries: batch.entries,
    planned: batch.planned,
    step: batch.step,
    claimed: round(batch.claimedAt),
    expires: round(batch.expiresAt),
    ended: round(batch.endedAt),
  }));
  const fences = [...tables.fences].flatMap(([no, own]) =>
    [...own].map(([triggerId, { deleted }]) => ({ batch: batchOf(no), id: triggerId, deleted })),
  );
  const shard = tables.timerShards.get(0);
  return plain({
    rows: rows.sort(id),
    batches: batches.sort(id),
    fences: fences.sort(by((one) => `${one.batch} ${one.id}`)),
    shard: shard && {
      wake: round(shard.wakeAt),
      ticked: round(shard.tickedAt),
      backoff: round(shard.backoffUntil),
      level: shard.backoffLevel,
    },
    outbox: tables.outbox
      .map(({ triggerId, configVersion, state, code, at }) => ({
        id: triggerId,
        version: configVersion,
        state,
        code,
        at: round(at),
      }))
      .sort(by((one) => [one.id, String(one.version).padStart(9, '0'), one.state, one.code].join(' '))),
    held: [...tables.held.values()]
      .flat()
      .map(({ triggerId, eventId }) => ({ id: triggerId, event: eventId }))
      .sort(by((one) => `${one.id} ${one.event}`)),
    letters: [...tables.letters.values()]
      .map(({ triggerId, stage, code, eventId }) => ({ id: triggerId, stage, code, event: eventId }))
      .sort(by((one) => [one.id, one.stage, one.code, one.event].join(' '))),
    limits: [...tables.limits.values()]
      .map(({ toolkit, connection, perMinute, notBefore, reason }) => ({
        toolkit,
        connection: connection === '' ? '' : (JSON.parse(connection) as string[])[1],
        pace: perMinute,
        until: round(notBefore),
        reason,
      }))
      .sort(by((one) => `${one.toolkit} ${one.connection}`)),
    tombs: [...tables.tombstones].map(([triggerId, version]) => ({ id: triggerId, version })).sort(id),
  });
}

const byTrigger = <T extends { readonly triggerId: string }>(list: readonly T[]): T[] =>
  list.toSorted((a, b) => (a.triggerId < b.triggerId ? -1 : 1));
const idOf = (n: number): string => `${String(n).repeat(8)}-6f0a-4a53-8d53-0d6f1c5b7a1${n}`;
const rounded = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value ?? null, (_name, one: unknown) =>
      typeof one === 'number' ? Math.round(one * 100) / 100 : one,
    ),
  );

/** One call on both: its answers must be equal, and so must be all that is stored. */
async function both<T>(
  said: string,
  pair: Pair,
  ofDb: () => Promise<T>,
  ofModel: () => T,
  view: (answer: T) => unknown = (x) => x,
) {
  const [real, model] = [await ofDb(), ofModel()];
  same(`${said}: answers`, rounded(view(model)), rounded(view(real)));
  same(`${said}: tables`, tablesOfModel(pair.model), await tablesOfPostgres(pair.db));
  return model;
}

interface Known {
  readonly batchId: string;
  readonly triggers: readonly ClaimedTrigger[];
}

class Script {
  private version = 0;
  private batches = 0;
  private readonly planned: string[] = [];
  private readonly claims: Known[] = [];
  private readonly pair: Pair;
  private readonly random: Random;

  constructor(pair: Pair, random: Random) {
    this.pair = pair;
    this.random = random;
  }

  async step(): Promise<void> {
    const { random } = this;
    const what = random.pick([
      'feed',
      'feed',
      'tick',
      'claim',
      'claim',
      'commit',
      'commit',
      'commit',
      'extend',
      'check',
      'end',
      'pass',
      'pass',
      'verb',
      'hold',
      'states',
      'outbox',
      'liveness',
    ] as const);
    await this[what]();
  }

  private change(): FeedChange {
    const { random } = this;
    this.version += 1;
    const triggerId = idOf(random.integer(1, TRIGGERS));
    // Now and then an old one comes again.
    const configVersion = random.chance(0.15) ? Math.max(1, this.version - 4) : this.version;
    if (random.chance(0.1)) return { op: 'delete', triggerId, configVersion };
    const optional: Partial<TriggerChange> = {
      ...(random.chance(0.15) ? { cursor: random.pick(['null', '3', '{"b": [1, 2], "aa": null}']) } : {}),
      ...(random.chance(0.15) ? { resume: random.pick(['cursor', 'now'] as const) } : {}),
      ...(random.chance(0.2) ? { since: '2026-01-05T11:00:00.000Z' } : {}),
      ...(random.chance(0.2) ? { pollState: pollState(random.integer(0, 9)) } : {}),
    };
    return {
      op: 'upsert',
      triggerId,
      configVersion,
      tenantId: random.pick(['tenant-a', 'tenant-b']),
      toolkit: random.pick(['x', 'y']),
      slug: `slug-${random.integer(0, 1)}`,
      version: random.pick(['1', '1', '2']),
      config: random.pick(['{"q":1}', '{"q":1}', '{"long":"a","q":2}']),
      connectionId: random.pick(['c', 'c', 'd']),
      intervalSeconds: random.pick([30, 60, 300]),
      enabled: random.chance(0.8),
      createdAt: '2026-01-05T11:30:00.000Z',
      poll: { dedupe: 'unique', repeatable: random.chance(0.7) },
      primed: random.chance(0.2),
      pollNow: random.chance(0.15),
      ...optional,
    };
  }

  private async feed(): Promise<void> {
    const changes = Array.from({ length: this.random.integer(1, 3) }, () => this.change());
    const input = { after: null, next: '', changes, source: 'push' as const };
    const { pair } = this;
    await both(
      `feed ${JSON.stringify(changes)}`,
      pair,
      () => pair.db.applyFeedPage(input),
      () => pair.model.applyFeedPage(input),
    );
  }

  private async tick(): Promise<void> {
    const { pair, random } = this;
    const batchIds = Array.from({ length: 3 }, () => {
      this.batches += 1;
      return batchIdOf(0, `019b8e07-0000-7000-8000-${String(this.batches).padStart(12, '0')}`);
    });
    const input = {
      timerShard: 0,
      batchSize: random.pick([1, 2, 10]),
      batchIds,
      dispatch: random.chance(0.95),
      batchesAhead: random.pick([0, 0, 2]),
    };
    const result = await both(
      `tick ${JSON.stringify(input)}`,
      pair,
      () => pair.db.tick(input),
      () => pair.model.tick(input),
      (answer) => ({
        ...answer,
        planned: answer.planned.toSorted((a, b) => (a.batchId < b.batchId ? -1 : 1)),
        unclaimed: answer.unclaimed.toSorted(),
      }),
    );
    this.planned.push(...result.planned.map(({ batchId }) => batchId));
  }

  private async claim(): Promise<void> {
    const { pair, random } = this;
    if (this.planned.length === 0) return await this.tick();
    const batchId = random.pick(this.planned);
    const input = { batchId, leaseSeconds: 45, bytesMax: random.pick([900, 8_000_000]) };
    const claim = await both(
      `claim ${batchId}`,
      pair,
      () => pair.db.claim(input),
      () => pair.model.claim(input),
      ({ status, triggers }) => ({
        status,
        triggers: byTrigger(triggers),
      }),
    );
    if (claim.triggers.length > 0) this.claims.push({ batchId, triggers: claim.triggers });
  }

  private row(trigger: ClaimedTrigger): CommitRow {
    const { random } = this;
    const { shard, triggerId } = trigger;
    const leaseEpoch = trigger.leaseEpoch + random.pick([0, 0, 0, 0, 0, -1]);
    const base = { shard, triggerId, leaseEpoch, events: random.integer(0, 2) };
    const drawn = {
      ...(random.chance(0.4) ? { cursor: random.pick(['null', '7', '{"b":1,"aa":"x"}']) } : {}),
      ...(random.chance(0.3) ? { seen: keyHashOf(`k${random.integer(0, 9)}`) } : {}),
      ...(random.chance(0.2) ? { versionUsed: '2' } : {}),
      ...(random.chance(0.3) ? { retryAfterSeconds: random.integer(1, 500) } : {}),
      ...(random.chance(0.2) ? { held: [{ eventId: `e${random.integer(0, 3)}`, json: '{}' }] } : {}),
      ...(random.chance(0.2) ? { heldDelivered: [`e${random.integer(0, 3)}`] } : {}),
      ...(random.chance(0.2)
        ? { deadLetters: [{ stage: 'poll' as const, code: 'poll.item_invalid', reason: 'bad', raw: Buffer.from('x') }] }
        : {}),
      ...(random.chance(0.2) ? { warnings: ['gap_suspected' as const] } : {}),
    };
    // One statement that holds an event and deletes it leaves open which comes first; both are right, for it was taken.
    const { heldDelivered, ...rest } = drawn;
    const isBoth = heldDelivered !== undefined && heldDelivered[0] === drawn.held?.[0]?.eventId;
    const more = isBoth ? rest : drawn;
    switch (random.integer(0, 8)) {
      case 0:
      case 1:
        return {
          ...base,
          ...more,
          outcome: 'success',
          code: 'ok',
          polled: true,
          ...(random.chance(0.5) ? { primed: true } : {}),
        };
      case 2:
        return {
          ...base,
          ...more,
          outcome: 'more',
          code: 'ok',
          polled: true,
          ...(random.chance(0.2) ? { rekeyed: true } : {}),
        };
      case 3:
        return {
          ...base,
          ...more,
          outcome: 'backoff',
          code: random.pick(['poll.timeout', 'poll.connector_error']),
          charge: 'failure',
        };
      case 4:
        return {
          ...base,
          ...more,
          outcome: 'backoff',
          code: 'poll.permanent',
          charge: 'failure',
          haltAfter: 3,
          haltCode: 'poll.permanent',
        };
      case 5:
        return {
          ...base,
          ...more,
          outcome: 'backoff',
          code: 'poll.response_invalid',
          charge: 'poison',
          haltAfter: 2,
          haltCode: 'quarantined',
        };
      case 6:
        return { ...base, ...more, outcome: 'rate_limited', code: 'poll.rate_limited' };
      case 7:
        return {
          ...base,
          ...more,
          outcome: 'release',
          code: 'poll.unavailable',
          ...(random.chance(0.5) ? { polled: true } : {}),
        };
      default:
        return random.chance(0.5)
          ? { ...base, ...more, outcome: 'halt', code: 'auth.revoked', haltCode: 'auth.revoked' }
          : { ...base, ...more, outcome: 'halt', code: 'broadcast.gone', haltCode: 'receiver_gone', polled: true };
    }
  }

  private async commit(): Promise<void> {
    const { pair, random } = this;
    if (this.claims.length === 0) return await this.claim();
    const known = random.pick(this.claims);
    // Sometimes rows of one batch in the name of another.
    const batchId = random.chance(0.1) ? random.pick(this.claims).batchId : known.batchId;
    const rows = known.triggers.filter(() => random.chance(0.7)).map((trigger) => this.row(trigger));
    const end = random.chance(0.4);
    const input = {
      batchId,
      rows,
      end,
      forced: end && random.chance(0.3),
      open: end ? 0 : random.integer(0, 3),
      ...(end ? {} : { extendSeconds: 50 }),
    };
    await both(
      `commit ${JSON.stringify(input)}`,
      pair,
      () => pair.db.commit(input),
      () => pair.model.commit(input),
      ({ exceptions, bisections: _, ...answer }) => ({
        ...answer,
        exceptions: byTrigger(exceptions),
      }),
    );
  }

  private async extend(): Promise<void> {
    const { pair, random } = this;
    const batchId = random.pick([...this.planned, 'batch-poller:0:none']);
    const input = {
      batchId,
      leaseSeconds: 45,
      hop: random.integer(0, 3),
      step: 'poll' as const,
      open: random.pick([null, 0, 1]),
    };
    await both(
      `extend ${batchId}`,
      pair,
      () => pair.db.extend(input),
      () => pair.model.extend(input),
      ({ fenced, ...answer }) => ({
        ...answer,
        fenced: byTrigger(fenced),
      }),
    );
  }

  private async check(): Promise<void> {
    const { pair, random } = this;
    const batchId = random.pick([...this.planned, 'batch-poller:0:none']);
    await both(
      `check ${batchId}`,
      pair,
      () => pair.db.check(batchId),
      () => pair.model.check(batchId),
      ({ fenced, waiting: _, ...answer }) => ({
        ...answer,
        fenced: byTrigger(fenced),
      }),
    );
  }

  private async end(): Promise<void> {
    const { pair, random } = this;
    const batchId = random.pick([...this.planned, 'batch-poller:0:none']);
    await both(
      `end ${batchId}`,
      pair,
      () => pair.db.end(batchId),
      () => pair.model.end(batchId),
    );
  }

  /** Time goes on: past a lease, past an interval, past a back-off. */
  private async pass(): Promise<void> {
    this.pair.at += this.random.pick([1_000, 7_000, 46_000, 61_000, 301_000, 3_700_000]);
    await setClock(this.pair.db, this.pair.at);
  }

  private async verb(): Promise<void> {
    const { pair, random } = this;
    if (random.chance(0.5)) {
      const triggerId = idOf(random.integer(1, TRIGGERS));
      await both(
        'poll now',
        pair,
        () => pair.db.pollNow('test', triggerId),
        () => pair.model.pollNow(triggerId),
      );
      return;
    }
    const code = random.pick(['auth.revoked', 'receiver_gone', 'quarantined', 'cursor_lost'] as const);
    await both(
      `clear ${code}`,
      pair,
      () => pair.db.clearHalts('test', code),
      () => pair.model.clearHalts(code),
    );
  }

  private async hold(): Promise<void> {
    const { pair, random } = this;
    if (this.claims.length === 0) return;
    const { shard, triggerId } = random.pick(random.pick(this.claims).triggers);
    const events = [{ shard, triggerId, eventId: `e${random.integer(0, 3)}`, json: '{}' }];
    await both(
      'hold',
      pair,
      () => pair.db.holdFenced(events),
      () => pair.model.holdFenced(events),
    );
  }

  private async states(): Promise<void> {
    const { pair, random } = this;
    if (this.claims.length === 0) return;
    const keys = random.pick(this.claims).triggers;
    await both(
      'states',
      pair,
      () => pair.db.readStates(keys),
      () => pair.model.readStates(keys),
      (states) =>
        byTrigger(states).map(({ seen, ...state }) => ({ ...state, seen: Buffer.from(seen).toString('hex') })),
    );
    await both(
      'held',
      pair,
      () => pair.db.readHeld(keys),
      () => pair.model.readHeld(keys),
      byTrigger,
    );
  }

  private async outbox(): Promise<void> {
    const { pair } = this;
    const view = (list: Awaited<ReturnType<DispatchStore['pendingLifecycle']>>): unknown =>
      list?.map(({ id: _, ...record }) => record).toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
    const model = pair.model.pendingLifecycle(500);
    const real = await pair.db.pendingLifecycle(500);
    same('outbox', view(model), view(real));
    await pair.db.acknowledgeLifecycle((real ?? []).map(({ id }) => id));
    pair.model.acknowledgeLifecycle((model ?? []).map(({ id }) => id));
  }

  private async liveness(): Promise<void> {
    const { pair } = this;
    const model = pair.model.liveness();
    const real = await pair.db.liveness();
    const view = ({ checked, polled, open, oldestDueSeconds, quietShards }: typeof real) => ({
      checked,
      polled,
      open,
      oldestDueSeconds,
      quietShards,
    });
    same('liveness', rounded(view(model)), rounded(view(real)));
    await both(
      'repair',
      pair,
      () => pair.db.repairLiveness(real),
      () => pair.model.repairLiveness(real),
    );
  }
}

function pollState(n: number): string {
  const seen = Buffer.from(keyHashOf(`seen-${n}`)).toString('base64');
  return Buffer.from(JSON.stringify({ v: 1, cursor: n, seen, version: '1' })).toString('base64');
}

/** Makes the calls of a seed on both sides. Throws ContractBroken, which says what was called and what differs. */
export async function runContract(db: ContractDb, seed: number, steps: number): Promise<void> {
  const script = new Script(await fresh(db), createRandom(seed, 'contract'));
  for (let step = 0; step < steps; step += 1) {
    try {
      await script.step();
    } catch (error) {
      if (error instanceof ContractBroken) throw new ContractBroken(`seed ${seed}, call ${step}: ${error.message}`);
      throw error;
    }
  }
}
