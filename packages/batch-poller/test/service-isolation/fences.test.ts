/**
 * Rows taken from their batch, and batches that lost their lease, at every point of the corridor. What must hold: a fenced
 * trigger delivers nothing after the fence was seen, its row is written by nobody, its neighbours go on; what cannot be
 * asked for again is held; a batch that is over writes nothing and leaves no credentials.
 */
import type { WorkerDb } from '@milkrun/workerdb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Draining } from '../../src/step.ts';
import { openDatabase, openScene, type Scene, STEPS } from './scene.ts';

let db: WorkerDb;
let scene: Scene;
beforeAll(async () => {
  db = await openDatabase();
});
afterAll(() => db?.close());
afterEach(() => scene?.close());

const ONCE = { poll: { dedupe: 'unique', repeatable: false } } as const;

async function pair(over: object = {}, options: Parameters<typeof openScene>[1] = {}) {
  scene = await openScene(db, options);
  const [taken] = await scene.primed(1, over);
  const [other] = await scene.primed(1);
  if (taken === undefined || other === undefined) throw new Error('no triggers');
  scene.source.add(taken, 'one', 'two');
  scene.source.add(other, 'new');
  return { taken, other, input: await scene.plan() };
}

async function runUntil(input: Awaited<ReturnType<Scene['plan']>>, end: (typeof STEPS)[number]): Promise<void> {
  for (const step of STEPS.slice(0, STEPS.indexOf(end))) await scene.run(step, input);
}
async function runFrom(input: Awaited<ReturnType<Scene['plan']>>, start: (typeof STEPS)[number]): Promise<void> {
  for (const step of STEPS.slice(STEPS.indexOf(start))) await scene.run(step, input);
}
const told = (id: string) => scene.controlPlane.byTrigger.get(id) ?? [];

describe('a trigger that is disabled', () => {
  test('while its poll runs delivers nothing, and its row stays as the disable left it', async () => {
    const { taken, other, input } = await pair();
    await runUntil(input, 'poll');
    scene.source.script = async (call) => {
      if (call.trigger.id === taken) await scene.change({ triggerId: taken, enabled: false });
      return undefined;
    };
    await runFrom(input, 'poll');
    expect(told(taken)).toEqual([]);
    expect(await scene.row(taken)).toMatchObject({ cursor: '0', dueIn: null, leased: false, failures: 0 });
    expect(told(other)).toEqual(scene.idsOf(other, 'new'));
    expect(await scene.row(other)).toMatchObject({ cursor: '1' });
    expect(await scene.count('batches where ended_at is null')).toBe(0);
  });

  test('while its poll waits for a slot is not polled any more', async () => {
    const { taken, other, input } = await pair({}, { width: 1 });
    await runUntil(input, 'poll');
    const first = { id: '' };
    scene.source.script = async (call) => {
      if (first.id !== '') return undefined;
      first.id = call.trigger.id;
      const waiting = call.trigger.id === taken ? other : taken;
      await scene.change({ triggerId: waiting, enabled: false });
      const read = scene.fenceRead();
      scene.clock.advance(6_000);
      await read;
      return undefined;
    };
    await runFrom(input, 'poll');
    expect(scene.source.calls.map((call) => call.trigger.id)).toEqual([first.id]);
    expect(scene.slots.inUse).toBe(0);
  });

  test('before broadcast delivers nothing', async () => {
    const { taken, other, input } = await pair();
    await runUntil(input, 'broadcast');
    await scene.change({ triggerId: taken, enabled: false });
    await runFrom(input, 'broadcast');
    expect(told(taken)).toEqual([]);
    expect(told(other)).toEqual(scene.idsOf(other, 'new'));
  });

  test('between two of its chunks sends no further one once the fence was seen', async () => {
    const { taken, input } = await pair({}, { limits: { chunkEventsMax: 1, broadcastLanes: 1 } });
    await runUntil(input, 'broadcast');
    scene.controlPlane.state = async (results) => {
      if (results.some((result) => result.triggerId === taken)) {
        await scene.change({ triggerId: taken, enabled: false });
        scene.clock.advance(6_000);
      }
      return undefined;
    };
    await runFrom(input, 'broadcast');
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one'));
    expect(await scene.row(taken)).toMatchObject({ cursor: '0' });
  });

  test('after broadcast keeps its old cursor, and tells the same events under the same ids when it is enabled', async () => {
    const { taken, input } = await pair();
    await runUntil(input, 'commit');
    await scene.change({ triggerId: taken, enabled: false });
    await scene.run('commit', input);
    expect(await scene.row(taken)).toMatchObject({ cursor: '0' });
    await scene.change({ triggerId: taken, enabled: true });
    await scene.round();
    const ids = scene.idsOf(taken, 'one', 'two');
    expect(told(taken)).toEqual([...ids, ...ids]);
    expect(await scene.row(taken)).toMatchObject({ cursor: '2', leased: false });
  });
});

describe('a trigger that is rewound', () => {
  test.each(['broadcast', 'commit'] as const)(
    'before %s is polled from where it was put, whatever its batch had found',
    async (step) => {
      const { taken, input } = await pair();
      await runUntil(input, step);
      await scene.change({ triggerId: taken, cursor: '1' });
      await runFrom(input, step);
      expect(await scene.row(taken)).toMatchObject({ cursor: '1', seen: 0, leased: false });
      expect((await scene.row(taken)).dueIn).toBeLessThanOrEqual(0);
      await scene.round();
      expect(await scene.row(taken)).toMatchObject({ cursor: '2' });
      expect(told(taken).at(-1)).toBe(scene.idsOf(taken, 'two')[0]);
      expect(new Set(told(taken)).size).toBeLessThanOrEqual(2);
    },
  );
});

describe('a source that cannot repeat itself', () => {
  test('has its undelivered events held when it is fenced, and they are sent first afterwards, once', async () => {
    const { taken, input } = await pair(ONCE);
    await runUntil(input, 'broadcast');
    await scene.change({ triggerId: taken, config: '{"other":1}', ...ONCE });
    await runFrom(input, 'broadcast');
    expect(told(taken)).toEqual([]);
    expect(await scene.count('held_events')).toBe(2);
    scene.source.items.set(taken, [{ key: 'three', data: 3 }]);
    scene.source.script = (call) =>
      call.trigger.id === taken ? { body: { events: [{ key: 'three', data: 3 }], cursor: 9 } } : undefined;
    await scene.round();
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one', 'two', 'three'));
    expect(await scene.count('held_events')).toBe(0);
    expect(await scene.row(taken)).toMatchObject({ cursor: '9' });
  });

  test('has held what a cancelled attempt saved after its batch was committed without it', async () => {
    const { taken, other, input } = await pair(ONCE);
    await runUntil(input, 'poll');
    const cancelled = new AbortController();
    scene.source.script = (call) => {
      if (call.trigger.id !== other) return undefined;
      void scene.run('commit', input, { force: true }).then(() => cancelled.abort(new Error('cancelled')));
      return 'silence';
    };
    await expect(scene.run('poll', input, { signal: cancelled.signal })).rejects.toThrow();
    expect(await scene.count('batches where ended_at is null')).toBe(0);
    expect(await scene.count('held_events')).toBe(2);
    scene.source.script = undefined;
    await scene.makeDue();
    await scene.round();
    expect(new Set(told(taken))).toEqual(new Set(scene.idsOf(taken, 'one', 'two')));
    expect(await scene.count('held_events')).toBe(0);
  });

  test('has nothing held when it was deleted', async () => {
    const { taken, input } = await pair(ONCE);
    await runUntil(input, 'broadcast');
    await scene.remove(taken);
    await runFrom(input, 'broadcast');
    expect(told(taken)).toEqual([]);
    expect(await scene.count('held_events')).toBe(0);
    expect(await scene.leases()).toBe(0);
  });

  test('has its events held when no hop could deliver them, moves on, and delivers them before what is new', async () => {
    const { taken, input } = await pair(ONCE, { limits: { chunkEventsMax: 1 } });
    scene.controlPlane.state = (results) =>
      results.some((result) => result.events.some((event) => event.id === scene.idsOf(taken, 'two')[0]))
        ? { status: 503, body: '' }
        : undefined;
    await scene.settled(input, 0);
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one'));
    expect(await scene.count('held_events')).toBe(1);
    expect(await scene.row(taken)).toMatchObject({ cursor: '2', code: 'broadcast.unavailable', failures: 0 });
    scene.controlPlane.state = undefined;
    scene.source.add(taken, 'three');
    await scene.makeDue();
    await scene.round();
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one', 'two', 'three'));
    expect(await scene.count('held_events')).toBe(0);
  });

  test('has its events held when its receiver is gone, for the day the halt is lifted', async () => {
    const { taken, input } = await pair(ONCE);
    scene.controlPlane.state = (results) =>
      results.some((result) => result.triggerId === taken) ? { status: 410 } : undefined;
    await scene.settled(input, 0);
    expect(await scene.row(taken)).toMatchObject({ halt: 'receiver_gone', cursor: '2' });
    expect(await scene.count('held_events')).toBe(2);
    scene.controlPlane.state = undefined;
    await scene.change({ triggerId: taken, resume: 'cursor', ...ONCE });
    await scene.round();
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one', 'two'));
    expect(await scene.count('held_events')).toBe(0);
  });

  test('loses no event that was refused to a fence: it is a dead letter in the end', async () => {
    const { taken, input } = await pair(ONCE);
    const [bad] = scene.idsOf(taken, 'one');
    scene.controlPlane.state = (results) =>
      results.some((result) => result.events.some((event) => event.id === bad))
        ? { status: 422, body: 'no' }
        : undefined;
    await runUntil(input, 'commit');
    await scene.change({ triggerId: taken, config: '{"other":1}', ...ONCE });
    await scene.run('commit', input);
    scene.source.script = () => ({ body: { events: [], cursor: 9 } });
    await scene.round();
    expect(await scene.count(`dead_letters where event_id = '${bad}'`)).toBe(1);
    expect(told(taken)).toContain(scene.idsOf(taken, 'two')[0]);
    expect(await scene.count('held_events')).toBe(0);
  });
});

describe('a batch whose lease is gone', () => {
  test.each(['auth', 'poll', 'broadcast', 'commit'] as const)(
    'ends at the start of %s: asks nobody, writes nothing, leaves no credentials',
    async (step) => {
      const { taken, input } = await pair();
      await runUntil(input, step);
      await scene.expire(input.batchId);
      const calls = () => [
        scene.controlPlane.connCalls.length,
        scene.source.calls.length,
        scene.controlPlane.stateCalls.length,
      ];
      const before = calls();
      expect(await scene.run(step, input)).toMatchObject({ status: 'ended' });
      expect(calls()).toEqual(before);
      expect(await scene.objectNames(input.batchId, 'auth/')).toEqual([]);
      expect(await scene.row(taken)).toMatchObject({ cursor: '0', leased: false });
      expect((await scene.row(taken)).dueIn).toBeLessThan(0);
    },
  );

  test('while polls run ends, and a take-over polls again under the next epoch with the same ids', async () => {
    const { taken, other, input } = await pair();
    await runUntil(input, 'poll');
    scene.source.script = async (call) => {
      scene.source.script = undefined;
      if (call.trigger.id !== '') await scene.expire(input.batchId);
      scene.clock.advance(12_000);
      return undefined;
    };
    expect(await scene.run('poll', input)).toMatchObject({ status: 'ended' });
    expect(await scene.objectNames(input.batchId, 'auth/')).toEqual([]);
    const epoch = (await scene.row(taken)).epoch;
    await scene.round();
    expect(await scene.row(taken)).toMatchObject({ epoch: epoch + 1, cursor: '2', leased: false });
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one', 'two'));
    expect(told(other)).toEqual(scene.idsOf(other, 'new'));
  });

  test('cannot commit over the batch that took its rows', async () => {
    const { taken, input } = await pair();
    await runUntil(input, 'commit');
    await scene.expire(input.batchId);
    scene.source.add(taken, 'three');
    await scene.round();
    expect(await scene.row(taken)).toMatchObject({ cursor: '3' });
    expect(await scene.run('commit', input)).toMatchObject({ status: 'ended' });
    expect(await scene.run('commit', input, { force: true })).toMatchObject({ status: 'ended' });
    expect(await scene.row(taken)).toMatchObject({ cursor: '3', code: 'ok', leased: false });
  });
});

describe('a worker that drains', () => {
  test.each(['auth', 'poll'] as const)(
    'hands %s over to another worker: the attempt fails as Draining',
    async (step) => {
      const { input } = await pair();
      await runUntil(input, step);
      if (step === 'auth') scene.drain();
      else
        scene.source.script = () => {
          scene.drain();
          return 'silence';
        };
      await expect(scene.run(step, input)).rejects.toBeInstanceOf(Draining);
      expect(await scene.leases()).toBe(2);
    },
  );

  test('in the middle of asking for credentials hands over too', async () => {
    const { input } = await pair();
    await runUntil(input, 'auth');
    scene.controlPlane.conn = () => {
      scene.drain();
      return 'silence';
    };
    await expect(scene.run('auth', input)).rejects.toBeInstanceOf(Draining);
  });

  test.each(['auth', 'poll'] as const)(
    'alone returns early from %s, and what was not polled is free and still due',
    async (step) => {
      const { taken, other, input } = await pair({}, { alone: true });
      await runUntil(input, step);
      if (step === 'auth')
        scene.controlPlane.conn = () => {
          scene.drain();
          return 'silence';
        };
      else
        scene.source.script = (call) => {
          if (call.trigger.id === other) return undefined;
          scene.drain();
          return 'silence';
        };
      expect(await scene.run(step, input)).toMatchObject({ status: 'draining' });
      for (const next of STEPS.slice(STEPS.indexOf(step) + 1)) {
        if (next !== 'poll' && next !== 'auth') await scene.run(next, input, { force: true });
      }
      expect(await scene.leases()).toBe(0);
      expect(await scene.count('batches where ended_at is null')).toBe(0);
      const row = await scene.row(taken);
      expect(row).toMatchObject({ cursor: '0', failures: 0, halt: null });
      expect(row.dueIn).toBeLessThan(0);
      expect(await scene.objectNames(input.batchId, 'auth/')).toEqual([]);
    },
  );
});

describe('ForceCommit', () => {
  test('without a snapshot to read ends the batch: rows free and due, objects kept', async () => {
    const { taken, input } = await pair();
    await runUntil(input, 'commit');
    const names = await scene.objectNames(input.batchId);
    scene.storeIsAway(true);
    await expect(scene.run('commit', input)).rejects.toThrow();
    // One lost answer is tried again: what a source gave once lies in those objects.
    await expect(scene.run('commit', input, { force: true, attempt: 4 })).rejects.toThrow();
    expect(await scene.leases()).toBe(2);
    expect(await scene.run('commit', input, { force: true, attempt: 5 })).toMatchObject({ status: 'ended' });
    scene.storeIsAway(false);
    expect(await scene.leases()).toBe(0);
    expect((await scene.row(taken)).dueIn).toBeLessThan(0);
    expect(await scene.objectNames(input.batchId)).toEqual(names);
    await scene.round();
    expect(await scene.row(taken)).toMatchObject({ cursor: '2' });
    expect(new Set(told(taken))).toEqual(new Set(scene.idsOf(taken, 'one', 'two')));
  });

  test('of entries nobody could poll frees them, charges nothing, and lets the timer shard back off', async () => {
    const { taken, other, input } = await pair();
    await scene.run('claim', input);
    await scene.run('commit', input, { hop: 3 });
    for (const id of [taken, other]) {
      expect(await scene.row(id)).toMatchObject({ leased: false, failures: 0, cursor: '0', halt: null });
      expect((await scene.row(id)).dueIn).toBeLessThan(0);
    }
    expect(await scene.count('timer_shards where backoff_until > statement_timestamp()')).toBe(1);
  });

  test('works on what an object that cannot be read leaves over, and the rest is polled again', async () => {
    const { taken, input } = await pair();
    await runUntil(input, 'broadcast');
    await scene.damage(input.batchId, 'results/');
    await runFrom(input, 'broadcast');
    expect(told(taken)).toEqual([]);
    await scene.settled(input);
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one', 'two'));
    expect(await scene.row(taken)).toMatchObject({ cursor: '2', leased: false });
  });

  test('entries that cannot be read are rebuilt from the rows under the same epoch', async () => {
    const { taken, input } = await pair();
    await scene.run('claim', input);
    const { epoch } = await scene.row(taken);
    await scene.damage(input.batchId, 'entries');
    await runFrom(input, 'auth');
    expect(await scene.row(taken)).toMatchObject({ epoch, cursor: '2', leased: false });
    expect(told(taken)).toEqual(scene.idsOf(taken, 'one', 'two'));
  });
});
