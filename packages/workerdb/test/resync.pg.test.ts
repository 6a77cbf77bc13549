/** A full resync: the feed is read from its beginning, and what it did not name is deleted, unless that is too much. */
import type { FeedChange } from '@milkrun/core';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { change, claimAll, emptied, freshDb, push } from './support.ts';

let db: WorkerDb;
beforeAll(async () => {
  db = await freshDb(4);
});
beforeEach(async () => {
  await emptied(db);
});
afterAll(async () => {
  await db.close();
});

const many = (count: number) => Array.from({ length: count }, () => change());
const reread = (changes: readonly FeedChange[], after: string | null = null, next = 'end') =>
  db.applyFeedPage({ after, next, changes, source: 'pull' });
async function idsLeft(): Promise<string[]> {
  return (await db.sql<{ id: string }[]>`select trigger_id as id from polling_trigger_runs order by 1`).map(
    (found) => found.id,
  );
}
const idsOf = (changes: readonly FeedChange[]) => changes.map((one) => one.triggerId).sort();

test('what the feed no longer names is deleted with its definition and memory, and stays out by a tombstone', async () => {
  const here = many(30);
  await push(db, here);
  const token = await db.beginResync();
  expect(await db.resyncInProgress()).toBe(token);
  expect(await db.feedCursor()).toBeNull();
  await reread(here.slice(0, 15), null, 'half');
  await reread(here.slice(15, 28), 'half');
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 2, refused: 0 });
  expect(await idsLeft()).toEqual(idsOf(here.slice(0, 28)));
  const [others] = await db.sql`select (select count(*)::int from polling_triggers) as d,
    (select count(*)::int from polling_trigger_states) as s`;
  expect(others).toEqual({ d: 28, s: 28 });
  expect(await push(db, here.slice(28))).toMatchObject({ upserted: 0, stale: 2 });
  expect(await db.resyncInProgress()).toBeNull();
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 0, refused: 0 });
});

test('a mass delete is refused as a whole until somebody confirms it', async () => {
  const here = many(120);
  await push(db, here);
  const token = await db.beginResync();
  await reread(here.slice(0, 69));
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 0, refused: 51 });
  expect(await idsLeft()).toHaveLength(120);
  const again = (await db.resyncInProgress()) ?? (await db.beginResync());
  if (again !== token) await reread(here.slice(0, 69));
  expect(await db.finishResync({ token: again, confirmMassDelete: true })).toEqual({ deleted: 51, refused: 0 });
  expect(await idsLeft()).toEqual(idsOf(here.slice(0, 69)));
});

test('fifty are deleted whatever their share', async () => {
  const here = many(60);
  await push(db, here);
  const token = await db.beginResync();
  await reread(here.slice(0, 10));
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 50, refused: 0 });
});

test('a trigger pushed while a resync runs is named by it; a deleted one is not', async () => {
  const [kept, gone] = many(2) as [FeedChange, FeedChange];
  await push(db, [kept, gone]);
  const token = await db.beginResync();
  const late = change();
  await push(db, [late]);
  await push(db, [{ op: 'delete', triggerId: gone.triggerId, configVersion: 2 }]);
  await reread([kept]);
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 0, refused: 0 });
  expect(await idsLeft()).toEqual(idsOf([kept, late]));
});

test('a leased row that a resync deletes is fenced as deleted', async () => {
  const [kept, gone] = many(2) as [FeedChange, FeedChange];
  await push(db, [kept, gone]);
  const { batchId } = await claimAll(db);
  const token = await db.beginResync();
  await reread([kept]);
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 1, refused: 0 });
  expect((await db.check(batchId)).fenced).toMatchObject([{ triggerId: gone.triggerId, deleted: true }]);
});

test('a resync that was begun anew is not finished by the older one', async () => {
  await push(db, many(3));
  const older = await db.beginResync();
  const newer = await db.beginResync();
  expect(await db.finishResync({ token: older, confirmMassDelete: true })).toEqual({ deleted: 0, refused: 0 });
  expect(await db.resyncInProgress()).toBe(newer);
  expect(await idsLeft()).toHaveLength(3);
});

test('the tombstone of a trigger that was deleted before and came back is of its last version', async () => {
  const [kept, gone] = many(2) as [FeedChange, FeedChange];
  await push(db, [kept, gone]);
  await push(db, [{ op: 'delete', triggerId: gone.triggerId, configVersion: 2 }]);
  const back = { ...gone, configVersion: 5 } as FeedChange;
  await push(db, [back]);
  const token = await db.beginResync();
  await reread([kept]);
  expect(await db.finishResync({ token, confirmMassDelete: false })).toEqual({ deleted: 1, refused: 0 });
  expect(await push(db, [back])).toMatchObject({ upserted: 0, stale: 1 });
});
