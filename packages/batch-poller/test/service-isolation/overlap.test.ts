/**
 * Two attempts of one step that overlap: a worker that was thought dead goes on and saves late. What must hold in every
 * order: a late result is never paired with an older delivery, the row commits what was told, and nothing is lost.
 */
import type { Scripted } from '@milkrun/testkit';
import type { WorkerDb } from '@milkrun/workerdb';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openDatabase, openScene, type Scene } from './scene.ts';

let db: WorkerDb;
let scene: Scene;
beforeAll(async () => {
  db = await openDatabase();
});
afterAll(() => db?.close());
afterEach(() => scene?.close());

/** The first attempt's poll hangs until `late` is called with what it finds in the end; the second finds `a`. */
async function hanging() {
  scene = await openScene(db, { limits: { pollDeadlineMs: 20_000 } });
  const [id] = (await scene.primed(1)) as [string];
  const input = await scene.plan();
  for (const step of ['claim', 'auth'] as const) await scene.run(step, input);
  const gate = Promise.withResolvers<Scripted>();
  const hung = Promise.withResolvers<void>();
  scene.source.script = () => {
    scene.source.script = () => ({ body: { events: [{ key: 'a', data: 1 }], cursor: 1 } });
    hung.resolve();
    return gate.promise;
  };
  const first = scene.run('poll', input, { attempt: 1 });
  await hung.promise;
  return {
    id,
    input,
    /** The first attempt ends, having found `a` and `b` one after the other, or what it is given. */
    async late(body: object = { events: ['a', 'b'].map((key) => ({ key, data: 1 })), cursor: 2 }) {
      gate.resolve({ body });
      return await first;
    },
  };
}

const told = (id: string) => scene.controlPlane.byTrigger.get(id) ?? [];

/** Whatever was committed, the next polls bring the rest, each id once or more and never another. */
async function expectWhole(id: string): Promise<void> {
  scene.source.script = (call) => {
    const items = ['a', 'b', 'c'].slice(Number(call.cursor ?? 0));
    return { body: { events: items.map((key) => ({ key, data: 1 })), cursor: 3 } };
  };
  await scene.makeDue();
  await scene.round();
  expect(new Set(told(id))).toEqual(new Set(scene.idsOf(id, 'a', 'b', 'c')));
  expect(await scene.row(id)).toMatchObject({ cursor: '3', seen: 3, leased: false });
  expect(await scene.leases()).toBe(0);
}

test('late before broadcast: the earlier attempt is the result, and only it is told', async () => {
  const { id, input, late } = await hanging();
  await scene.run('poll', input, { attempt: 2 });
  await late();
  await scene.run('broadcast', input);
  await scene.run('commit', input);
  expect(told(id)).toEqual(scene.idsOf(id, 'a', 'b'));
  expect(await scene.row(id)).toMatchObject({ cursor: '2', seen: 2 });
  await expectWhole(id);
});

test('late between broadcast and commit: the row commits what was told, not what came late', async () => {
  const { id, input, late } = await hanging();
  await scene.run('poll', input, { attempt: 2 });
  await scene.run('broadcast', input);
  await late();
  await scene.run('commit', input);
  expect(told(id)).toEqual(scene.idsOf(id, 'a'));
  expect(await scene.row(id)).toMatchObject({ cursor: '1', seen: 1 });
  await expectWhole(id);
});

test('late between an empty poll\u2019s broadcast and its commit: what it found is told in the next hop', async () => {
  const { id, input, late } = await hanging();
  scene.source.script = () => ({ body: { events: [], cursor: 0 } });
  await scene.run('poll', input, { attempt: 2 });
  await scene.run('broadcast', input);
  await late();
  await scene.run('commit', input);
  await scene.settled(input);
  expect(told(id)).toEqual(scene.idsOf(id, 'a', 'b'));
  expect(await scene.row(id)).toMatchObject({ cursor: '2', seen: 2 });
  await expectWhole(id);
});

test('late between two attempts of a broadcast that was cut: the chain first told is gone on with', async () => {
  const { id, input, late } = await hanging();
  scene.source.script = (call) =>
    call.cursor === 0
      ? { body: { events: [{ key: 'a', data: 1 }], cursor: 1, more: true } }
      : { body: { events: [{ key: 'b', data: 1 }], cursor: 2 } };
  await scene.run('poll', input, { attempt: 2 });
  const [second] = scene.idsOf(id, 'b');
  scene.controlPlane.state = (results) => {
    if (results.some((result) => result.events.some((event) => event.id === second))) return { status: 422, body: '' };
    return undefined;
  };
  scene.writes.before = (what) => {
    // The refused event's record is never written.
    if (what.startsWith('put delivered') && scene.controlPlane.accepted.size === 1) throw new Error('cut');
  };
  await expect(scene.run('broadcast', input)).rejects.toThrow('cut');
  delete scene.writes.before;
  scene.controlPlane.state = undefined;
  await late({ events: [{ key: 'a', data: 1 }], cursor: 7 });
  await scene.run('broadcast', input, { attempt: 2 });
  await scene.run('commit', input);
  const row = await scene.row(id);
  expect(['2', '7']).toContain(row.cursor);
  if (row.cursor === '2') expect(new Set(told(id))).toEqual(new Set(scene.idsOf(id, 'a', 'b')));
  expect(row.leased).toBe(false);
});

test('late after the commit and the end of the batch changes nothing', async () => {
  const { id, input, late } = await hanging();
  await scene.run('poll', input, { attempt: 2 });
  await scene.run('broadcast', input);
  await scene.run('commit', input);
  await late().catch(() => undefined);
  expect(await scene.run('commit', input, { attempt: 2 })).toMatchObject({ status: 'ended' });
  expect(await scene.row(id)).toMatchObject({ cursor: '1', seen: 1 });
  await expectWhole(id);
});

test('a late failure does not undo a poll that was told', async () => {
  const { id, input, late } = await hanging();
  await scene.run('poll', input, { attempt: 2 });
  await scene.run('broadcast', input);
  await late({ error: { class: 'transient', message: 'no' } });
  await scene.run('commit', input);
  expect(told(id)).toEqual(scene.idsOf(id, 'a'));
  expect(await scene.row(id)).toMatchObject({ cursor: '1', failures: 0, code: 'ok' });
});

test('auth refused to two attempts of one hop counts once: the next hop tries with fresh credentials', async () => {
  const { id, input, late } = await hanging();
  const refused = { error: { class: 'auth', message: 'no' } };
  scene.source.script = () => ({ body: refused });
  await scene.run('poll', input, { attempt: 2 });
  await late(refused);
  await scene.run('broadcast', input);
  expect(await scene.run('commit', input)).toMatchObject({ left: 1 });
  expect(await scene.row(id)).toMatchObject({ halt: null, leased: true });
  scene.source.script = () => ({ body: { events: [{ key: 'a', data: 1 }], cursor: 1 } });
  await scene.settled(input);
  expect(await scene.row(id)).toMatchObject({ halt: null, code: 'ok', cursor: '1', failures: 0 });
});

test('two broadcasts at once tell the same ids, and the row commits them once', async () => {
  scene = await openScene(db, { limits: { chunkEventsMax: 1 } });
  const [id] = (await scene.primed(1)) as [string];
  scene.source.add(id, 'a', 'b', 'c');
  const input = await scene.plan();
  for (const step of ['claim', 'auth', 'poll'] as const) await scene.run(step, input);
  await Promise.all([scene.run('broadcast', input), scene.run('broadcast', input, { attempt: 2 })]);
  await Promise.all([scene.run('commit', input), scene.run('commit', input, { attempt: 2 })]);
  expect(new Set(told(id))).toEqual(new Set(scene.idsOf(id, 'a', 'b', 'c')));
  expect(await scene.row(id)).toMatchObject({ cursor: '3', seen: 3, leased: false });
});

test('two claims at once take each row once, under one epoch', async () => {
  scene = await openScene(db);
  const triggers = await scene.primed(20);
  const epochs = new Map<string, number>();
  for (const id of triggers) epochs.set(id, (await scene.row(id)).epoch);
  const input = await scene.plan();
  await Promise.all([scene.run('claim', input), scene.run('claim', input, { attempt: 2 })]);
  for (const id of triggers) expect((await scene.row(id)).epoch).toBe((epochs.get(id) as number) + 1);
  for (const step of ['auth', 'poll', 'broadcast', 'commit'] as const) await scene.run(step, input);
  expect(await scene.leases()).toBe(0);
});
