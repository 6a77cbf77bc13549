/**
 * Reading the change feed: pages, cursors, and waiting for the next change.
 *
 * A cursor is `{feed}.{base}.{seq}`: which database it belongs to, where the feed ended when the reading began from the
 * start, and the last row read. Rows up to `base` are the state of things (instructions that are done are left out,
 * what the engine remembered is given back); rows behind it are changes, each of which is shown.
 */
import { sql } from 'drizzle-orm';
import type { Store } from './database.ts';
import { FEED_CHANNEL } from './feed-append.ts';

export interface FeedPage {
  /** Records as JSON text. */
  readonly changes: readonly string[];
  readonly next: string;
  readonly more: boolean;
}

export interface Feed {
  /** One page, or `expired` when the cursor is unknown or older than the oldest tombstone. */
  read(after: string | null, limit: number): Promise<FeedPage | 'expired'>;
  /** A number that rises with each change this process has heard of. */
  heard(): number;
  /** Resolves when `heard()` is above `since`, after `ms`, or when the signal aborts; says nothing about which. */
  wait(since: number, ms: number, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** Bytes of records and states in one page; a single larger record still comes, alone. */
const PAGE_BYTES = 4 * 1024 * 1024;

/**
 * A state that a poll of this version or a later one has reported says that the change's instruction was carried out. One
 * of an earlier version says nothing, however late it came: its poll was in flight. Engines that name no version are taken
 * by the time of their report.
 */
const DONE = sql`(p.poll_state is not null and coalesce(p.config_version >= t.config_version, p.updated_at > t.changed_at))`;

interface Cursor {
  readonly base: number;
  readonly seq: number;
}

/** Resolves once the database tells of changes: a reader that waits from then on misses none. */
export async function createFeed({ db, sql: client }: Store): Promise<Feed> {
  let heard = 0;
  const waiting = new Set<() => void>();
  const hear = (): void => {
    heard += 1;
    for (const wake of waiting) wake();
  };
  // Behind a pooler that cannot LISTEN, readers look again every second instead.
  const listener = await client.listen(FEED_CHANNEL, hear).catch(() => undefined);

  async function read(after: string | null, limit: number): Promise<FeedPage | 'expired'> {
    const [state] = await db.execute<{ feed_id: string; purged: string; head: string }>(sql`
      select feed_id, purged_seq as purged, greatest(purged_seq, (select coalesce(max(seq), 0) from trigger_changes)) as head
      from feed_state`);
    if (state === undefined) throw new Error('feed_state has no row');
    const head = Number(state.head);
    const cursor = after === null ? { base: head, seq: 0 } : parse(after, state.feed_id);
    if (cursor === undefined || cursor.seq > head || Math.max(cursor.base, cursor.seq) < Number(state.purged)) {
      return 'expired';
    }
    const rows = await db.execute<Row>(sql`
      with page as (
        select c.*, sum(octet_length(c.record) + coalesce(octet_length(c.poll_state), 0)) over (order by c.seq) as bytes
        from (select t.*, p.primed, p.poll_state, p.config_version = 0 as imported, l.owner, l.ownership_epoch, t.seq <= ${cursor.base} and coalesce(${DONE}, false) as done
              from trigger_changes t left join poll_states p on p.trigger_id = t.trigger_id
              left join legacy_triggers l on l.trigger_id = t.trigger_id
              where t.seq > ${cursor.seq} and (not t.superseded or t.seq > ${cursor.base} or not coalesce(${DONE}, false))
              order by t.seq limit ${limit + 1}) c)
      select seq, trigger_id, config_version, op, record, rewind_cursor, poll_now, resume, primed, poll_state, imported, done, owner, ownership_epoch
      from page where bytes is null or bytes <= ${PAGE_BYTES} or seq = (select min(seq) from page) order by seq`);
    const shown = rows.slice(0, limit);
    const seq = shown.length === 0 ? cursor.seq : Number(shown.at(-1)?.seq);
    const next = shown.length === 0 && after !== null ? after : `${state.feed_id}.${cursor.base}.${seq}`;
    // A page cut by bytes has fewer rows than were asked for, so the end is known by the head, not by the count.
    return { changes: shown.map((row) => textOf(row, cursor)), next, more: shown.length > 0 && seq < head };
  }

  return {
    read,
    heard: () => heard,
    wait(since, ms, signal) {
      if (heard > since || signal.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          waiting.delete(done);
          signal.removeEventListener('abort', done);
          resolve();
        };
        const timer = setTimeout(done, ms);
        waiting.add(done);
        signal.addEventListener('abort', done);
      });
    },
    async close() {
      await listener?.unlisten();
    },
  };
}

interface Row extends Record<string, unknown> {
  seq: string;
  trigger_id: string;
  config_version: string;
  op: 'upsert' | 'delete';
  record: string | null;
  rewind_cursor: string | null;
  poll_now: boolean;
  resume: string | null;
  primed: boolean | null;
  poll_state: string | null;
  imported: boolean | null;
  done: boolean;
  owner: string | null;
  ownership_epoch: number | null;
}

function textOf(row: Row, cursor: Cursor): string {
  if (row.record === null) {
    return JSON.stringify({ op: 'delete', triggerId: row.trigger_id, configVersion: Number(row.config_version) });
  }
  // What was imported nobody has told the engine: it comes with the trigger, whenever that is read.
  const isState = Number(row.seq) <= cursor.base || row.imported === true;
  const isDone = row.done;
  const parts = [row.record.slice(0, -1), `"primed":${row.primed ?? false}`];
  // On its way to v2 it is legacy's until the hand-off says otherwise; on its way to legacy it is still v2's.
  const isMoved = (row.ownership_epoch ?? 0) > 0 && (row.owner === 'legacy' || row.owner === 'v2');
  if (row.owner === 'legacy' || row.owner === 'to_v2') parts.push('"pipeline":"legacy"');
  else if (isMoved) parts.push('"pipeline":"v2"');
  if (isMoved) parts.push(`"ownershipEpoch":${row.ownership_epoch}`);
  if (!isDone && row.rewind_cursor !== null) parts.push(`"cursor":${row.rewind_cursor}`);
  if (!isDone && row.poll_now) parts.push('"pollNow":true');
  if (!isDone && row.resume !== null) parts.push(`"resume":${JSON.stringify(row.resume)}`);
  // An engine that has forgotten a move needs the memory too.
  if ((isState || isMoved) && row.poll_state !== null) parts.push(`"pollState":${JSON.stringify(row.poll_state)}`);
  return `${parts.join(',')}}`;
}

function parse(text: string, feedId: string): Cursor | undefined {
  const [, feed, base, seq] = /^([0-9a-f]+)\.(\d{1,15})\.(\d{1,15})$/.exec(text) ?? [];
  return feed === feedId ? { base: Number(base), seq: Number(seq) } : undefined;
}
