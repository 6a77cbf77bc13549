/**
 * The opaque poll state the control plane keeps for a trigger: what workerdb needs to go on after it was rebuilt from the
 * feed. Base64 of JSON `{ v, cursor, seen, version }`, ≤ 96 KiB.
 */
import type { FoldedPage } from './fold.ts';

export interface Memory {
  /** JSON text or null. */
  readonly cursor: string | null;
  readonly seen: Uint8Array;
  readonly version: string | null;
}

const POLL_STATE_BYTES_MAX = 96 * 1024;

/** The poll state of a memory, or undefined when it would not fit. */
export function encodePollState(memory: Memory): string | undefined {
  const json = `{"v":1,"cursor":${memory.cursor ?? 'null'},"seen":"${Buffer.from(memory.seen).toString('base64')}","version":${JSON.stringify(memory.version)}}`;
  const text = Buffer.from(json, 'utf8').toString('base64');
  return text.length > POLL_STATE_BYTES_MAX ? undefined : text;
}

/** Hashes of the keys that pages add: whole pages all of them, partly delivered pages those of the events taken. */
export function keysOf(pages: readonly FoldedPage[]): Uint8Array {
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
