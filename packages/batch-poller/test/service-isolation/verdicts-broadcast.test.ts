/**
 * The rows of design section 5's verdict table that come from `/state`, end to end. A healthy trigger stands beside the sick
 * one and must not notice.
 */
import type { Scripted } from '@milkrun/testkit';
import type { WorkerDb } from '@milkrun/workerdb';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openDatabase, openScene, type Scene, type SceneOptions } from './scene.ts';

let db: WorkerDb;
let scene: Scene;
beforeAll(async () => {
  db = await openDatabase();
});
afterAll(() => db?.close());
afterEach(() => scene?.close());

/** One trigger that goes wrong and one that does not, both primed and due, each with a new item. */
async function pair(options: SceneOptions = {}) {
  scene = await openScene(db, options);
  const [sick] = await scene.primed(1, { connectionId: 'sick', toolkit: 'sick-kit', tenantId: 'tenant-s' });
  const [well] = await scene.primed(1, { connectionId: 'well' });
  if (sick === undefined || well === undefined) throw new Error('no triggers');
  scene.source.add(sick, 'new');
  scene.source.add(well, 'new');
  return { sick, well };
}

async function expectWell(well: string): Promise<void> {
  expect(scene.controlPlane.byTrigger.get(well)).toEqual(scene.idsOf(well, 'new'));
  expect(await scene.row(well)).toMatchObject({ code: 'ok', cursor: '1', leased: false, failures: 0, poisons: 0 });
  expect(await scene.leases()).toBe(0);
}

const onlySick = (sick: string, scripted: (results: Parameters<Scene['controlPlane']['accept']>[0]) => Scripted) => {
  scene.controlPlane.state = (results) =>
    results.some((result) => result.triggerId === sick) ? scripted(results) : undefined;
};

test('broadcast.gone (410 for the trigger alone) halts it as receiver_gone', async () => {
  const { sick, well } = await pair();
  onlySick(sick, () => ({ status: 410 }));
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({
    code: 'broadcast.gone',
    halt: 'receiver_gone',
    dueIn: null,
    cursor: '0',
  });
  expect(await scene.count(`lifecycle_outbox where code = 'receiver_gone'`)).toBe(1);
  await expectWell(well);
});

test('broadcast.gone by status concerns that trigger and nobody beside it', async () => {
  const { sick, well } = await pair({ limits: { broadcastLanes: 1 } });
  onlySick(sick, (results) => {
    scene.controlPlane.accept(results.filter((result) => result.triggerId !== sick));
    return {
      body: {
        results: results.map(({ triggerId }) => ({ triggerId, status: triggerId === sick ? 'gone' : 'accepted' })),
        lifecycle: [],
      },
    };
  });
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({ halt: 'receiver_gone' });
  await expectWell(well);
});

test('with the brake on a 410 halts nobody: parked, and released in the end', async () => {
  const { sick, well } = await pair();
  await db.sql`update fleet set braked = true`;
  onlySick(sick, () => ({ status: 410 }));
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({ halt: null, cursor: '0', leased: false });
  await expectWell(well);
});

test('above fifty 410s an hour commit parks instead of halting, and the brake is on', async () => {
  scene = await openScene(db);
  const triggers = await scene.primed(60);
  for (const id of triggers) scene.source.add(id, 'new');
  scene.controlPlane.state = () => ({ status: 410 });
  await scene.round();
  const halted = await scene.count('polling_trigger_runs where halted_code = 3');
  expect(halted).toBe(50);
  expect(await scene.count('fleet where braked')).toBe(1);
  expect(await scene.leases()).toBe(0);
});

test('broadcast.event_refused: the bad event lies in dead letters and the cursor moves on', async () => {
  const { sick, well } = await pair();
  scene.source.add(sick, 'bad', 'last');
  const [bad] = scene.idsOf(sick, 'bad');
  onlySick(sick, (results) => {
    const holds = results.some((result) => result.events.some((event) => event.id === bad));
    return holds
      ? {
          body: {
            results: results.map(({ triggerId }) =>
              triggerId === sick
                ? { triggerId, status: 'rejected', eventId: bad, reason: 'ugly' }
                : { triggerId, status: 'accepted' },
            ),
            lifecycle: [],
          },
        }
      : scene.controlPlane.accept(results);
  });
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: '3', seen: 3, failures: 0 });
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'new', 'last'));
  const [letter] = await db.sql`select event_id, code, reason, convert_from(raw, 'UTF8') as raw from dead_letters`;
  expect(letter).toMatchObject({ event_id: bad, code: 'broadcast.event_refused', reason: 'ugly' });
  expect(JSON.parse(letter?.raw)).toMatchObject({ id: bad, data: { key: 'bad' } });
  expect(scene.controlPlane.accepted.get(scene.idsOf(well, 'new')[0] as string)).toBe(1);
});

test('two events refused at once both lie in dead letters, and the rest goes on', async () => {
  const { sick } = await pair();
  scene.source.add(sick, 'bad-1', 'bad-2', 'last');
  const bad = scene.idsOf(sick, 'bad-1', 'bad-2');
  onlySick(sick, (results) => {
    const refused = results.flatMap((result) => result.events.filter((event) => bad.includes(event.id)));
    if (refused.length === 0) return scene.controlPlane.accept(results);
    return {
      body: {
        results: refused.map((event) => ({ triggerId: sick, status: 'rejected', eventId: event.id })),
        lifecycle: [],
      },
    };
  });
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: '4' });
  expect(await scene.count('dead_letters')).toBe(2);
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'new', 'last'));
});

test.each([413, 400, 422])('%i halves down to the one event nobody takes', async (status) => {
  const { sick, well } = await pair();
  scene.source.add(sick, 'a', 'b', 'bad', 'c');
  const [bad] = scene.idsOf(sick, 'bad');
  scene.controlPlane.state = (results) =>
    results.some((result) => result.events.some((event) => event.id === bad)) ? { status, body: 'no' } : undefined;
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: '5' });
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'new', 'a', 'b', 'c'));
  expect(await scene.count('dead_letters')).toBe(1);
  await expectWell(well);
});

test.each([401, 403, 404])(
  '%i is broadcast.misconfigured: parked, nothing halted, nothing charged, nothing lost',
  async (status) => {
    const { sick, well } = await pair();
    scene.controlPlane.state = () => ({ status, body: 'no' });
    await scene.round();
    for (const id of [sick, well]) {
      expect(await scene.row(id)).toMatchObject({ halt: null, failures: 0, poisons: 0, cursor: '0', leased: false });
    }
    expect(scene.controlPlane.stateCalls.length).toBeLessThanOrEqual(8);
    scene.controlPlane.state = undefined;
    await scene.makeDue();
    await scene.round();
    expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'new'));
  },
);

test.each([
  ['429', { status: 429, headers: { 'retry-after': '1' }, body: '' }],
  ['500', { status: 500, body: 'no' }],
  ['a reset', 'reset'],
  ['an empty 200', { body: '' }],
  ['a 200 that names nobody', { body: { results: [], lifecycle: [] } }],
  ['a 200 of a wrong type', { body: { results: 'all good' } }],
] as const)('%s parks: the next hop delivers without polling again', async (_how, scripted) => {
  const { sick, well } = await pair();
  onlySick(sick, () => scripted);
  const input = await scene.plan();
  expect(await scene.hop(input)).toMatchObject({ left: expect.any(Number) });
  expect(await scene.row(sick)).toMatchObject({ leased: true, cursor: '0' });
  const polls = scene.source.calls.length;
  scene.controlPlane.state = undefined;
  await scene.settled(input);
  expect(scene.source.calls).toHaveLength(polls);
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: '1', leased: false });
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'new'));
  await expectWell(well);
});
