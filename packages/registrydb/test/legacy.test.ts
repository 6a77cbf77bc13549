/** The legacy pipeline's tables: who may commit, what a user's instructions do, and who is started again. */
import { type CommitRow, keyHashOf, type LegacyDue, storageShardOf, systemClock, systemRng } from '@milkrun/core';
import { openLegacyStore, openRegistry, type TriggerInput } from '@milkrun/registrydb';
import { expect, it } from 'vitest';
import { openTestRegistry } from './registry.ts';

async function scene() {
  const test = await openTestRegistry();
  const options = { url: test.url, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng };
  const legacy = await openRegistry({ ...options, pipeline: 'legacy' });
  const store = await openLegacyStore({ url: test.url, migrate: false });
  return {
    ...test,
    store,
    create: async (more: Partial<TriggerInput> = {}) => {
      const { trigger } = await legacy.triggers.upsert(test.actor, test.inputOf(more));
      return trigger.id;
    },
    async due(id: string): Promise<LegacyDue> {
      const read = await store.read(id);
      if (read.next !== 'poll') throw new Error(`not due: ${JSON.stringify(read)}`);
      return read;
    },
    set: (id: string, assignment: string) =>
      test.sql.unsafe(`update legacy_triggers set ${assignment} where trigger_id = '${id}'`),
    async [Symbol.asyncDispose]() {
      await store.close();
      await legacy.close();
      await test[Symbol.asyncDispose]();
    },
  };
}

const rowOf = (due: LegacyDue, more: Partial<CommitRow> = {}): CommitRow => ({
  shard: storageShardOf(due.trigger.triggerId),
  triggerId: due.trigger.triggerId,
  leaseEpoch: due.trigger.leaseEpoch,
  outcome: 'success',
  code: 'ok',
  polled: true,
  events: 0,
  ...more,
});

it('says in the feed which pipeline polls a trigger, and polls a new one at once', async () => {
  await using test = await scene();
  const id = await test.create();
  const other = (await test.registry.triggers.upsert(test.actor, test.inputOf())).trigger.id;
  const { changes } = await test.feed();
  expect(changes.map(({ triggerId, pipeline }) => [triggerId, pipeline])).toEqual([
    [id, 'legacy'],
    [other, undefined],
  ]);
  expect(await test.due(id)).toMatchObject({ ownershipEpoch: 0, trigger: { leaseEpoch: 1, primed: false } });
  expect(await test.store.read(other)).toEqual({ next: 'stop', reason: 'gone' });
});

it('commits what is remembered, and the next poll lies an interval ahead', async () => {
  await using test = await scene();
  const id = await test.create({ intervalSeconds: 300 });
  const due = await test.due(id);
  const seen = new Uint8Array(Buffer.from('0123456789abcdef', 'hex'));
  const row = rowOf(due, { cursor: '{"page":12345678901234567890}', seen, primed: true, versionUsed: '2' });
  expect(await test.store.commit({ triggerId: id, ownershipEpoch: 0, row })).toEqual({ committed: true });
  const read = await test.store.read(id);
  expect(read).toMatchObject({ next: 'wait' });
  expect(read.next === 'wait' && read.waitMs > 290_000 && read.waitMs <= 300_000).toBe(true);
  await test.set(id, 'next_poll_at = statement_timestamp()');
  expect(await test.due(id)).toMatchObject({
    trigger: { leaseEpoch: 2, primed: true, versionUsed: '2' },
    state: { cursor: '{"page":12345678901234567890}', seen: Buffer.from(seen) },
  });
});

it.each([
  ['another attempt has committed', 'poll_epoch = poll_epoch + 1', false],
  ['it belongs to v2', "owner = 'v2'", false],
  ['it was away and has come back', 'ownership_epoch = ownership_epoch + 2', false],
  ['what it remembers is on its way to v2', "owner = 'to_v2', hand_off = 'h', sealed = true", false],
  ['it was only marked: the poll that ran may end', "owner = 'to_v2', hand_off = 'h'", true],
])('a commit when %s', async (_, assignment, committed) => {
  await using test = await scene();
  const id = await test.create();
  const due = await test.due(id);
  await test.set(id, assignment);
  expect(await test.store.commit({ triggerId: id, ownershipEpoch: due.ownershipEpoch, row: rowOf(due) })).toEqual({
    committed,
  });
  expect(await test.store.owns(id, 0)).toBe(assignment.startsWith('poll_epoch'));
});

it('an imported trigger is polled from its cursor and its keys, and does not prime', async () => {
  await using test = await scene();
  const id = await test.create({ state: { cursor: '{"page":3}', seenKeys: ['a'] } });
  expect(await test.due(id)).toMatchObject({
    trigger: { primed: true },
    state: { cursor: '{"page":3}', seen: keyHashOf('a') },
  });
});

it('says who polls a trigger, while it moves too, and lists its moves', async () => {
  await using test = await scene();
  const id = await test.create();
  const other = await test.registry.triggers.upsert(test.actor, test.inputOf());
  const at = expect.any(String);
  const pipeline = async () => (await test.registry.triggers.get('t1', id)).pipeline;
  expect(other.trigger.pipeline).toEqual({ name: 'v2', movingTo: null, migration: null, since: null });
  expect(await pipeline()).toEqual({ name: 'legacy', movingTo: null, migration: null, since: at });
  await test.set(id, "owner = 'to_v2', hand_off = 'hand-off:0190:3', sealed = true, ownership_epoch = 1");
  expect(await pipeline()).toEqual({ name: 'legacy', movingTo: 'v2', migration: 'migration:0190', since: at });
  await test.store.handOffs.conclude({ handOff: 'hand-off:0190:3', actor: 'somebody', triggerIds: [id] });
  expect(await pipeline()).toEqual({ name: 'v2', movingTo: null, migration: null, since: at });
  expect(await test.registry.triggers.moves('t1', id)).toEqual([
    { at, to: 'v2', by: 'somebody', migration: 'migration:0190' },
  ]);
  expect(await test.registry.triggers.moves('t2', id)).toEqual([]);
});

it('a rewind, a resume and a poll-now are carried out once, at the next look', async () => {
  await using test = await scene();
  const id = await test.create();
  const first = await test.due(id);
  const halt = rowOf(first, { outcome: 'halt', code: 'poll.permanent', haltCode: 'poll.permanent', polled: false });
  await test.store.commit({ triggerId: id, ownershipEpoch: 0, row: halt });
  expect(await test.store.read(id)).toEqual({ next: 'stop', reason: 'halted' });
  const view = await test.registry.triggers.get('t1', id);
  expect(view.status).toMatchObject({ state: 'halted', code: 'poll.permanent', by: 'engine' });
  await test.registry.triggers.rewind(test.actor, id, { cursor: '{"at":1}' });
  const rewound = await test.due(id);
  expect(rewound).toMatchObject({ trigger: { primed: true }, state: { cursor: '{"at":1}' } });
  await test.store.commit({ triggerId: id, ownershipEpoch: 0, row: rowOf(rewound, { cursor: '{"at":2}' }) });
  expect(await test.store.read(id)).toMatchObject({ next: 'wait' });
  await test.registry.triggers.pollNow(test.actor, id);
  expect(await test.due(id)).toMatchObject({ state: { cursor: '{"at":2}' } });
  await test.registry.triggers.rewind(test.actor, id, { since: '2026-01-01T00:00:00Z' });
  expect(await test.due(id)).toMatchObject({
    trigger: { primed: false, createdAt: '2026-01-01T00:00:00.000Z' },
    state: { cursor: null },
  });
});

it('a rewind during a hand-off is refused: what is carried over must not change under it', async () => {
  await using test = await scene();
  const id = await test.create();
  await test.set(id, "owner = 'to_v2', hand_off = 'h'");
  await expect(test.registry.triggers.rewind(test.actor, id, { cursor: '1' })).rejects.toThrow(
    'moving between pipelines',
  );
});

it('starts new workflows, wakes those of changed triggers, restarts overdue ones, and leaves others alone', async () => {
  await using test = await scene();
  const [fresh, asleep, changed, overdue, off] = await Promise.all([0, 1, 2, 3, 4].map(() => test.create()));
  const ids = [asleep, changed, overdue, off] as string[];
  await Promise.all(
    ids.map((id) =>
      test.set(id, "nudged_at = now() - interval '1 min', applied_version = 1, next_poll_at = now() + interval '1 h'"),
    ),
  );
  await test.registry.triggers.patch(test.actor, changed as string, { intervalSeconds: 60 });
  await test.set(overdue as string, "next_poll_at = now() - interval '1 min'");
  await test.registry.triggers.disable(test.actor, off as string);
  expect([...(await test.store.nudge(10))].sort()).toEqual([fresh, changed, overdue].sort());
  expect(await test.store.nudge(10)).toEqual([]);
  expect(await test.store.read(off as string)).toEqual({ next: 'stop', reason: 'disabled' });
});
