/**
 * The steps of a hand-off between the two real databases, without Temporal. After every step, and after every step repeated,
 * both pipelines try to commit: at most one may. What a trigger remembers comes out as it went in, both ways.
 */
import { createCarriedObjects, createLocalKeysFrom } from '@milkrun/batch-poller';
import { parseChanges } from '@milkrun/control-plane';
import {
  type CarriedTrigger,
  type CommitRow,
  type HandOffKey,
  noLog,
  storageShardOf,
  systemClock,
  systemRng,
} from '@milkrun/core';
import { createObjectStore } from '@milkrun/object-store';
import { openLegacyStore, openRegistry } from '@milkrun/registrydb';
import { createDatabase } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';
import postgres from 'postgres';
import { expect, inject, test } from 'vitest';
import { createCodecs } from '../src/index.ts';

const HAND_OFF = 'hand-off:test:0';
const codecs = createCodecs({ npm: 'exact', mail: 'time' });
const AT = '2026-01-02T03:04:05.000Z';

interface Made {
  readonly toolkit?: string;
  readonly dedupe?: 'unique' | 'watermark';
  readonly repeatable?: boolean;
}

async function scene(pipeline: 'legacy' | 'v2', { toolkit = 'npm', dedupe = 'unique', repeatable = true }: Made = {}) {
  const [registryUrl, workerUrl] = await Promise.all([
    createDatabase(inject('pgUrl')),
    createDatabase(inject('pgUrl')),
  ]);
  const registry = await openRegistry({
    ...{ url: registryUrl, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng, log: noLog, pipeline },
  });
  const legacy = await openLegacyStore({ url: registryUrl, migrate: false });
  const engine = await openWorkerDb({ url: workerUrl });
  const sql = postgres(registryUrl, { max: 1, onnotice: () => {} });
  const actor = { tenantId: 't1', name: 'test' };
  await registry.keys.ensureTenant('t1', 'One');
  const connection = await registry.connections.create(actor, { toolkit, name: 'one', credentials: { type: 'none' } });
  const { trigger } = await registry.triggers.upsert(actor, {
    ...{ tags: [], toolkit, slug: 's', version: '1', config: '{}', connectionId: connection.id, enabled: true },
    ...{
      intervalSeconds: 300,
      poll: { dedupe, repeatable, ...(dedupe === 'watermark' ? { overlapSeconds: 60 } : {}) },
    },
  });
  const { id } = trigger;
  const shard = storageShardOf(id);
  const feed = async () => {
    const page = await registry.feed.read(null, 100);
    if (page === 'expired') throw new Error('expired');
    const { changes } = parseChanges(page.changes.map((text) => JSON.parse(text)));
    await engine.applyFeedPage({ after: await engine.feedCursor(), next: page.next, changes, source: 'pull' });
  };
  await feed();
  await engine.ensureTimerShards(1);
  let batches = 0;
  const claim = async () => {
    batches += 1;
    const batchId = `batch-poller:0:0198c0de-0000-7000-8000-${String(batches).padStart(12, '0')}`;
    await engine.sql.unsafe(
      "update polling_trigger_runs set next_poll_at = statement_timestamp() where owner = 'v' and enabled",
    );
    await engine.sql.unsafe('delete from ranked_keys');
    await engine.tick({ timerShard: 0, batchSize: 10, batchIds: [batchId], dispatch: true });
    const { triggers } = await engine.claim({ batchId, leaseSeconds: 45, bytesMax: 1e6 });
    return { batchId, leaseEpoch: triggers[0]?.leaseEpoch };
  };
  const rowOf = (leaseEpoch: number, more: Partial<CommitRow> = {}): CommitRow => ({
    ...{ shard, triggerId: id, leaseEpoch, outcome: 'success', code: 'ok', polled: true, events: 0, ...more },
  });
  return {
    ...{ id, shard, registry, legacy, engine, sql, actor, feed, claim, rowOf },
    key: async (): Promise<HandOffKey> => ({
      triggerId: id,
      configVersion: (await registry.triggers.get('t1', id)).configVersion,
    }),
    objects: createCarriedObjects({
      objects: createObjectStore('memory:'),
      keys: createLocalKeysFrom([Buffer.alloc(32, 9)]),
    }),
    /** Who could begin a poll and commit it now; what they commit changes nothing that is remembered. */
    async committers(): Promise<string[]> {
      const able: string[] = [];
      const [row] = await sql<{ epoch: number; poll: number }[]>`
        select ownership_epoch as epoch, poll_epoch as poll from legacy_triggers where trigger_id = ${id}`;
      if (row !== undefined && (await legacy.owns(id, row.epoch))) {
        const { committed } = await legacy.commit({
          triggerId: id,
          ownershipEpoch: row.epoch,
          row: rowOf(row.poll + 1),
        });
        if (committed) able.push('legacy');
      }
      const { batchId, leaseEpoch } = await claim();
      if (leaseEpoch !== undefined) {
        const done = await engine.commit({ batchId, rows: [rowOf(leaseEpoch)], end: true, forced: false, open: 0 });
        if (done.committed === 1) able.push('v2');
      }
      await engine.end(batchId);
      return able;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([sql.end(), engine.close(), legacy.close(), registry.close()]);
    },
  };
}

type Scene = Awaited<ReturnType<typeof scene>>;

/** The steps in their order, as the workflow takes them. */
function stepsOf(test: Scene, direction: 'to_v2' | 'to_legacy') {
  const handOff = HAND_OFF;
  const { id, legacy, engine, objects } = test;
  const triggerIds = [id];
  const accepts = codecs.accepts;
  const seal = { handOff, triggerIds, longestCallSeconds: 0 };
  const put = async (carried: readonly CarriedTrigger[]) =>
    void (await objects.put(`${handOff}/0`, carried.map(codecs.carry)));
  const begin = () => legacy.handOffs.begin({ handOff, direction, triggerIds, accepts });
  const mark = async () => engine.handOffs.mark({ handOff, direction, keys: [await test.key()] });
  const carried = () => objects.get(`${handOff}/0`);
  return direction === 'to_v2'
    ? {
        begin,
        mark,
        quiet: () => legacy.handOffs.markQuiet({ handOff, triggerIds }),
        seal: async () => put((await legacy.handOffs.seal(seal)).carried),
        accept: async () => engine.handOffs.accept({ handOff, carried: await carried() }),
        conclude: () => legacy.handOffs.conclude({ handOff, triggerIds, actor: 'test' }),
      }
    : {
        begin,
        mark,
        seal: async () => put((await engine.handOffs.seal({ ...seal, graceSeconds: 60 })).carried),
        accept: async () => legacy.handOffs.accept({ handOff, actor: 'test', carried: await carried() }),
        conclude: () => engine.handOffs.conclude({ handOff, triggerIds }),
      };
}

test.each([
  ['to_v2', 'legacy', 'v2'],
  ['to_legacy', 'v2', 'legacy'],
] as const)('%s: each step may be repeated, and at no point can both commit', async (direction, from, to) => {
  await using test = await scene(from);
  const seen: string[][] = [await test.committers()];
  for (const step of Object.values(stepsOf(test, direction))) {
    for (let time = 0; time < 2; time += 1) {
      await step();
      seen.push(await test.committers());
    }
  }
  expect(seen.filter((able) => able.length > 1)).toEqual([]);
  expect([seen[0], seen.at(-1)]).toEqual([[from], [to]]);
  // Nobody in between; never back to the old one.
  expect(seen.map(([who]) => who ?? '-').join(' ')).toMatch(new RegExp(`^(${from} )+(- )+(${to} ?)+$`));
  const audit = await test.registry.audit('t1', { objectKind: 'trigger', objectId: test.id, limit: 10 });
  expect(audit.filter(({ action }) => action === `moved_${direction}`)).toHaveLength(1);
});

test('what is remembered goes to v2 and back unchanged, held events and a halt among it', async () => {
  await using test = await scene('legacy', { repeatable: false });
  const seen = new Uint8Array(Buffer.from('0123456789abcdef', 'hex'));
  const held = [{ eventId: 'evt_1', json: '{"id":"evt_1","n":12345678901234567890}' }];
  const cursor = '{"n":12345678901234567890}';
  const row = test.rowOf(1, {
    ...{
      outcome: 'halt',
      code: 'broadcast.gone',
      haltCode: 'receiver_gone',
      cursor,
      seen,
      held,
      primed: true,
      versionUsed: '7',
    },
  });
  expect(await test.legacy.commit({ triggerId: test.id, ownershipEpoch: 0, row })).toEqual({ committed: true });
  const there = stepsOf(test, 'to_v2');
  for (const step of Object.values(there)) await step();
  expect(await test.engine.trigger(test.id)).toMatchObject({
    ...{ primed: true, haltedCode: 'receiver_gone', nextPollAt: null, version: '7', seenKeys: 1 },
  });
  const keys = [{ shard: test.shard, triggerId: test.id, leaseEpoch: 0 }];
  expect(await test.engine.readHeld(keys)).toMatchObject(held);
  const first = await test.objects.get(`${HAND_OFF}/0`);
  await test.engine.handOffs.mark({ handOff: 'back', direction: 'to_legacy', keys: [] });
  const back = { handOff: 'back', triggerIds: [test.id] };
  await test.legacy.handOffs.begin({ ...back, direction: 'to_legacy', accepts: codecs.accepts });
  await test.engine.handOffs.mark({ ...back, direction: 'to_legacy', keys: [await test.key()] });
  const { carried } = await test.engine.handOffs.seal({ ...back, longestCallSeconds: 0, graceSeconds: 60 });
  const same = ({ cursor, seen, primed, versionUsed, halted, held }: CarriedTrigger) => ({
    ...{ cursor: JSON.parse(cursor ?? 'null'), seen, primed, versionUsed, halted, held },
  });
  expect(carried.map(same)).toEqual(first.map(same));
  expect(carried[0]?.ownershipEpoch).toBe(2);
  expect(await test.legacy.handOffs.accept({ handOff: 'back', actor: 'test', carried })).toEqual([test.id]);
  await test.engine.handOffs.conclude(back);
  expect(await test.legacy.read(test.id)).toEqual({ next: 'stop', reason: 'halted' });
  expect(await test.engine.readHeld(keys)).toEqual([]);
});

test('a batch that holds the row may end its work; only then is it at rest, and a late one is fenced', async () => {
  await using test = await scene('v2');
  const { batchId, leaseEpoch = 0 } = await test.claim();
  const steps = stepsOf(test, 'to_legacy');
  await steps.begin();
  await steps.mark();
  const seal = (graceSeconds: number) =>
    test.engine.handOffs.seal({ handOff: HAND_OFF, triggerIds: [test.id], longestCallSeconds: 0, graceSeconds });
  expect(await seal(60)).toEqual({ carried: [], gone: [], waitMs: 2000 });
  const row = test.rowOf(leaseEpoch, { cursor: '5', primed: true });
  const commit = () => test.engine.commit({ batchId, rows: [row], end: true, forced: false, open: 0 });
  expect(await commit()).toMatchObject({ committed: 1 });
  expect((await seal(60)).carried).toMatchObject([{ cursor: '5', primed: true }]);
});

test('a late batch loses the row, and its commit is refused', async () => {
  await using test = await scene('v2');
  const { batchId, leaseEpoch = 0 } = await test.claim();
  const steps = stepsOf(test, 'to_legacy');
  await steps.begin();
  await steps.mark();
  const input = { handOff: HAND_OFF, triggerIds: [test.id], longestCallSeconds: 0 };
  expect((await test.engine.handOffs.seal({ ...input, graceSeconds: 0 })).carried).toHaveLength(1);
  expect((await test.engine.check(batchId)).fenced).toHaveLength(1);
  const row = test.rowOf(leaseEpoch, { cursor: '5' });
  expect(await test.engine.commit({ batchId, rows: [row], end: true, forced: false, open: 0 })).toMatchObject({
    committed: 0,
    exceptions: [{ status: 'fenced' }],
  });
});

/** What a dump of workerdb holds of triggers and the feed, taken and put back within the database. */
const DUMPED = ['polling_triggers', 'polling_trigger_runs', 'polling_trigger_states', 'hand_offs', 'change_feed'];
const dump = (test: Scene) =>
  test.engine.sql.unsafe(
    DUMPED.map((name) => `drop table if exists d_${name}; create table d_${name} as table ${name};`).join(''),
  );
const putBack = (test: Scene) =>
  test.engine.sql.unsafe(
    DUMPED.map((name) => `delete from ${name}; insert into ${name} select * from d_${name};`).join(''),
  );

test('a workerdb put back to before a move to legacy lets go once it has read the feed', async () => {
  await using test = await scene('v2');
  await dump(test);
  for (const step of Object.values(stepsOf(test, 'to_legacy'))) await step();
  await putBack(test);
  const claimed = await test.claim();
  expect(claimed.leaseEpoch).toBeDefined();
  await test.feed();
  expect(await test.committers()).toEqual(['legacy']);
  // A batch that was under way when the feed was read does not commit either.
  const late = {
    batchId: claimed.batchId,
    rows: [test.rowOf(claimed.leaseEpoch ?? 0)],
    end: true,
    forced: false,
    open: 0,
  };
  expect(await test.engine.commit(late)).toMatchObject({ committed: 0 });
  const [row] = await test.engine.sql`select owner, ownership_epoch from polling_trigger_runs`;
  expect(row).toEqual({ owner: 'l', ownership_epoch: 1 });
});

test('a workerdb put back to before a move to v2 takes the trigger, with what the control plane remembers', async () => {
  await using test = await scene('legacy');
  await dump(test);
  for (const step of Object.values(stepsOf(test, 'to_v2'))) await step();
  const state = { v: 1, cursor: { at: 7 }, seen: Buffer.alloc(8, 1).toString('base64'), version: '3' };
  await test.sql`insert into poll_states (trigger_id, primed, poll_state, updated_at)
    values (${test.id}, true, ${Buffer.from(JSON.stringify(state)).toString('base64')}, now())`;
  await putBack(test);
  expect(await test.committers()).toEqual([]);
  await test.feed();
  expect(await test.engine.trigger(test.id)).toMatchObject({ cursor: { at: 7 }, seenKeys: 1, primed: true });
  expect(await test.committers()).toEqual(['v2']);
});

test('a workerdb put back to before a move to v2 halts a trigger nobody remembers for it, and says so', async () => {
  await using test = await scene('legacy');
  await dump(test);
  for (const step of Object.values(stepsOf(test, 'to_v2'))) await step();
  await test.sql`insert into poll_states (trigger_id, primed, updated_at) values (${test.id}, true, now())`;
  await putBack(test);
  await test.feed();
  expect(await test.engine.trigger(test.id)).toMatchObject({ haltedCode: 'cursor_lost' });
  expect(await test.engine.pendingLifecycle(10)).toMatchObject([{ state: 'halted', code: 'cursor_lost' }]);
});

test('what the feed says of an owner before the last hand-off is not believed', async () => {
  await using test = await scene('legacy');
  for (const step of Object.values(stepsOf(test, 'to_v2'))) await step();
  const page = await test.registry.feed.read(null, 100);
  if (page === 'expired') throw new Error('expired');
  const { changes } = parseChanges(page.changes.map((text) => JSON.parse(text)));
  const older = changes.map((one) => ({ ...one, pipeline: 'legacy' as const, ownershipEpoch: 0 }));
  const result = await test.engine.applyFeedPage({ after: null, next: '', changes: older, source: 'push' });
  expect(result).toMatchObject({ moved: 0, older: 1 });
  expect(await test.committers()).toEqual(['v2']);
});

test('the longest call must have passed', async () => {
  await using test = await scene('legacy');
  const steps = stepsOf(test, 'to_v2') as Record<string, () => Promise<unknown>>;
  for (const name of ['begin', 'mark', 'quiet']) await steps[name]?.();
  const sealed = await test.legacy.handOffs.seal({ handOff: HAND_OFF, triggerIds: [test.id], longestCallSeconds: 30 });
  expect(sealed.carried).toEqual([]);
  expect(sealed.waitMs).toBeGreaterThan(25_000);
});

test('a codec by time leaves the keys behind: the first poll on the other side remembers what is dated up to the last good one', async () => {
  await using test = await scene('legacy', { toolkit: 'mail', dedupe: 'watermark' });
  const seen = new Uint8Array(8).fill(1);
  await test.legacy.commit({
    triggerId: test.id,
    ownershipEpoch: 0,
    row: test.rowOf(1, { cursor: '{"at":1}', seen, primed: true }),
  });
  await test.sql`update legacy_triggers set last_ok_at = ${AT}`;
  for (const step of Object.values(stepsOf(test, 'to_v2'))) await step();
  const { leaseEpoch } = await test.claim();
  expect(leaseEpoch).toBeDefined();
  expect(await test.engine.trigger(test.id)).toMatchObject({ primed: false, seenKeys: 0, cursor: { at: 1 } });
  const [definition] = await test.engine.sql<{ created_at: Date }[]>`select created_at from polling_triggers`;
  expect(definition?.created_at.toISOString()).toBe('2026-01-02T03:04:05.001Z');
});

test('says why a trigger is not moved', async () => {
  await using test = await scene('legacy', { toolkit: 'mail' });
  const begin = (direction: 'to_v2' | 'to_legacy', handOff: string, triggerIds = [test.id]) =>
    test.legacy.handOffs.begin({ handOff, direction, triggerIds, accepts: codecs.accepts });
  const stranger = '0198c0de-0000-7000-8000-000000000001';
  expect(await begin('to_v2', 'a', [stranger])).toEqual({
    begun: [],
    refused: [{ triggerId: stranger, code: 'not_found' }],
  });
  expect((await begin('to_legacy', 'a')).refused).toEqual([{ triggerId: test.id, code: 'already_there' }]);
  // The codec of mail is by time, and items of `unique` have none.
  expect((await begin('to_v2', 'a')).refused).toEqual([{ triggerId: test.id, code: 'no_codec' }]);
  const all = { accepts: () => true, triggerIds: [test.id] };
  expect((await test.legacy.handOffs.begin({ handOff: 'a', direction: 'to_v2', ...all })).begun).toHaveLength(1);
  expect((await test.legacy.handOffs.begin({ handOff: 'b', direction: 'to_v2', ...all })).refused).toEqual([
    { triggerId: test.id, code: 'moving' },
  ]);
  // Ten minutes after its workflow was lost another may take it over.
  await test.sql`update legacy_triggers set owner_since = owner_since - interval '11 min'`;
  expect((await test.legacy.handOffs.begin({ handOff: 'b', direction: 'to_v2', ...all })).begun).toHaveLength(1);
  await test.legacy.handOffs.cancel({ handOff: 'b', direction: 'to_v2', triggerIds: [test.id] });
  expect(await test.legacy.read(test.id)).toMatchObject({ next: 'poll' });
});

test('the engine must have read the trigger as it is, and knows a legacy one as not its own', async () => {
  await using test = await scene('legacy');
  expect(await test.engine.handOffs.owners()).toEqual({ legacy: 1, to_v2: 0, v2: 0, to_legacy: 0 });
  await test.registry.triggers.patch(test.actor, test.id, { intervalSeconds: 60 });
  const mark = async () => test.engine.handOffs.mark({ handOff: 'a', direction: 'to_v2', keys: [await test.key()] });
  expect(await mark()).toEqual({ marked: [], missing: [test.id] });
  await test.feed();
  expect(await mark()).toEqual({ marked: [test.id], missing: [] });
  await test.engine.handOffs.cancel({ handOff: 'a', direction: 'to_v2', triggerIds: [test.id] });
  expect(await test.engine.handOffs.owners()).toMatchObject({ legacy: 1, to_v2: 0 });
});

test.each([
  ['to_v2', 'legacy', { legacy: 0, v2: 1 }],
  ['to_legacy', 'v2', { legacy: 1, v2: 0 }],
] as const)(
  '%s: what a hand-off ended by hand has left half done, the next one finishes',
  async (direction, from, owners) => {
    await using test = await scene(from);
    const { conclude: _, ...rest } = stepsOf(test, direction);
    for (const step of Object.values(rest)) await step();
    await test.sql`update legacy_triggers set owner_since = owner_since - interval '11 min'`;
    await test.engine.sql`update hand_offs set marked_at = marked_at - interval '11 min'`;
    const next = { handOff: 'next', triggerIds: [test.id] };
    const { begun, refused } = await test.legacy.handOffs.begin({ ...next, direction, accepts: codecs.accepts });
    if (direction === 'to_legacy') {
      expect(refused).toEqual([{ triggerId: test.id, code: 'already_there' }]);
      await test.engine.handOffs.conclude(next);
    } else {
      expect((await test.engine.handOffs.mark({ ...next, direction, keys: begun })).missing).toEqual([]);
      const { carried } = await test.legacy.handOffs.seal({ ...next, longestCallSeconds: 0 });
      expect((await test.engine.handOffs.accept({ handOff: 'next', carried })).accepted).toEqual([test.id]);
      await test.legacy.handOffs.conclude({ ...next, actor: 'test' });
      const again = await test.legacy.handOffs.begin({ ...next, direction, accepts: codecs.accepts });
      expect(again.refused).toEqual([{ triggerId: test.id, code: 'already_there' }]);
    }
    expect(await test.engine.handOffs.owners()).toEqual({ to_v2: 0, to_legacy: 0, ...owners });
  },
);
