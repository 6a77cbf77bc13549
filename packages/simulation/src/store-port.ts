/** workerdb as a process reaches it: the model behind a connection that may fail, with a note of everything it does. */
import type { BatchStore, CommitInput, DispatchStore } from '@milkrun/core';
import { batchByNo, isLive, rowFactsOf } from './model/tables.ts';
import { BROKEN, type Process } from './process.ts';
import type { Universe } from './universe.ts';

export type EngineStore = BatchStore & DispatchStore;

class DatabaseAway extends Error {
  override readonly name = 'DatabaseAway';
}

export function storeOf(universe: Universe, process: Process): EngineStore {
  const { db, world } = universe;
  const call = <T>(method: string, detail: string, effect: () => T, print?: (answer: T) => string): Promise<T> =>
    process.call({
      site: `db.${method}`,
      detail,
      faults: BROKEN,
      effect,
      error: (message) => new DatabaseAway(message),
      ...(print === undefined ? {} : { print }),
    });
  const store: EngineStore = {
    claim: (input) =>
      call(
        'claim',
        input.batchId,
        () => claim(universe, input),
        ({ status, triggers }) => `${status} ${triggers.length}`,
      ),
    extend: (input) =>
      call(
        'extend',
        `${input.batchId} ${input.step} open ${input.open}`,
        () => {
          const now = world.now();
          const batch = db.tables.batches.get(input.batchId);
          const wasLive = isLive(batch, now);
          const answer = db.extend(input);
          const leaseMs = (batch?.expiresAt ?? now) - now;
          const { batchId, hop } = input;
          universe.note({ kind: 'extended', batchId, hop, live: answer.live, wasLive, leaseMs });
          return answer;
        },
        ({ live, fenced }) => `${live ? 'live' : 'over'} ${fenced.length} fenced`,
      ),
    check: (batchId) =>
      call(
        'check',
        batchId,
        () => db.check(batchId),
        ({ live }) => (live ? 'live' : 'over'),
      ),
    readStates: (keys) => call('readStates', String(keys.length), () => db.readStates(keys)),
    readHeld: (keys) => call('readHeld', String(keys.length), () => db.readHeld(keys)),
    holdFenced: (events) => call('holdFenced', String(events.length), () => db.holdFenced(events)),
    commit: (input) =>
      call(
        'commit',
        `${input.batchId} ${input.rows.map((row) => `${row.triggerId.slice(-4)}:${row.outcome}:${row.code}`).join(' ')}${input.end ? ' end' : ''}`,
        () => commit(universe, process.name, input),
        ({ committed, exceptions }) => `${committed} committed ${exceptions.map(({ status }) => status).join(' ')}`,
      ),
    end: (batchId) =>
      call('end', batchId, () => {
        const ended = db.end(batchId);
        if (ended) universe.note({ kind: 'ended', batchId });
        return ended;
      }),
    tick: (input) =>
      call(
        'tick',
        '',
        () => db.tick(input),
        ({ due, planned, left }) => `due ${due} planned ${planned.length} left ${left}`,
      ),
    feedCursor: () => call('feedCursor', '', () => db.feedCursor()),
    applyFeedPage: (input) =>
      call(
        'applyFeedPage',
        `${input.after} → ${input.next}`,
        () => db.applyFeedPage(input),
        ({ applied, upserted, deleted, fenced }) => `${applied} ${upserted} ${deleted} ${fenced}`,
      ),
    beginResync: () => call('beginResync', '', () => db.beginResync()),
    resyncInProgress: () => call('resyncInProgress', '', () => db.resyncInProgress()),
    finishResync: (input) => call('finishResync', '', () => db.finishResync(input)),
    heartbeatWorker: (input) => call('heartbeatWorker', '', () => db.heartbeatWorker(input)),
    removeWorker: (workerId) => call('removeWorker', '', () => db.removeWorker(workerId)),
    timerShards: () => call('timerShards', '', () => db.timerShards()),
    ensureTimerShards: (count) => call('ensureTimerShards', '', () => db.ensureTimerShards(count)),
    liveness: () =>
      call(
        'liveness',
        '',
        () => db.liveness(),
        ({ violations }) => `${violations.length} violations`,
      ),
    repairLiveness: (report) => call('repairLiveness', '', () => db.repairLiveness(report)),
    pendingLifecycle: (limit) => call('pendingLifecycle', '', () => db.pendingLifecycle(limit)),
    acknowledgeLifecycle: (ids) => call('acknowledgeLifecycle', ids.join(' '), () => db.acknowledgeLifecycle(ids)),
    withTurn: async (name, holdSeconds, workerId, work) =>
      (await call('takeTurn', name, () => db.takeTurn(name, holdSeconds, workerId))) ? await work() : undefined,
  };
  return store;
}

function claim({ db, world, note }: Universe, input: Parameters<BatchStore['claim']>[0]) {
  const now = world.now();
  const { tables } = db;
  const batch = tables.batches.get(input.batchId);
  const planned = batch?.planned ?? 0;
  const owners = new Map(
    (batch?.keys ?? []).map(({ triggerId }) => [triggerId, tables.rows.get(triggerId)?.leaseOwner ?? null]),
  );
  const answer = db.claim(input);
  if (answer.status !== 'claimed') return answer;
  const rows = answer.triggers.map(({ triggerId, leaseEpoch, primed, createdAt, since }) => {
    const isTaken = isLive(batchByNo(tables, owners.get(triggerId) ?? null), now);
    return {
      triggerId,
      epoch: leaseEpoch,
      takenFrom: isTaken ? ('live' as const) : ('free' as const),
      primed,
      createdAt: Date.parse(createdAt),
      since: since === null ? null : Date.parse(since),
    };
  });
  const { batchId, leaseSeconds } = input;
  note({ kind: 'claimed', batchId, status: answer.status, planned, leaseSeconds, rows });
  return answer;
}

function commit({ db, world, note }: Universe, process: string, input: CommitInput) {
  const now = world.now();
  const { tables } = db;
  const batch = tables.batches.get(input.batchId);
  const wasLive = isLive(batch, now);
  const before = input.rows.map(({ triggerId, leaseEpoch }) => {
    const row = tables.rows.get(triggerId);
    const owned = row !== undefined && row.leaseOwner === batch?.batchNo && row.leaseEpoch === leaseEpoch;
    return { facts: rowFactsOf(row), owned };
  });
  const answer = db.commit(input);
  const rows = input.rows.map((row, at) => ({
    input: row,
    before: before[at]?.facts,
    after: rowFactsOf(tables.rows.get(row.triggerId)),
    owned: before[at]?.owned === true,
  }));
  const { batchId, end } = input;
  const { exceptions, arm } = answer;
  note({ kind: 'committed', batchId, hop: batch?.hop ?? 0, end, wasLive, rows, exceptions, process, arm });
  return answer;
}
