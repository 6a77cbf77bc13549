import { encodePollState, SEEN_KEYS_MAX } from '@milkrun/core';
import { expect, test } from 'vitest';
import type { FoldedPage } from '../src/fold.ts';
import { addKeys, seenAfter } from '../src/poll-state.ts';
import { eventsOf, resultRecord } from './factories.ts';

const page = (
  keys: readonly string[],
  delivered: FoldedPage['delivered'] = 'whole',
  more: Parameters<typeof resultRecord>[0] = {},
): FoldedPage => ({
  at: { object: 'results/0.1-0', line: 0 },
  record: resultRecord({ events: eventsOf(...keys), ...more }),
  delivered,
});
const hashes = (...keys: string[]): Buffer =>
  Buffer.from(resultRecord({ events: eventsOf(...keys) }).newKeys, 'base64');
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const decoded = (text: string | undefined) => JSON.parse(Buffer.from(text ?? '', 'base64').toString());

test('a poll state holds cursor, keys and version as they are', () => {
  const memory = { cursor: '{"at":1e400}', seen: hashes('a'), version: 'v "2"' };
  const text = Buffer.from(encodePollState(memory) ?? '', 'base64').toString();
  expect(text).toBe(`{"v":1,"cursor":{"at":1e400},"seen":"${hashes('a').toString('base64')}","version":"v \\"2\\""}`);
  expect(decoded(encodePollState({ cursor: null, seen: new Uint8Array(0), version: null }))).toEqual({
    v: 1,
    cursor: null,
    seen: '',
    version: null,
  });
});

test('a poll state of 96 KiB is kept, and a larger one is none', () => {
  const ofChars = (chars: number) =>
    encodePollState({ cursor: `"${'c'.repeat(chars)}"`, seen: new Uint8Array(0), version: null });
  const frame = Buffer.from(ofChars(0) ?? '', 'base64').length;
  const fits = (96 * 1024 * 3) / 4 - frame;
  expect(ofChars(fits)).toHaveLength(96 * 1024);
  expect(ofChars(fits + 1)).toBeUndefined();
});

test('whole pages add all their keys, partly taken ones those of the events taken, others none', () => {
  const b = eventsOf('b')[0]?.eventId as string;
  const quietKeys = hashes('q').toString('base64');
  const pages = [
    page(['a'], 'whole', { quietKeys }),
    page(['x', 'b', 'y'], new Set([b]), { quietKeys: hashes('unheard').toString('base64') }),
    page(['c'], 'none'),
    page([], 'none', { quietKeys: hashes('p').toString('base64') }),
  ];
  expect(hex(seenAfter(hashes('old'), pages, false))).toBe(hex(hashes('old', 'a', 'q', 'b', 'p')));
  expect(hex(seenAfter(undefined, pages.slice(0, 1), false))).toBe(hex(hashes('a', 'q')));
  expect(hex(seenAfter(hashes('old'), pages.slice(0, 1), true))).toBe(hex(hashes('a', 'q')));
  expect([addKeys(pages), addKeys([page(['c'], 'none')]), addKeys([page([])])]).toEqual([true, false, false]);
});

test('above the limit keys of the last listing stay, and the oldest others go', () => {
  const full = Array.from({ length: SEEN_KEYS_MAX }, (_, n) => `k${n}`);
  const listing = hashes('k0', 'new').toString('base64');
  const earlier = page([], 'whole', { keys: hashes('k1').toString('base64') });
  const kept = hex(seenAfter(hashes(...full), [earlier, page(['new'], 'whole', { keys: listing })], false));
  expect(kept).toBe(hex(hashes('k0', ...full.slice(2), 'new')));
  expect(hex(seenAfter(hashes(...full), [page(['new'])], false))).toBe(hex(hashes(...full.slice(1), 'new')));
});
