import { expect, test } from 'vitest';
import { decodePollState, encodePollState, hasUnstorableJson, keyHashOf, SEEN_KEYS_MAX } from '../src/index.ts';

const NONE = new Uint8Array(0);
const packed = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64');

test('a poll state holds cursor, keys and version as they are', () => {
  const seen = keyHashOf('a');
  const text = encodePollState({ cursor: '{"at":1e400}', seen, version: 'v "2"' }) ?? '';
  const base64 = Buffer.from(seen).toString('base64');
  expect(Buffer.from(text, 'base64').toString()).toBe(
    `{"v":1,"cursor":{"at":1e400},"seen":"${base64}","version":"v \\"2\\""}`,
  );
  const plain = encodePollState({ cursor: '{"page":3}', seen, version: '1' });
  expect(decodePollState(plain)).toEqual({ cursor: '{"page":3}', seen: base64, version: '1' });
  const empty = encodePollState({ cursor: null, seen: NONE, version: null });
  expect(decodePollState(empty)).toEqual({ cursor: 'null', seen: '', version: null });
});

test('a poll state of 96 KiB is kept, and a larger one is none', () => {
  const ofChars = (chars: number) => encodePollState({ cursor: `"${'c'.repeat(chars)}"`, seen: NONE, version: null });
  const frame = Buffer.from(ofChars(0) ?? '', 'base64').length;
  const fits = (96 * 1024 * 3) / 4 - frame;
  expect(ofChars(fits)).toHaveLength(96 * 1024);
  expect(ofChars(fits + 1)).toBeUndefined();
});

test.each([
  undefined,
  '',
  'no base64 of JSON',
  packed(null),
  packed({ v: 2, cursor: null, seen: '' }),
  packed({ v: 1, cursor: null, seen: 7 }),
  packed({ v: 1, cursor: null, seen: 'not base64!' }),
  packed({ v: 1, cursor: null, seen: Buffer.alloc(7).toString('base64') }),
  packed({ v: 1, cursor: null, seen: Buffer.alloc((SEEN_KEYS_MAX + 1) * 8).toString('base64') }),
  packed({ v: 1, cursor: 'a\0', seen: '' }),
  packed({ v: 1, cursor: { '\ud800': 1 }, seen: '' }),
  packed({ v: 1, cursor: null, seen: '', version: '\0' }),
])('%s is no poll state', (text) => {
  expect(decodePollState(text)).toBeUndefined();
});

test.each([
  ['a\0', true],
  ['\ud800', true],
  ['\udfff tail', true],
  ['\\\0', true],
  ['\u0001', false],
  ['😀', false],
  ['\\u0000 as text', false],
  ['\\\\ud800 as text', false],
])('JSON text of %j is unstorable: %s', (text, unstorable) => {
  expect(hasUnstorableJson(JSON.stringify(text))).toBe(unstorable);
  expect(hasUnstorableJson(JSON.stringify({ [text]: [text] }))).toBe(unstorable);
});
