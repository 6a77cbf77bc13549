/**
 * Writes that come too late, of every kind, at a real workerdb and a real snapshot store.
 *
 * Each round leases triggers and makes the leases stale in every way there is: expired, ended, both with the rows leased
 * anew, edited, disabled, deleted, rewound, committed. Then the old holder writes all a batch can write. Proof is a digest
 * of every table before and after, taken by SQL of the drill's own: nothing may differ. The holders of the new leases then
 * commit the same writes, all of which must be taken, or the fence would prove nothing.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BATCH_STEPS, type Snapshots } from '@milkrun/batch-poller';
import {
  batchIdOf,
  type ClaimedTrigger,
  type CommitRow,
  eventIdOf,
  keyHashOf,
  type LeasedKey,
  type ObjectStore,
} from '@milkrun/core';
import { createObjectStore } from '@milkrun/object-store';
import type { WorkerDb } from '@milkrun/workerdb';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';
import {
  contextOf,
  createProvider,
  createReceiver,
  drillKeys,
  inputOf,
  LEASE_SECONDS,
  pageOf,
  stepDeps,
} from './lib/steps.ts';
import { changeOf, expire, keyOf, makeDue, openDrillDb, push, uuidsFrom } from './lib/workerdb.ts';

/** Triggers of one batch; a round leases six. */
const BATCH = 100;
const BYTES_MAX = 8 * 1024 * 1024;
const EXTENSIONS = 25;

type Make = (key: LeasedKey) => CommitRow;

const rowOf = (key: LeasedKey, over: Partial<CommitRow>): CommitRow => ({
  ...keyOf(key),
  outcome: 'success',
  code: 'ok',
  polled: true,
  events: 1,
  ...over,
});
const heldIdOf = (triggerId: string): string => eventIdOf(triggerId, 'held');
const letter = { stage: 'poll', code: 'poll.item_invalid', reason: 'stale', raw: Buffer.from('stale') } as const;

/** Every outcome a commit can write, with all that travels along. */
const COMMITS: Readonly<Record<string, Make>> = {
  success: (key) =>
    rowOf(key, { cursor: '"stale"', seen: keyHashOf('stale'), versionUsed: 'stale', primed: true, deduplicated: 1 }),
  more: (key) => rowOf(key, { outcome: 'more', cursor: 'null' }),
  delivered: (key) =>
    rowOf(key, { cursor: '"stale"', heldDelivered: [heldIdOf(key.triggerId)], deadLetters: [letter] }),
  rekeyed: (key) =>
    rowOf(key, { cursor: '"stale"', seen: keyHashOf('stale'), rekeyed: true, warnings: ['gap_suspected'] }),
  release: (key) => rowOf(key, { outcome: 'release', code: 'broadcast.unavailable' }),
  rate_limited: (key) =>
    rowOf(key, { outcome: 'rate_limited', code: 'poll.rate_limited', retryAfterSeconds: 3600, events: 0 }),
  backoff: (key) => rowOf(key, { outcome: 'backoff', code: 'poll.connector_error', charge: 'failure', events: 0 }),
  poison: (key) =>
    rowOf(key, {
      outcome: 'backoff',
      code: 'poll.response_invalid',
      charge: 'poison',
      haltAfter: 1,
      haltCode: 'quarantined',
      events: 0,
    }),
  halt_credential: (key) => rowOf(key, { outcome: 'halt', code: 'auth.revoked', haltCode: 'auth.revoked', events: 0 }),
  halt_gone: (key) => rowOf(key, { outcome: 'halt', code: 'broadcast.gone', haltCode: 'receiver_gone', events: 0 }),
};

interface Lease {
  readonly batchId: string;
  readonly triggers: readonly ClaimedTrigger[];
}

export const drill: Drill = {
  name: 'fence',
  about: 'What a lost lease still writes is refused, whatever it is; late results are never used.',
  defaults: { count: 20_000 },
  fullCount: 100_000,
  ciCount: 5_000,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const uuid = uuidsFrom(randomFrom(seed));
    const opened = await openDrillDb();
    const folder = await mkdtemp(join(tmpdir(), 'milkrun-drill-fence-'));
    const objects = createObjectStore(`fs:${folder}`);
    const kinds: Record<string, number> = {};
    const totals = {
      tried: 0,
      accepted: 0,
      ownersTaken: 0,
      lateSegments: 0,
      lateRecords: 0,
      lateUsed: 0,
      violations: 0,
    };
    const report = (problem: string): void => {
      totals.violations += 1;
      if (totals.violations <= 20) log(`violation: ${problem}`);
    };
    try {
      const round = createRound({ db: opened.db, objects, uuid, report, totals, kinds });
      while (totals.tried < count && totals.violations === 0) {
        await round();
        log(`${totals.tried} of ${count} stale writes, ${totals.accepted} accepted`);
      }
    } finally {
      await objects.close();
      await opened.close();
      await rm(folder, { recursive: true, force: true });
    }
    if (totals.ownersTaken === 0) report('no holder of a lease committed');
    log(JSON.stringify(kinds));
    return { ...totals, kinds: Object.keys(kinds).length };
  },
};

interface RoundInput {
  readonly db: WorkerDb;
  readonly objects: ObjectStore;
  readonly uuid: () => string;
  readonly report: (problem: string) => void;
  readonly totals: {
    tried: number;
    accepted: number;
    ownersTaken: number;
    lateSegments: number;
    lateRecords: number;
    lateUsed: number;
  };
  readonly kinds: Record<string, number>;
}

function createRound({ db, objects, uuid, report, totals, kinds }: RoundInput): () => Promise<void> {
  /** One kind of stale write: what it answers is looked at, and every table before and after. */
  async function stale(
    kind: string,
    writes: number,
    live: readonly string[],
    write: () => Promise<string | undefined>,
  ): Promise<void> {
    const before = await digest(db, live);
    const problem = await write();
    const after = await digest(db, live);
    totals.tried += writes;
    kinds[kind] = (kinds[kind] ?? 0) + writes;
    const changed = Object.keys(before).filter((table) => before[table] !== after[table]);
    if (changed.length === 0 && problem === undefined) return;
    totals.accepted += 1;
    report(`${kind}: ${problem ?? 'answered as refused'}; changed: ${changed.join(', ') || 'nothing'}`);
  }

  function staleCommit(
    kind: string,
    batchId: string,
    rows: readonly CommitRow[],
    end: boolean,
    live: readonly string[],
  ): Promise<void> {
    return stale(kind, rows.length, live, async () => {
      const done = await db.commit({ batchId, rows, end, forced: end, open: 0 });
      const refused = done.exceptions.filter(({ status }) => status === 'fenced' || status === 'already').length;
      if (done.committed !== 0) return `${done.committed} rows committed`;
      return refused === rows.length ? undefined : `${refused} of ${rows.length} rows answered as refused`;
    });
  }

  async function lease(batches: number): Promise<Lease[]> {
    const batchIds = Array.from({ length: batches }, () => batchIdOf(0, uuid()));
    const { planned } = await db.tick({ timerShard: 0, batchSize: BATCH, batchIds, dispatch: true });
    const leases: Lease[] = [];
    for (const { batchId } of planned) {
      const { triggers } = await db.claim({ batchId, leaseSeconds: LEASE_SECONDS, bytesMax: BYTES_MAX });
      leases.push({ batchId, triggers });
    }
    return leases;
  }

  return async () => {
    await forgetEarlierRounds(db);
    // The tick plans by how much live workers can take.
    for (let n = 0; n < 8; n += 1) await db.heartbeatWorker({ workerId: `drill-${n}`, width: 1 });
    const ids = Array.from({ length: 6 * BATCH }, uuid);
    const poll = { dedupe: 'unique', repeatable: false } as const;
    await push(
      db,
      ids.map((id) => changeOf(id, 1, { poll })),
    );
    await makeDue(db);
    const [expired, expiredAnew, ended, endedAnew, changed, late] = await lease(6);
    if (
      late === undefined ||
      changed === undefined ||
      endedAnew === undefined ||
      ended === undefined ||
      expiredAnew === undefined ||
      expired === undefined
    ) {
      throw new Error('the tick planned fewer than six batches');
    }
    await db.holdFenced([expired, expiredAnew, changed].flatMap(({ triggers }) => triggers.map((one) => heldOf(one))));
    // A tick that was run twice: the same keys planned again, to be claimed after they changed hands.
    const plannedTwice = batchIdOf(0, uuid());
    await db.sql`insert into batches (batch_id, timer_shard, planned, started_at, key_shards, key_epochs, key_ids)
      select ${plannedTwice}, 0, planned, statement_timestamp(), key_shards, key_epochs, key_ids from batches where batch_id = ${endedAnew.batchId}`;

    await expire(db, expired.batchId);
    await expire(db, expiredAnew.batchId);
    await db.end(ended.batchId);
    await db.end(endedAnew.batchId);
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() + interval '1 h'
      where trigger_id = any (${[...expired.triggers, ...ended.triggers].map((one) => one.triggerId)})`;
    const owners = await lease(2);
    const taken = owners.reduce((sum, one) => sum + one.triggers.length, 0);
    if (taken !== 2 * BATCH) throw new Error(`${taken} rows were leased anew instead of ${2 * BATCH}`);
    await takeAway(db, changed);

    const deleted = changed.triggers.filter((_, n) => n % 5 === 2);
    for (const { batchId, triggers } of [expired, expiredAnew, ended, endedAnew]) {
      for (const [kind, make] of Object.entries(COMMITS))
        await staleCommit(`commit.${kind}`, batchId, triggers.map(make), true, []);
      await stale('extend', EXTENSIONS, [], async () => {
        for (let n = 0; n < EXTENSIONS; n += 1) {
          const answer = await db.extend({ batchId, leaseSeconds: 600, hop: 1, step: 'poll', open: n });
          if (answer.live) return 'the lease was revived';
        }
        return undefined;
      });
      await stale('end.by_commit', 1, [], async () => {
        const done = await db.commit({ batchId, rows: [], end: true, forced: true, open: 0 });
        return done.committed === 0 ? undefined : 'something was committed';
      });
      await stale('claim.again', triggers.length, [], async () => {
        const claim = await db.claim({ batchId, leaseSeconds: LEASE_SECONDS, bytesMax: BYTES_MAX });
        return claim.triggers.length === 0 ? undefined : `${claim.triggers.length} rows leased`;
      });
    }
    for (const { batchId } of [ended, endedAnew]) {
      await stale('end.twice', 1, [], async () => ((await db.end(batchId)) ? 'it was ended again' : undefined));
    }
    // The batch lives on; its rows were taken from it one by one.
    for (const [kind, make] of Object.entries(COMMITS)) {
      await staleCommit(`fenced.${kind}`, changed.batchId, changed.triggers.map(make), false, [changed.batchId]);
    }
    const lost = deleted.map((one) => heldOf(one));
    await stale('held.of_deleted', lost.length, [], async () => void (await db.holdFenced(lost)));
    await staleCommit(
      'fenced.held_of_deleted',
      changed.batchId,
      deleted.map((one) => rowOf(one, { outcome: 'release', code: 'broadcast.unavailable', held: [heldOf(one)] })),
      false,
      [changed.batchId],
    );
    await stale('claim.planned_twice', BATCH, [plannedTwice], async () => {
      const claim = await db.claim({ batchId: plannedTwice, leaseSeconds: LEASE_SECONDS, bytesMax: BYTES_MAX });
      return claim.triggers.length === 0 ? undefined : `${claim.triggers.length} rows leased`;
    });
    // The right batch with the old epoch, the old batch with the right one.
    const success = COMMITS.success as Make;
    for (const owner of owners) {
      const older = owner.triggers.map((one) => success({ ...keyOf(one), leaseEpoch: one.leaseEpoch - 1 }));
      await staleCommit('commit.old_epoch', owner.batchId, older, false, [owner.batchId]);
      for (const { batchId } of [expiredAnew, endedAnew]) {
        await staleCommit('commit.old_batch', batchId, owner.triggers.map(success), true, []);
      }
    }
    // Ending an expired batch may mark that batch, and nothing else.
    for (const { batchId } of [expired, expiredAnew])
      await stale('end.expired', 1, [batchId], async () => void (await db.end(batchId)));

    for (const { batchId, triggers } of owners) {
      const rows = triggers.map((one, n) => (Object.values(COMMITS)[n % 9] as Make)(one));
      const done = await db.commit({ batchId, rows, end: true, forced: false, open: 0 });
      totals.ownersTaken += done.committed;
      if (done.committed !== triggers.length)
        report(`the holder committed ${done.committed} of ${triggers.length} rows`);
    }
    await lateResults(late);
  };

  /** Result objects written after the delivery and after the commit: of an earlier attempt, a later hop, other epochs. */
  async function lateResults({ batchId, triggers }: Lease): Promise<void> {
    const deps = () =>
      stepDeps({
        store: db,
        objects,
        keys: drillKeys(),
        controlPlane: createReceiver(),
        runner: createProvider(() => pageOf([], null)),
      });
    const { snapshots } = deps();
    await snapshots.writeEntries(batchId, triggers);
    await writeResults(snapshots, batchId, triggers, 0, 2, 0, 'told');
    const input = inputOf(batchId, triggers.length);
    await BATCH_STEPS.broadcast(deps(), input, contextOf(1));
    const segments: (() => Promise<void>)[] = [
      () => writeResults(deps().snapshots, batchId, triggers, 0, 1, 0, 'late'),
      () => writeResults(deps().snapshots, batchId, triggers, 0, 3, 0, 'late'),
      () => writeResults(deps().snapshots, batchId, triggers, 1, 1, 0, 'late'),
      () => writeResults(deps().snapshots, batchId, triggers, 0, 1, -1, 'late'),
      () => writeResults(deps().snapshots, batchId, triggers, 0, 1, 1, 'late'),
      () => writeVerdicts(deps().snapshots, batchId, triggers, 'poll.permanent'),
      () => writeVerdicts(deps().snapshots, batchId, triggers, 'poll.listing_too_large'),
    ];
    for (const write of segments) {
      await write();
      totals.lateSegments += 1;
      totals.lateRecords += triggers.length;
    }
    await BATCH_STEPS.commit(deps(), { ...input, force: false, askedSeconds: 0 }, contextOf(1));
    await writeResults(deps().snapshots, batchId, triggers, 0, 4, 0, 'late');
    totals.lateSegments += 1;
    totals.lateRecords += triggers.length;
    const again = await BATCH_STEPS.commit(deps(), { ...input, force: true, askedSeconds: 0 }, contextOf(2));
    if (again.status !== 'ended') report(`a commit after the end answered ${again.status}`);
    const rows = await db.sql<
      { trigger_id: string; cursor: string | null; seen: Buffer; code: string; live: boolean }[]
    >`
      select t.trigger_id, s.cursor::text as cursor, s.seen || s.seen_added as seen, c.code, t.lease_owner is not null as live
      from polling_trigger_runs t join polling_trigger_states s using (shard, trigger_id) join codes c on c.no = t.last_code
      where t.trigger_id = any (${triggers.map((one) => one.triggerId)})`;
    const told = rows.filter(
      (row) =>
        row.cursor === '"told"' && row.code === 'ok' && !row.live && Buffer.from(keyHashOf('told')).equals(row.seen),
    );
    totals.lateUsed += triggers.length - told.length;
    if (told.length !== triggers.length) report(`${triggers.length - told.length} rows took a late result`);
  }
}

const heldOf = ({ shard, triggerId }: LeasedKey) => ({ shard, triggerId, eventId: heldIdOf(triggerId), json: '{}' });

/** Takes rows from a live batch in every way a row can go, and commits a fifth of them. */
async function takeAway(db: WorkerDb, { batchId, triggers }: Lease): Promise<void> {
  const poll = { dedupe: 'unique', repeatable: false } as const;
  await push(
    db,
    triggers.flatMap(({ triggerId }, n) => {
      if (n % 5 === 0) return [changeOf(triggerId, 2, { poll, config: '{"edited":true}' })];
      if (n % 5 === 1) return [changeOf(triggerId, 2, { poll, enabled: false })];
      if (n % 5 === 2) return [{ op: 'delete' as const, triggerId, configVersion: 2 }];
      return n % 5 === 3 ? [changeOf(triggerId, 2, { poll, cursor: '"rewound"', resume: 'cursor' })] : [];
    }),
  );
  const own = triggers.filter((_, n) => n % 5 === 4).map((one) => rowOf(one, { cursor: '"good"' }));
  const done = await db.commit({ batchId, rows: own, end: false, forced: false, open: 0 });
  if (done.committed !== own.length) throw new Error(`${done.committed} of ${own.length} rows were committed`);
}

type ResultRecord = Parameters<ReturnType<Snapshots['resultWriter']>['append']>[0];

async function writeRecords(
  snapshots: Snapshots,
  batchId: string,
  triggers: readonly ClaimedTrigger[],
  place: { readonly hop: number; readonly attempt: number; readonly epochs: number },
  of: (trigger: ClaimedTrigger) => Pick<ResultRecord, 'code' | 'events' | 'newKeys' | 'cursorAfter'>,
): Promise<void> {
  const { hop, attempt, epochs } = place;
  const writer = snapshots.resultWriter(batchId, hop, attempt);
  for (const trigger of triggers) {
    const { triggerId, leaseEpoch } = trigger;
    const head = { triggerId, leaseEpoch: leaseEpoch + epochs, hop, attempt, page: 0, more: false };
    await writer.append({ ...head, deduplicated: 0, pollMs: 1, ...of(trigger) });
  }
  await writer.close();
}

/** One page each, with one item, whose cursor is the word. */
function writeResults(
  snapshots: Snapshots,
  batchId: string,
  triggers: readonly ClaimedTrigger[],
  hop: number,
  attempt: number,
  epochs: number,
  word: string,
): Promise<void> {
  return writeRecords(snapshots, batchId, triggers, { hop, attempt, epochs }, ({ triggerId }) => {
    const eventId = eventIdOf(triggerId, word);
    return {
      code: 'ok',
      events: [{ eventId, json: JSON.stringify({ id: eventId, triggerid: triggerId }) }],
      newKeys: Buffer.from(keyHashOf(word)).toString('base64'),
      cursorAfter: JSON.stringify(word),
    };
  });
}

function writeVerdicts(
  snapshots: Snapshots,
  batchId: string,
  triggers: readonly ClaimedTrigger[],
  code: string,
): Promise<void> {
  const place = { hop: 0, attempt: 1, epochs: 0 };
  return writeRecords(snapshots, batchId, triggers, place, () => ({
    code,
    events: [],
    newKeys: '',
    cursorAfter: null,
  }));
}

const WATCHED = [
  'polling_triggers',
  'polling_trigger_runs',
  'polling_trigger_states',
  'batch_fences',
  'timer_shards',
  'source_limits',
  'source_health',
  'held_events',
  'dead_letters',
  'lifecycle_outbox',
  'fleet',
  'tombstones',
  'change_feed',
  'audit',
] as const;

/** A digest of each table. Of `live` batches their own rows are left out; of the log the lines that say a fence held. */
async function digest(db: WorkerDb, live: readonly string[]): Promise<Readonly<Record<string, string>>> {
  const of = (from: string): string =>
    `(select md5(coalesce(string_agg(x::text, '|' order by x::text), '')) from ${from})`;
  const parts = WATCHED.map((table) => `${of(`${table} x`)} as ${table}`);
  const [row] = await db.sql.unsafe<Record<string, string>[]>(
    `select ${parts.join(', ')}, ${of('(select * from batches where batch_id <> all ($1::text[])) x')} as batches,
       ${of("(select * from poll_log where outcome <> 'fenced') x")} as poll_log`,
    [`{${live.map((id) => `"${id}"`).join(',')}}`],
  );
  return row as Record<string, string>;
}

async function forgetEarlierRounds(db: WorkerDb): Promise<void> {
  const tables = [
    ...WATCHED.filter((table) => !['fleet', 'change_feed', 'timer_shards', 'audit'].includes(table)),
    'batches',
    'poll_log',
  ];
  await db.sql.unsafe(tables.map((table) => `delete from ${table};`).join(''));
  await db.sql.unsafe("update fleet set braked = false, brake_reset_at = '-infinity'");
}
