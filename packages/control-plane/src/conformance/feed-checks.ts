/** Checks of `GET /triggers/changes`. */
import type { FeedChange } from '@milkrun/core';
import { parseChanges } from '../feed.ts';
import { feedPageSchema } from '../schemas.ts';
import { type Check, expect, type KitContext } from './hooks.ts';
import type { Probe } from './probe.ts';

interface Page {
  readonly changes: readonly FeedChange[];
  readonly next: string;
  readonly more: boolean;
}

/** One page; refuses an answer or a record that breaks the contract. */
async function readPage(probe: Probe, after: string | null, limit = 1000, wait = 0): Promise<Page> {
  const query = new URLSearchParams({ limit: String(limit), wait: String(wait) });
  if (after !== null) query.set('after', after);
  const answer = await probe.get(`/triggers/changes?${query}`);
  expect(answer.status === 200, `status ${answer.status} instead of 200`);
  const page = feedPageSchema.safeParse(answer.body);
  expect(page.success, 'the body is not { changes, next, more }');
  const { changes, refused } = parseChanges(page.data.changes);
  expect(refused.length === 0, `record ${refused[0]?.index}: ${refused[0]?.reason}`);
  expect(changes.length <= limit, `${changes.length} records for a limit of ${limit}`);
  return { changes, next: page.data.next, more: page.data.more };
}

/** From a cursor to the end of the feed. */
export async function readToEnd(probe: Probe, after: string | null, limit = 1000): Promise<Page> {
  const changes: FeedChange[] = [];
  let cursor = after;
  for (;;) {
    const page = await readPage(probe, cursor, limit);
    changes.push(...page.changes);
    expect(!page.more || page.next !== cursor, 'more is true but the cursor does not move');
    cursor = page.next;
    if (!page.more) return { changes, next: cursor, more: false };
  }
}

export const newestOf = (changes: readonly FeedChange[], triggerId: string): FeedChange | undefined =>
  changes.filter((change) => change.triggerId === triggerId.toLowerCase()).at(-1);

const WRITERS = 8;
const TRIGGERS_PER_WRITER = 6;

async function gapless({ probe, hooks }: KitContext): Promise<void> {
  let cursor = (await readToEnd(probe, null)).next;
  const seen = new Set<string>();
  let writing = true;
  const reader = (async () => {
    for (let last = false; !last; ) {
      last = !writing;
      const page = await readToEnd(probe, cursor, 5);
      for (const { triggerId } of page.changes) seen.add(triggerId);
      cursor = page.next;
    }
  })();
  const made: string[] = [];
  const writers = Array.from({ length: WRITERS }, async () => {
    for (let n = 0; n < TRIGGERS_PER_WRITER; n += 1) made.push((await hooks.createTrigger()).triggerId.toLowerCase());
  });
  const written = Promise.all(writers).finally(() => {
    writing = false;
  });
  await Promise.all([written, reader]);
  const lost = made.filter((id) => !seen.has(id));
  expect(
    lost.length === 0,
    `${lost.length} of ${made.length} triggers made while the feed was read never came: ${lost[0]}`,
  );
}

export const FEED_CHECKS: readonly Check[] = [
  {
    name: 'the feed is read from the beginning to its end, every record valid',
    needs: [],
    async run({ probe }) {
      await readToEnd(probe, null);
    },
  },
  {
    name: 'an empty page returns the same cursor',
    needs: [],
    async run({ probe }) {
      const end = await readToEnd(probe, null);
      const page = await readPage(probe, end.next);
      if (page.changes.length === 0) expect(page.next === end.next, `cursor changed from ${end.next} to ${page.next}`);
    },
  },
  {
    name: 'small pages give the same triggers as large ones',
    needs: [],
    async run({ probe }) {
      const small = (await readToEnd(probe, null, 7)).changes.map(({ triggerId }) => triggerId);
      const large = (await readToEnd(probe, null, 1000)).changes.map(({ triggerId }) => triggerId);
      const missing = large.find((id) => !small.includes(id)) ?? small.find((id) => !large.includes(id));
      expect(missing === undefined, `trigger ${missing} is in one reading only`);
    },
  },
  {
    name: 'a cursor nobody gave out is answered 410 or 400, never with a page',
    needs: [],
    async run({ probe }) {
      const { status } = await probe.get('/triggers/changes?limit=1&wait=0&after=no-such-cursor');
      expect(status === 410 || status === 400, `status ${status}`);
    },
  },
  {
    name: 'a new trigger comes in the feed',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const { next } = await readToEnd(probe, null);
      const trigger = await hooks.createTrigger();
      const change = newestOf((await readToEnd(probe, next)).changes, trigger.triggerId);
      expect(change?.op === 'upsert', 'no upsert of the new trigger');
      expect(change.tenantId === trigger.tenantId, 'the record names another tenant');
      expect(change.connectionId === trigger.connectionId, 'the record names another connection');
    },
  },
  {
    name: 'a waiting reader is answered at the first change',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const { next } = await readToEnd(probe, null);
      const waiting = readPage(probe, next, 1000, 20);
      const trigger = await hooks.createTrigger();
      let page = await waiting;
      if (newestOf(page.changes, trigger.triggerId) === undefined) page = await readPage(probe, page.next, 1000, 20);
      expect(newestOf(page.changes, trigger.triggerId) !== undefined, 'the waiting call did not bring the change');
    },
  },
  {
    name: 'configVersion rises with each change',
    needs: ['createTrigger', 'changeTrigger'],
    async run({ probe, hooks }) {
      const { triggerId } = await hooks.createTrigger();
      const before = newestOf((await readToEnd(probe, null)).changes, triggerId);
      await hooks.changeTrigger(triggerId);
      const after = newestOf((await readToEnd(probe, null)).changes, triggerId);
      expect(before !== undefined && after !== undefined, 'the trigger is not in the feed');
      expect(after.configVersion > before.configVersion, `${before.configVersion} → ${after.configVersion}`);
    },
  },
  {
    name: 'a deleted trigger comes as a delete with a higher version',
    needs: ['createTrigger', 'deleteTrigger'],
    async run({ probe, hooks }) {
      const { triggerId } = await hooks.createTrigger();
      const start = await readToEnd(probe, null);
      await hooks.deleteTrigger(triggerId);
      const gone = newestOf((await readToEnd(probe, start.next)).changes, triggerId);
      expect(gone?.op === 'delete', 'no delete record');
      expect(
        gone.configVersion > (newestOf(start.changes, triggerId)?.configVersion ?? -1),
        'its version did not rise',
      );
    },
  },
  { name: 'the feed is gapless under concurrent writers', needs: ['createTrigger'], run: gapless },
];
