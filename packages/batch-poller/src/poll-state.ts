/** What a trigger remembers of its pages. */
import { rememberKeys } from '@milkrun/core';
import type { FoldedPage } from './fold.ts';

/**
 * What is remembered once `pages` were taken as far as they say: the one rule for the row that is committed and for the
 * state the control plane keeps, so that the two agree.
 */
export function seenAfter(before: Uint8Array | undefined, pages: readonly FoldedPage[], rekeyed: boolean): Uint8Array {
  const listing = pages.findLast((page) => page.record.keys !== undefined)?.record.keys;
  return rememberKeys(
    rekeyed || before === undefined ? new Uint8Array(0) : before,
    keysOf(pages),
    listing === undefined ? undefined : new Uint8Array(Buffer.from(listing, 'base64')),
  );
}

/** Whether pages add anything to what is remembered. */
export function addKeys(pages: readonly FoldedPage[]): boolean {
  return keysOf(pages).byteLength > 0;
}

/** Hashes of the keys that pages add: whole pages all of them, partly delivered pages those of the events taken. */
function keysOf(pages: readonly FoldedPage[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const page of pages) {
    const all = Buffer.from(page.record.newKeys, 'base64');
    if (page.delivered === 'whole' || page.record.events.length === 0) {
      parts.push(all);
      if (page.record.quietKeys !== undefined) parts.push(Buffer.from(page.record.quietKeys, 'base64'));
    } else if (page.delivered !== 'none') {
      const taken = page.delivered;
      page.record.events.forEach((event, index) => {
        if (taken.has(event.eventId)) parts.push(all.subarray(index * 8, index * 8 + 8));
      });
    }
  }
  return Buffer.concat(parts);
}
