/**
 * Chains of pages, primes, rekeys, and what is remembered after each. What must hold: every item is told once whatever page,
 * batch or crash it came in; the cursor never passes an event nobody took; the state the control plane keeps is what
 * workerdb committed.
 */
import type { WorkerDb } from '@milkrun/workerdb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Died, openDatabase, openScene, type Scene, type SceneOptions } from './scene.ts';

let db: WorkerDb;
let scene: Scene;
beforeAll(async () => {
  db = await openDatabase();
});
afterAll(() => db?.close());
afterEach(() => scene?.close());

const told = (id: string) => scene.controlPlane.byTrigger.get(id) ?? [];
const keys = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => `k${from + n}`);

async function one(over: object = {}, options: SceneOptions = {}): Promise<string> {
  scene = await openScene(db, options);
  const [id] = await scene.primed(1, over);
  if (id === undefined) throw new Error('no trigger');
  return id;
}

/** What the control plane keeps, decoded. */
function kept(id: string): { cursor: unknown; seen: string } {
  return JSON.parse(Buffer.from(scene.controlPlane.pollStates.get(id) ?? '', 'base64').toString());
}
async function remembered(id: string): Promise<string> {
  const [row] =
    await db.sql`select encode(seen || seen_added, 'base64') as seen from polling_trigger_states where trigger_id = ${id}`;
  return String(row?.seen).replaceAll('\n', '');
}

describe('a chain', () => {
  test('of more than twenty pages goes on in the next batch at once, in order, each item once', async () => {
    const id = await one();
    scene.source.pageItems = 2;
    scene.source.add(id, ...keys(0, 45));
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ cursor: '40', code: 'ok' });
    expect((await scene.row(id)).dueIn).toBeLessThanOrEqual(0);
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ cursor: '45', seen: 45 });
    expect((await scene.row(id)).dueIn).toBeGreaterThan(0);
    expect(told(id)).toEqual(scene.idsOf(id, ...keys(0, 45)));
  });

  test('cut by a crash keeps the pages that were saved, and goes on behind them', async () => {
    const id = await one();
    scene.source.pageItems = 2;
    scene.source.add(id, ...keys(0, 6));
    const input = await scene.plan();
    for (const step of ['claim', 'auth'] as const) await scene.run(step, input);
    const stop = new AbortController();
    scene.source.script = (call) => {
      if (call.cursor !== 4) return undefined;
      stop.abort(new Died('the worker is gone'));
      return 'silence';
    };
    await expect(scene.run('poll', input, { signal: stop.signal })).rejects.toThrow();
    scene.source.script = undefined;
    for (const step of ['poll', 'broadcast', 'commit'] as const) await scene.run(step, input, { attempt: 2 });
    expect(await scene.row(id)).toMatchObject({ cursor: '4' });
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ cursor: '6', leased: false });
    expect(told(id)).toEqual(scene.idsOf(id, ...keys(0, 6)));
  });

  test.each([
    ['is broken', { body: 'no JSON' }],
    ['fails', { body: { error: { class: 'transient', message: 'no' } } }],
    ['finds the platform away', { status: 503, body: '' }],
    ['has its auth refused', { body: { error: { class: 'auth', message: 'no' } } }],
  ] as const)('whose third page %s keeps the first two and asks for the third again', async (_how, scripted) => {
    const id = await one();
    scene.source.pageItems = 2;
    scene.source.add(id, ...keys(0, 6));
    scene.source.script = (call) => (call.cursor === 4 ? scripted : undefined);
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ cursor: '4', code: 'ok', failures: 0, poisons: 0 });
    expect((await scene.row(id)).dueIn).toBeLessThanOrEqual(0);
    scene.source.script = undefined;
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, ...keys(0, 6)));
  });

  test('whose third page is rate limited keeps the first two and waits as long as it was asked to', async () => {
    const id = await one();
    scene.source.pageItems = 2;
    scene.source.add(id, ...keys(0, 6));
    const limited = { body: { error: { class: 'rate_limited', message: 'later', retryAfter: 600 } } };
    scene.source.script = (call) => (call.cursor === 4 ? limited : undefined);
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, ...keys(0, 4)));
    const row = await scene.row(id);
    expect(row).toMatchObject({ cursor: '4', code: 'poll.rate_limited', failures: 0 });
    expect(row.dueIn).toBeGreaterThan(590);
    expect(await scene.count(`source_limits where reason = 'rate_limited'`)).toBe(1);
  });

  test('that claims to have more but moves neither its cursor nor brings anything new ends, and is not due at once', async () => {
    const id = await one();
    scene.source.script = () => ({ body: { events: [], cursor: 0, more: true } });
    await scene.round();
    expect(scene.source.calls).toHaveLength(1);
    expect((await scene.row(id)).dueIn).toBeGreaterThan(0);
    scene.source.calls.length = 0;
    scene.source.script = () => ({ body: { events: [{ key: 'same', data: 1 }], cursor: 0, more: true } });
    await scene.makeDue();
    await scene.round();
    expect(scene.source.calls).toHaveLength(2);
    expect(told(id)).toEqual(scene.idsOf(id, 'same'));
    expect((await scene.row(id)).dueIn).toBeGreaterThan(0);
  });

  test('of a queue, which has no cursor to move, is read to its end', async () => {
    const id = await one();
    const queue = keys(0, 5);
    scene.source.script = () => {
      const key = queue.shift();
      return { body: { events: key === undefined ? [] : [{ key, data: 1 }], cursor: null, more: queue.length > 0 } };
    };
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, ...keys(0, 5)));
  });

  test('that repeats an item on later pages and in later polls tells it once', async () => {
    const id = await one();
    scene.source.pageItems = 2;
    scene.source.add(id, 'a', 'b', 'b', 'a', 'c', 'a');
    await scene.round();
    scene.source.add(id, 'c', 'd');
    await scene.makeDue();
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'a', 'b', 'c', 'd'));
  });

  test('forgets nothing its last listing named, though an earlier page brought what was new', async () => {
    const id = await one();
    scene.source.pageItems = 2_000;
    const old = keys(0, 4_000);
    scene.source.add(id, ...old);
    await scene.round();
    // The whole listing each time: 1,500 new keys first, then what is known.
    const listing = [...keys(5_000, 5_999), ...old];
    scene.source.script = (call) => {
      const from = Number((call.cursor as { from?: number } | null)?.from ?? 0);
      const events = listing.slice(from, from + 2_000).map((key) => ({ key, data: key }));
      const more = from + 2_000 < listing.length;
      return { body: { events, cursor: { from: more ? from + 2_000 : 0 }, more } };
    };
    for (let n = 0; n < 2; n += 1) {
      await scene.makeDue();
      await scene.round();
    }
    expect(new Set(told(id)).size).toBe(told(id).length);
    expect(await scene.row(id)).toMatchObject({ seen: 4_999 });
    // More than fit: what has left the listing goes first, however old the rest is.
    listing.splice(0, listing.length, ...keys(7_000, 7_500), ...keys(5_000, 5_999), ...keys(0, 3_500));
    for (let n = 0; n < 2; n += 1) {
      await scene.makeDue();
      await scene.round();
    }
    expect(new Set(told(id)).size).toBe(told(id).length);
    expect(await scene.row(id)).toMatchObject({ seen: 5_000 });
    expect(kept(id).seen).toBe(await remembered(id));
  });

  test('parked in the middle commits the last whole page and the keys beyond it, and later tells only the rest', async () => {
    const id = await one({}, { limits: { chunkEventsMax: 1 } });
    scene.source.pageItems = 3;
    scene.source.add(id, ...keys(0, 6));
    const [fifth] = scene.idsOf(id, 'k4');
    scene.controlPlane.state = (results) =>
      results.some((result) => result.events.some((event) => event.id === fifth))
        ? { status: 500, body: '' }
        : undefined;
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ cursor: '3', seen: 4, code: 'broadcast.unavailable', failures: 0 });
    scene.controlPlane.state = undefined;
    await scene.makeDue();
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, ...keys(0, 6)));
    expect(kept(id)).toMatchObject({ cursor: 6, seen: await remembered(id) });
  });
});

describe('a prime', () => {
  const dated = (key: string, occurredAt: string) => ({ key, occurredAt, data: { key } });

  test('tells nothing but what is dated at or after its creation, and is told to the control plane once', async () => {
    scene = await openScene(db);
    const id = await scene.trigger({ createdAt: '2026-03-01T00:00:00.000Z' });
    scene.source.items.set(id, [
      dated('before', '2026-02-28T23:59:59Z'),
      dated('at', '2026-03-01T00:00:00Z'),
      { key: 'undated', data: 1 },
      dated('after', '2026-03-02T00:00:00Z'),
    ]);
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'at', 'after'));
    expect(await scene.row(id)).toMatchObject({ primed: true, seen: 4, cursor: '4' });
    expect(scene.controlPlane.stateCalls.flat().filter((result) => result.last)).toHaveLength(1);
    expect(kept(id)).toMatchObject({ cursor: 4, seen: await remembered(id) });
    expect(scene.source.calls.every((call) => call.since === undefined)).toBe(true);
  });

  test('with since tells from there on, and sends since until it is primed', async () => {
    scene = await openScene(db);
    const since = '2026-01-15T00:00:00.000Z';
    const id = await scene.trigger({ createdAt: '2026-03-01T00:00:00.000Z', since });
    scene.source.pageItems = 1;
    scene.source.items.set(id, [dated('old', '2026-01-01T00:00:00Z'), dated('since', '2026-02-01T00:00:00Z')]);
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'since'));
    expect(scene.source.calls.map((call) => call.since)).toEqual([since, since]);
    await scene.makeDue();
    await scene.round();
    expect(scene.source.calls.at(-1)?.since).toBeUndefined();
  });

  test('over more than twenty pages stays a prime until the first page without more', async () => {
    scene = await openScene(db);
    const id = await scene.trigger({ createdAt: '2026-03-01T00:00:00.000Z' });
    scene.source.pageItems = 1;
    scene.source.add(id, ...keys(0, 30));
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ primed: false, cursor: '20' });
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ primed: true, cursor: '30', seen: 30 });
    expect(told(id)).toEqual([]);
    scene.source.add(id, 'new');
    await scene.makeDue();
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'new'));
  });

  test('without items is told to the control plane all the same, in a later hop if need be', async () => {
    scene = await openScene(db);
    const id = await scene.trigger();
    scene.controlPlane.state = () => ({ status: 503, body: '' });
    const input = await scene.plan();
    await scene.hop(input);
    expect(await scene.row(id)).toMatchObject({ primed: false, leased: true });
    scene.controlPlane.state = undefined;
    await scene.settled(input);
    expect(scene.controlPlane.pollStates.has(id)).toBe(true);
    expect(await scene.row(id)).toMatchObject({ primed: true, leased: false });
  });
});

describe('a connector version that names items otherwise', () => {
  /** The same two old items under new names, and one that happened since. */
  const renamed = (more: object = {}) => {
    const soon = new Date(Date.now() + 60_000).toISOString();
    const events = ['a', 'b'].map((key) => ({ key: `v2:${key}`, occurredAt: '2026-01-02T00:00:00Z', data: { key } }));
    return {
      body: {
        events: [...events, { key: 'v2:c', occurredAt: soon, data: 1 }],
        cursor: 9,
        version: '2',
        rekeys: true,
        ...more,
      },
    };
  };

  test('primes again: what was told under the old names is not told under new ones', async () => {
    const id = await one();
    scene.source.add(id, 'a', 'b');
    scene.source.script = (call) => ({ body: { ...scene.source.page(call), version: '1' } });
    await scene.round();
    scene.source.script = () => renamed();
    await scene.makeDue();
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'a', 'b', 'v2:c'));
    expect(await scene.row(id)).toMatchObject({ primed: true, versionUsed: '2', seen: 3, cursor: '9' });
    await scene.makeDue();
    await scene.round();
    expect(told(id)).toHaveLength(3);
  });

  test('primes again when the version before had no name', async () => {
    const id = await one();
    scene.source.add(id, 'a', 'b');
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ versionUsed: null });
    scene.source.script = () => renamed();
    await scene.makeDue();
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'a', 'b', 'v2:c'));
  });

  test('must name itself: without a version the answer is refused instead of priming at every poll', async () => {
    const id = await one();
    scene.source.script = (call) => ({ body: { ...scene.source.page(call), version: '1' } });
    await scene.round();
    scene.source.script = () => renamed({ version: null });
    await scene.makeDue();
    await scene.round();
    expect(await scene.row(id)).toMatchObject({ code: 'poll.response_invalid', poisons: 1, cursor: '0' });
    expect(told(id)).toEqual([]);
  });
});

describe('auth near its expiry', () => {
  const expiring = (seconds: number) => {
    scene.controlPlane.conn = (asks) => {
      const expiresAt = new Date(scene.clock.now() + seconds * 1000).toISOString();
      return { body: { connections: asks.map((ask) => scene.controlPlane.active(ask, { expiresAt })) } };
    };
  };

  test('that arrived with less than a minute is used until it expires', async () => {
    const id = await one();
    scene.source.add(id, 'a');
    expiring(30);
    await scene.round();
    expect(told(id)).toEqual(scene.idsOf(id, 'a'));
  });

  test('that ran short while it waited is asked for again in the next hop, and no poll starts with it', async () => {
    const id = await one();
    scene.source.add(id, 'a');
    expiring(90);
    const input = await scene.plan();
    for (const step of ['claim', 'auth'] as const) await scene.run(step, input);
    scene.clock.advance(40_000);
    expect(await scene.run('poll', input)).toMatchObject({ done: 0, left: 1 });
    for (const step of ['broadcast', 'commit'] as const) await scene.run(step, input);
    expect(scene.source.calls).toHaveLength(0);
    expiring(3_600);
    await scene.settled(input);
    expect(told(id)).toEqual(scene.idsOf(id, 'a'));
    expect(scene.controlPlane.connCalls).toHaveLength(2);
  });

  test('that had expired when it came starts no poll, and the trigger is released with nothing charged', async () => {
    const id = await one();
    scene.source.add(id, 'a');
    expiring(-10);
    await scene.round();
    expect(scene.source.calls).toHaveLength(0);
    expect(await scene.row(id)).toMatchObject({ cursor: '0', failures: 0, halt: null, leased: false });
  });
});
