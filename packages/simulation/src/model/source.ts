/** The sources behind the poll function: items that appear, and three ways of giving them away. */
import type { PollReply } from '@milkrun/core';
import type { Item, SourceKind } from '../history.ts';

export interface Source {
  readonly kind: SourceKind;
  readonly items: Item[];
  /** Items a page holds at the most. */
  readonly pageItems: number;
  /** A queue's items that were given away. */
  popped: number;
}

/** A bad item has no data: it goes to dead letters with its raw bytes. */
const shown = (item: Item): unknown => (item.key.startsWith('bad') ? { key: item.key } : item);

/** What a poll of a source answers, and the positions of the items in it. */
export function pageOf(source: Source, cursor: string | null): { reply: PollReply; positions: number[] } {
  const { items, kind, pageItems } = source;
  const from = startOf(source, cursor);
  const given = items.slice(from, from + pageItems);
  const end = from + given.length;
  const positions = given.map((_, at) => from + at);
  if (kind === 'queue') source.popped = end;
  const page = {
    items: given.map(shown),
    cursor: kind === 'listing' ? null : String(end),
    more: kind !== 'listing' && end < items.length,
  };
  return { reply: { code: 'ok', page, bytes: 100 }, positions };
}

function startOf({ kind, items, pageItems, popped }: Source, cursor: string | null): number {
  if (kind === 'queue') return popped;
  if (kind === 'listing') return Math.max(0, items.length - pageItems);
  return cursor === null ? 0 : Number(cursor);
}
