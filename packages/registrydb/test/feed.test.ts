/** The change feed: gapless, compacted, and losing no instruction. */
import { decodePollState, keyHashOf } from '@milkrun/core';
import { expect, it } from 'vitest';
import { incoming, openTestRegistry } from './registry.ts';

it('shows every change in order of commit while many write: no reader misses one', async () => {
  await using test = await openTestRegistry();
  const seen = new Set<unknown>();
  let cursor = (await test.feed()).next;
  let writing = true;
  const reader = (async () => {
    for (let last = false; !last; ) {
      last = !writing;
      const page = await test.feed(cursor);
      for (const { triggerId } of page.changes) seen.add(triggerId);
      cursor = page.next;
    }
  })();
  const writers = Array.from({ length: 10 }, async () => {
    const ids: string[] = [];
    for (let n = 0; n < 15; n += 1) ids.push((await test.create()).id);
    return ids;
  });
  const made = (await Promise.all(writers)).flat();
  writing = false;
  await reader;
  expect(made.filter((id) => !seen.has(id))).toEqual([]);
  expect(made).toHaveLength(150);
});

it('keeps one record a trigger, with its newest definition', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  await test.registry.triggers.patch(test.actor, id, { name: 'a' });
  await test.registry.triggers.patch(test.actor, id, { intervalSeconds: 60 });
  const { changes } = await test.feed();
  expect(changes).toMatchObject([
    {
      op: 'upsert',
      triggerId: id,
      tenantId: 't1',
      configVersion: 3,
      intervalSeconds: 60,
      config: { package: 'zod' },
      primed: false,
    },
  ]);
});

it('does not lose a rewind that is followed by an edit before anybody read it', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  const { next } = await test.feed();
  await test.registry.triggers.rewind(test.actor, id, { cursor: '{"page":12345678901234567890}' });
  await test.registry.triggers.patch(test.actor, id, { name: 'b' });
  const page = await test.registry.feed.read(next, 10);
  expect(page !== 'expired' && page.changes[0]).toContain('"cursor":{"page":12345678901234567890}');
  const { changes } = await test.feed(next);
  expect(changes.map(({ configVersion }) => configVersion)).toEqual([2, 3]);
  expect(changes[1]).not.toHaveProperty('cursor');
});

it('a reading from the beginning leaves out instructions that were carried out and gives the state back', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  await test.registry.triggers.rewind(test.actor, id, { cursor: '1' });
  expect((await test.feed()).changes).toMatchObject([{ cursor: 1 }]);
  await test.registry.storeState({ triggers: [{ triggerId: id, pollState: 'remembered' }], events: [], lifecycle: [] });
  const [record] = (await test.feed()).changes;
  expect(record).toMatchObject({ primed: true, pollState: 'remembered', configVersion: 2 });
  expect(record).not.toHaveProperty('cursor');
});

it('a poll that was in flight at a rewind does not carry it out, however late it reports', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  const reported = (configVersion: number) =>
    test.registry.storeState({
      triggers: [{ triggerId: id, pollState: `of ${configVersion}`, configVersion }],
      events: [],
      lifecycle: [],
    });
  await test.registry.triggers.rewind(test.actor, id, { cursor: '1' });
  await reported(1);
  expect((await test.feed()).changes).toMatchObject([{ configVersion: 2, cursor: 1 }]);
  await reported(2);
  await reported(1);
  const { changes } = await test.feed();
  expect(changes).toMatchObject([{ configVersion: 2, pollState: 'of 2' }]);
  expect(changes[0]).not.toHaveProperty('cursor');
});

it('a reading from the beginning shows a rewind that nobody has carried out, also behind a later edit', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  await test.registry.triggers.rewind(test.actor, id, { cursor: '1' });
  await test.registry.triggers.patch(test.actor, id, { name: 'b' });
  expect((await test.feed()).changes).toMatchObject([{ configVersion: 2, cursor: 1 }, { configVersion: 3 }]);
  const state = { triggerId: id, pollState: 'of 3', configVersion: 3 };
  await test.registry.storeState({ triggers: [state], events: [], lifecycle: [] });
  expect((await test.feed()).changes).toMatchObject([{ configVersion: 3, pollState: 'of 3' }]);
});

it('priming makes no new record: what was read is never read again for it', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  const { next } = await test.feed();
  await test.registry.storeState({ triggers: [{ triggerId: id, pollState: null }], events: [], lifecycle: [] });
  expect((await test.feed(next)).changes).toEqual([]);
  expect((await test.feed()).changes).toMatchObject([{ primed: true, configVersion: 1 }]);
});

it('an imported state comes with its trigger, whenever that is read, until a poll reports another', async () => {
  await using test = await openTestRegistry();
  const { next } = await test.feed();
  const state = { cursor: '{"page":3}', seenKeys: ['a', 'b'] };
  const { id } = await test.create({ deduplicationKey: 'old-1', state });
  const seen = Buffer.concat([keyHashOf('a'), keyHashOf('b')]).toString('base64');
  const imported = { cursor: '{"page":3}', seen, version: null };
  const read = async (after: string | null) => {
    const change = (await test.feed(after)).changes.at(-1) as { primed: boolean; pollState?: string };
    return [change.primed, decodePollState(change.pollState)];
  };
  expect([await read(next), await read(null)]).toEqual([
    [true, imported],
    [true, imported],
  ]);
  // An edit before the engine has read it must not lose it, and neither must the same import once more.
  await test.registry.triggers.patch(test.actor, id, { name: 'renamed' });
  await test.create({ deduplicationKey: 'old-1', name: 'renamed', state: { cursor: '9', seenKeys: [] } });
  expect(await read(next)).toEqual([true, imported]);
  const reported = { triggerId: id, pollState: 'of a poll', configVersion: 1 };
  await test.registry.storeState({ triggers: [reported], events: [], lifecycle: [] });
  const { changes } = await test.feed(next);
  expect(changes.at(-1)).not.toHaveProperty('pollState');
  await test.registry.triggers.rewind(test.actor, id, { cursor: '1' });
  expect((await test.feed()).changes.at(-1)).toMatchObject({ cursor: 1, primed: true });
});

it('an import whose cursor and keys do not fit together is refused, with its place', async () => {
  await using test = await openTestRegistry();
  const seenKeys = Array.from({ length: 5_000 }, (_, n) => `key-${n}`);
  const inputs = [{}, { state: { cursor: JSON.stringify('c'.repeat(16_000)), seenKeys } }];
  await expect(
    test.registry.triggers.upsertMany(
      test.actor,
      inputs.map((more) => test.inputOf(more)),
    ),
  ).resolves.toHaveLength(2);
  const huge = { cursor: JSON.stringify('c'.repeat(40_000)), seenKeys };
  await expect(
    test.registry.triggers.upsertMany(test.actor, [test.inputOf(), test.inputOf({ state: huge })]),
  ).rejects.toMatchObject({ kind: 'invalid', field: 'triggers[1].state' });
});

it('a rewind drops what the engine remembered, a rewind to an instant primes again', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  const remember = () =>
    test.registry.storeState({ triggers: [{ triggerId: id, pollState: 'x' }], events: [], lifecycle: [] });
  await remember();
  await test.registry.triggers.rewind(test.actor, id, { cursor: '"c"' });
  expect((await test.feed()).changes[0]).toMatchObject({ primed: true, cursor: 'c', resume: 'cursor' });
  expect((await test.feed()).changes[0]).not.toHaveProperty('pollState');
  await remember();
  await test.registry.triggers.rewind(test.actor, id, { since: '2026-01-01T00:00:00.000Z' });
  const since = '2026-01-01T00:00:00.000Z';
  expect((await test.feed()).changes.at(-1)).toMatchObject({ primed: false, cursor: null, since, resume: 'now' });
});

it('tombstones stay for a reader and expire with it', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  const { next } = await test.feed();
  await test.registry.triggers.remove(test.actor, id);
  expect((await test.feed(next)).changes).toEqual([{ op: 'delete', triggerId: id, configVersion: 2 }]);
  await test.registry.purge();
  expect((await test.feed(next)).changes).toHaveLength(1);
  await test.sql`update trigger_changes set changed_at = changed_at - interval '31 days'`;
  const atEnd = (await test.feed(next)).next;
  expect(await test.registry.purge()).toMatchObject({ changes: 1 });
  expect(await test.registry.feed.read(next, 10)).toBe('expired');
  expect(await test.registry.feed.read(atEnd, 10)).toMatchObject({ changes: [], next: atEnd });
  expect(await test.registry.feed.read(null, 10)).toMatchObject({ changes: [], more: false });
});

it.each(['', 'x', '0.0.0', "'; drop table triggers; --", '9'.repeat(400)])(
  'a cursor nobody gave out has expired: %s',
  async (cursor) => {
    await using test = await openTestRegistry();
    expect(await test.registry.feed.read(cursor, 10)).toBe('expired');
  },
);

it('cuts a page by bytes and still reaches the end', async () => {
  await using test = await openTestRegistry();
  const config = JSON.stringify({ text: 'x'.repeat(60_000) });
  for (let n = 0; n < 80; n += 1) await test.create({ config });
  const page = await test.registry.feed.read(null, 1000);
  expect(page !== 'expired' && page.changes.length).toBeLessThan(80);
  expect((await test.feed()).changes).toHaveLength(80);
});

it('a waiting reader wakes at the first change', async () => {
  await using test = await openTestRegistry();
  const heard = test.registry.feed.heard();
  const waited = test.registry.feed.wait(heard, 20_000, new AbortController().signal);
  await test.registry.triggers.upsert(test.actor, test.inputOf());
  await waited;
  // It ends by itself after 20 s too: what it heard says that it was woken.
  expect(test.registry.feed.heard()).toBeGreaterThan(heard);
  expect((await test.feed()).changes).toHaveLength(1);
});

it('a new credential sends resume to all triggers of its connection', async () => {
  await using test = await openTestRegistry();
  const ids = [(await test.create()).id, (await test.create()).id];
  const { next } = await test.feed();
  await test.registry.connections.patch(test.actor, test.connection.id, { status: 'revoked' });
  expect((await test.feed(next)).changes).toEqual([]);
  await test.registry.connections.patch(test.actor, test.connection.id, {
    credentials: { type: 'bearer', token: 'new' },
  });
  const { changes } = await test.feed(next);
  expect(changes.map(({ triggerId, resume }) => [triggerId, resume]).sort()).toEqual(
    ids.map((id) => [id, 'cursor']).sort(),
  );
});

it('events of a gone trigger are not stored, and it is told', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  await test.registry.triggers.remove(test.actor, id);
  const result = await test.registry.storeState({
    triggers: [{ triggerId: id, pollState: null }],
    events: [incoming(id, 'a')],
    lifecycle: [],
  });
  expect([...result.known]).toEqual([]);
  expect(result.stored).toBe(0);
});
