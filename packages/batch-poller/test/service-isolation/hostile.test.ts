/**
 * Answers nobody should give. What must hold: the worst item of the worst trigger costs that trigger alone; its neighbours
 * are polled, told and committed, and what it said in between is kept or refused by name.
 */
import { eventIdOf } from '@milkrun/core';
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

async function pair(options: SceneOptions = {}) {
  scene = await openScene(db, options);
  const [sick, well] = await scene.primed(2);
  if (sick === undefined || well === undefined) throw new Error('no triggers');
  scene.source.add(sick, 'new');
  scene.source.add(well, 'new');
  return { sick, well };
}

/** The sick trigger's poll answers `body` as it stands. */
const saying = (sick: string, body: string) => {
  scene.source.script = (call) => (call.trigger.id === sick ? { body } : undefined);
};

async function expectWell(well: string): Promise<void> {
  expect(scene.controlPlane.byTrigger.get(well)?.slice(-1)).toEqual(scene.idsOf(well, 'new'));
  expect(await scene.row(well)).toMatchObject({ code: 'ok', cursor: '1', leased: false });
  expect(await scene.leases()).toBe(0);
}

const deep = (levels: number) => '['.repeat(levels) + ']'.repeat(levels);

test.each([
  ['without a key', `{"data":${deep(20_000)}}`],
  ['with a key', `{"key":"deep","data":${deep(20_000)}}`],
  ['with a NUL beside it', `{"key":"deep","data":{"a":"\\u0000","b":${deep(20_000)}}}`],
  ['where the item should be', deep(20_000)],
])(
  'an item nested deeper than the stack, %s, is a dead letter, and the rest of the page is told',
  async (_how, item) => {
    const { sick, well } = await pair();
    saying(sick, `{"events":[{"key":"before","data":1},${item},{"key":"after","data":2}],"cursor":7}`);
    await scene.round();
    expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'before', 'after'));
    expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: '7', seen: 3 });
    expect(await scene.count(`dead_letters where code = 'poll.item_invalid'`)).toBe(1);
    await expectWell(well);
  },
);

test('bad items go to dead letters with their bytes, once, and the good ones between them are told', async () => {
  const { sick, well } = await pair();
  const items = [{ key: 'a', data: 1 }, 'text', null, { key: '', data: 1 }, { key: 'no-data' }, { key: 5, data: 1 }];
  const late = [
    { key: 'k'.repeat(513), data: 1 },
    { key: 'when', occurredAt: 'yesterday', data: 1 },
    { key: 'z', data: 2 },
  ];
  saying(sick, JSON.stringify({ events: [...items, ...late], cursor: 3 }));
  await scene.round();
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'a', 'z'));
  expect(await scene.count('dead_letters')).toBe(7);
  await scene.makeDue();
  await scene.round();
  expect(await scene.count('dead_letters')).toBe(7);
  expect(scene.controlPlane.byTrigger.get(sick)).toHaveLength(2);
  await expectWell(well);
});

test('NUL and lone surrogates in event data are replaced with a mark, and the event is told', async () => {
  const { sick, well } = await pair();
  saying(sick, '{"events":[{"key":"dirty","data":{"a\\u0000":"b\\ud800c","ok":"😀"}}],"cursor":1}');
  await scene.round();
  const sent = scene.controlPlane.stateCalls.flat().flatMap((result) => result.events);
  const event = sent.find((one) => one.triggerid === sick);
  expect(event).toMatchObject({ id: eventIdOf(sick, 'dirty'), cleaned: true });
  expect(event?.data).toEqual({ 'a\ufffd': 'b\ufffdc', ok: '😀' });
  await expectWell(well);
});

test('__proto__ in items, cursor and configuration stays data and reaches no prototype', async () => {
  const { sick, well } = await pair();
  await scene.change({ triggerId: sick, config: '{"__proto__":{"polluted":true}}' });
  saying(
    sick,
    '{"events":[{"key":"p","data":{"__proto__":{"polluted":true}},"__proto__":{"data":1}}],"cursor":{"__proto__":{"polluted":1}},"__proto__":{"more":true}}',
  );
  await scene.round();
  expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'p'));
  expect(scene.source.calls.filter((call) => call.trigger.id === sick)).toHaveLength(1);
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', leased: false });
  await expectWell(well);
});

test('an event too large for any chunk is a dead letter, and one that just fits is told', async () => {
  const { sick, well } = await pair();
  const items = [
    { key: 'fits', data: 'x'.repeat(900_000) },
    { key: 'small', data: 1 },
  ];
  saying(sick, JSON.stringify({ events: items, cursor: 1 }));
  await scene.round();
  expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'fits', 'small'));
  saying(sick, JSON.stringify({ events: [{ key: 'huge', data: 'x'.repeat(1_000_000) }], cursor: 2 }));
  await scene.makeDue();
  await scene.round();
  expect(await scene.count(`dead_letters where code = 'poll.item_too_large'`)).toBe(1);
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: '2' });
  await expectWell(well);
});

test.each(['1e400', '-1e400', '123456789012345678901234567890', '0.1000000000000000055511151231257827'])(
  'a cursor of %s is kept digit by digit, and the next poll gets it back',
  async (number) => {
    const { sick, well } = await pair();
    saying(sick, `{"events":[{"key":"n","data":${number}}],"cursor":{"at":${number}}}`);
    await scene.round();
    const [state] =
      await db.sql`select cursor->>'at' = ${number}::numeric::text as same from polling_trigger_states where trigger_id = ${sick}`;
    expect(state?.same).toBe(true);
    await expectWell(well);
  },
);

test('a cursor PostgreSQL cannot hold quarantines its row, and the other rows of the statement commit', async () => {
  const { sick, well } = await pair();
  saying(sick, '{"events":[],"cursor":{"at":1e200000}}');
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({
    code: 'poll.response_invalid',
    poisons: 1,
    cursor: '0',
    leased: false,
  });
  await expectWell(well);
});

test('a cursor that becomes null is null for the next poll, here and in the state the control plane keeps', async () => {
  const { sick, well } = await pair();
  saying(sick, '{"events":[{"key":"wrap","data":1}],"cursor":null}');
  await scene.round();
  expect(await scene.row(sick)).toMatchObject({ code: 'ok', cursor: null });
  const kept = JSON.parse(Buffer.from(scene.controlPlane.pollStates.get(sick) ?? '', 'base64').toString());
  expect(kept.cursor).toBeNull();
  scene.source.script = undefined;
  await scene.makeDue();
  await scene.round();
  expect(scene.source.calls.filter((call) => call.trigger.id === sick).at(-1)?.cursor).toBeNull();
  await expectWell(well);
});

test('shuffled, foreign and invented connections in an answer never give a poll another one\u2019s credentials', async () => {
  scene = await openScene(db);
  const triggers: string[] = [];
  for (let n = 0; n < 6; n += 1) triggers.push(await scene.trigger({ connectionId: `c${n}`, tenantId: `t${n % 2}` }));
  scene.controlPlane.conn = (asks) => {
    const honest = asks.map((ask) => scene.controlPlane.active(ask)).reverse();
    const foreign = asks.slice(0, 1).map((ask) => scene.controlPlane.active({ ...ask, tenantId: 't-evil' }));
    const invented = [{ connectionId: 'c9', tenantId: 't0', status: 'active', auth: { stolen: true } }, null, 7, 'x'];
    return { body: { connections: [...invented, ...honest, ...foreign] } };
  };
  await scene.round();
  const wanted = new Map(triggers.map((id, n) => [id, { tenantId: `t${n % 2}`, connectionId: `c${n}` }]));
  for (const call of scene.source.calls) expect(call.auth).toEqual(wanted.get(call.trigger.id));
  expect(scene.source.calls.length).toBeGreaterThanOrEqual(5);
  expect(await scene.leases()).toBe(0);
});

test('two tenants with the same connection id each poll with their own credentials', async () => {
  scene = await openScene(db);
  const a = await scene.trigger({ tenantId: 't-a', connectionId: 'same' });
  const b = await scene.trigger({ tenantId: 't-b', connectionId: 'same' });
  await scene.round();
  const used = new Map(
    scene.source.calls.map((call) => [call.trigger.id, (call.auth as { tenantId: string }).tenantId]),
  );
  expect([used.get(a), used.get(b)]).toEqual(['t-a', 't-b']);
});

test('a /conn/batch that is too large is halved until it fits, and every connection is answered once', async () => {
  scene = await openScene(db);
  for (let n = 0; n < 40; n += 1) await scene.trigger({ connectionId: `c${n}` });
  scene.controlPlane.conn = (asks) =>
    asks.length > 5 ? { status: 413, body: 'FUNCTION_PAYLOAD_TOO_LARGE' } : undefined;
  await scene.round();
  expect(scene.source.calls).toHaveLength(40);
  const answered = scene.controlPlane.connCalls
    .filter((asks) => asks.length <= 5)
    .flat()
    .map((ask) => ask.connectionId);
  expect(new Set(answered).size).toBe(40);
  expect(answered).toHaveLength(40);
});

test('a refusal that names a stranger’s event costs no event of ours', async () => {
  const { sick, well } = await pair();
  scene.source.add(sick, 'more');
  scene.controlPlane.state = (results) =>
    results.some((result) => result.triggerId === sick)
      ? { body: { results: [{ triggerId: sick, status: 'rejected', eventId: 'evt_of_somebody_else' }], lifecycle: [] } }
      : undefined;
  const input = await scene.plan();
  await scene.hop(input);
  expect(await scene.row(sick)).toMatchObject({ cursor: '0', leased: true });
  scene.controlPlane.state = undefined;
  await scene.settled(input);
  expect(scene.controlPlane.byTrigger.get(sick)?.slice(-2)).toEqual(scene.idsOf(sick, 'new', 'more'));
  expect(await scene.count('dead_letters')).toBe(0);
  await expectWell(well);
});

test('one answer with a double, a missing and a stranger\u2019s id parks only those it leaves open', async () => {
  scene = await openScene(db, { limits: { broadcastLanes: 1 } });
  const [a, b, c] = (await scene.primed(3)) as [string, string, string];
  for (const id of [a, b, c]) scene.source.add(id, 'new');
  const input = await scene.plan();
  scene.controlPlane.state = (results) => {
    scene.controlPlane.accept(results.filter((result) => result.triggerId === a));
    const accepted = (triggerId: string) => ({ triggerId, status: 'accepted' });
    return {
      body: {
        results: [accepted(b), accepted('11111111-1111-4111-8111-111111111111'), accepted(a), accepted(b)],
        lifecycle: [],
      },
    };
  };
  await scene.hop(input);
  expect(await scene.row(a)).toMatchObject({ cursor: '1', leased: false });
  expect(await scene.row(b)).toMatchObject({ cursor: '0', leased: true });
  expect(await scene.row(c)).toMatchObject({ cursor: '0', leased: true });
  scene.controlPlane.state = undefined;
  await scene.settled(input);
  expect(scene.controlPlane.byTrigger.get(a)).toEqual(scene.idsOf(a, 'new'));
  for (const id of [b, c]) expect(await scene.row(id)).toMatchObject({ cursor: '1', leased: false });
});
