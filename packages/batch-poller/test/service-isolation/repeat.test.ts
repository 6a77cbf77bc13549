/**
 * Each step repeated at any point. The process dies before or after each durable write of a batch (the write was made, or
 * was not, and nobody heard), and the step runs again as its next attempt in another process. What must hold each time:
 * nothing lost, nothing told under another id, the same epoch, no lease left, the same rows in the end.
 */
import type { WorkerDb } from '@milkrun/workerdb';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Died, openDatabase, openScene, type Scene, STEPS, type StepName } from './scene.ts';

let db: WorkerDb;
let scene: Scene;
beforeAll(async () => {
  db = await openDatabase();
});
afterAll(() => db?.close());
afterEach(() => scene?.close());

const KEYS = ['a', 'b', 'c', 'd', 'e'];

/** Three pages each; one source cannot repeat itself, one trigger fails, one event is refused. */
async function prepare() {
  scene = await openScene(db, { limits: { chunkEventsMax: 2, broadcastLanes: 1 } });
  scene.source.pageItems = 2;
  const [plain] = await scene.primed(1);
  const [once] = await scene.primed(1, { poll: { dedupe: 'unique', repeatable: false } });
  const [sick] = await scene.primed(1, { toolkit: 'sick-kit' });
  if (plain === undefined || once === undefined || sick === undefined) throw new Error('no triggers');
  for (const id of [plain, once]) scene.source.add(id, ...KEYS);
  const [bad] = scene.idsOf(plain, 'c');
  scene.source.script = (call) =>
    call.trigger.id === sick ? { body: { error: { class: 'transient', message: 'no' } } } : undefined;
  scene.controlPlane.state = (results) => {
    const holder = results.find((result) => result.events.some((event) => event.id === bad));
    if (holder === undefined) return undefined;
    scene.controlPlane.accept(results.filter((result) => result !== holder));
    const statuses = results.map(({ triggerId }) =>
      triggerId === holder.triggerId
        ? { triggerId, status: 'rejected', eventId: bad, reason: 'ugly' }
        : { triggerId, status: 'accepted' },
    );
    return { body: { results: statuses, lifecycle: [] } };
  };
  const epochs = new Map<string, number>();
  for (const id of [plain, once, sick]) epochs.set(id, (await scene.row(id)).epoch);
  return { plain, once, sick, bad: bad as string, epochs };
}
type Prepared = Awaited<ReturnType<typeof prepare>>;

async function expectDone({ plain, once, sick, epochs }: Prepared): Promise<void> {
  const row = { code: 'ok', cursor: '5', seen: 5, leased: false, halt: null };
  expect(await scene.row(plain)).toMatchObject({ ...row, epoch: (epochs.get(plain) as number) + 1 });
  expect(await scene.row(once)).toMatchObject({ ...row, epoch: (epochs.get(once) as number) + 1 });
  expect(await scene.row(sick)).toMatchObject({ code: 'poll.connector_error', failures: 1, leased: false });
  const good = KEYS.filter((key) => key !== 'c');
  const told = [...scene.idsOf(plain, ...good), ...scene.idsOf(once, ...KEYS)];
  expect([...scene.controlPlane.accepted.keys()].sort()).toEqual(told.sort());
  expect(await scene.count('dead_letters')).toBe(1);
  expect(await scene.count('held_events')).toBe(0);
  expect(await scene.leases()).toBe(0);
  expect(await scene.count('batches where ended_at is null')).toBe(0);
}

/** Durable writes of a batch in the order they are made when nothing goes wrong. */
async function durableWrites(): Promise<string[]> {
  await prepare();
  const made: string[] = [];
  scene.writes.after = (what) => void made.push(what);
  await scene.round();
  await scene.close();
  return made;
}

/** Runs the corridor; a step whose process dies is run again as its next attempt. Answers who died. */
async function corridorWithDeaths(): Promise<StepName[]> {
  const input = await scene.plan();
  const deaths: StepName[] = [];
  for (const step of STEPS) {
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      try {
        const end = await scene.run(step, input, { attempt });
        if (end.status === 'ended') return deaths;
        break;
      } catch (error) {
        if (!(error instanceof Died)) throw error;
        deaths.push(step);
      }
    }
  }
  return deaths;
}

test.each(['before', 'after'] as const)('a process that dies %s any durable write loses nothing', async (when) => {
  const made = await durableWrites();
  expect(made.length).toBeGreaterThan(6);
  for (let nth = 0; nth < made.length; nth += 1) {
    const prepared = await prepare();
    let count = -1;
    scene.writes[when] = (what) => {
      count += 1;
      if (count === nth) throw new Died(`${when} ${what}`);
    };
    const deaths = await corridorWithDeaths();
    expect(deaths, `${when} ${made[nth]}`).toHaveLength(1);
    await expectDone(prepared);
    for (const times of scene.controlPlane.accepted.values()) expect(times).toBeLessThanOrEqual(2);
    await scene.close();
  }
});

test('a step that is run again after it was done asks nobody anything and changes nothing', async () => {
  const prepared = await prepare();
  const input = await scene.plan();
  const steps = STEPS.slice(0, 4);
  for (const step of steps) {
    await scene.run(step, input);
    const calls = () => [
      scene.controlPlane.connCalls.length,
      scene.source.calls.length,
      scene.controlPlane.stateCalls.length,
    ];
    const before = calls();
    const names = await scene.objectNames(input.batchId);
    await scene.run(step, input, { attempt: 2 });
    expect(calls(), step).toEqual(before);
    expect(await scene.objectNames(input.batchId), step).toEqual(names);
  }
  await scene.run('commit', input);
  await scene.run('commit', input, { attempt: 2 });
  await expectDone(prepared);
  expect([...scene.controlPlane.accepted.values()].every((times) => times === 1)).toBe(true);
});

test('earlier steps run again in a later hop do not undo what is done', async () => {
  const prepared = await prepare();
  const input = await scene.plan();
  for (const step of ['claim', 'auth', 'poll'] as const) await scene.run(step, input);
  for (const step of STEPS) await scene.run(step, input, { hop: 1 });
  await expectDone(prepared);
  expect(scene.source.calls.filter((call) => call.trigger.id === prepared.plain)).toHaveLength(3);
});

test('a commit that died before it could arm is made up for by the next attempt, in the first hop and in a later one', async () => {
  scene = await openScene(db);
  const [quick, slow] = (await scene.primed(2)) as [string, string];
  scene.source.add(quick, 'q1');
  scene.source.script = (call) => (call.trigger.id === slow ? { status: 503, body: '' } : undefined);
  const input = await scene.plan();
  for (const hop of [0, 1]) {
    for (const step of STEPS.slice(0, 4)) await scene.run(step, input, { hop });
    scene.writes.after = (what) => {
      if (what === 'commit') throw new Died(what);
    };
    scene.arms.length = 0;
    await expect(scene.run('commit', input, { hop })).rejects.toBeInstanceOf(Died);
    expect(scene.arms).toEqual([]);
    delete scene.writes.after;
    await scene.run('commit', input, { hop, attempt: 2 });
    expect(scene.arms).toEqual([0]);
  }
});

test('a committed trigger is left alone by the batch\u2019s later hops, whatever another batch has made of it since', async () => {
  scene = await openScene(db);
  // Polled by the hour, so that each poll which changed something has its state told.
  const [quick, slow] = (await scene.primed(2, { intervalSeconds: 3_600 })) as [string, string];
  scene.source.add(quick, 'q1');
  scene.source.add(slow, 's1');
  scene.source.script = (call) => (call.trigger.id === slow ? { status: 503, body: '' } : undefined);
  const first = await scene.plan();
  expect(await scene.hop(first)).toMatchObject({ left: 1 });
  expect(await scene.row(quick)).toMatchObject({ cursor: '1', leased: false });

  scene.source.add(quick, 'q2');
  await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '1 s' where trigger_id = ${quick}`;
  const second = await scene.plan();
  await scene.hop(second);
  expect(await scene.row(quick)).toMatchObject({ cursor: '2' });
  const kept = scene.controlPlane.pollStates.get(quick);
  const sent = scene.controlPlane.stateCalls.flat().filter((result) => result.triggerId === quick).length;

  scene.source.script = undefined;
  await scene.settled(first);
  expect(scene.controlPlane.pollStates.get(quick)).toBe(kept);
  expect(scene.controlPlane.stateCalls.flat().filter((result) => result.triggerId === quick)).toHaveLength(sent);
  expect(await scene.row(quick)).toMatchObject({ cursor: '2' });
  expect(await scene.row(slow)).toMatchObject({ cursor: '1', leased: false });
});
