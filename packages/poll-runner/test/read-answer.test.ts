import { describe, expect, it } from 'vitest';
import { readAnswer } from '../src/read-answer.ts';
import { retryAfterSeconds } from '../src/retry-after.ts';

const read = (text: string | Buffer) => readAnswer(Buffer.from(text as string), undefined);
const page = (text: string) => {
  const reply = read(text);
  if (reply.code !== 'ok') throw new Error(`${reply.code}: ${text}`);
  return reply.page;
};

describe('readAnswer', () => {
  it('reads the empty page', () => {
    expect(read('{"events":[],"cursor":"c1"}')).toEqual({
      code: 'ok',
      page: { items: [], cursor: '"c1"', more: false },
      bytes: 27,
    });
  });

  it('reads every field of a page', () => {
    const text = '{"events":[{"key":"a"},7],"cursor":{"n":1},"more":true,"retryAfter":30,"version":"2","rekeys":true}';
    expect(page(text)).toEqual({
      items: [{ key: 'a' }, 7],
      cursor: '{"n":1}',
      more: true,
      retryAfterSeconds: 30,
      version: '2',
      rekeys: true,
    });
  });

  it.each([
    ['null cursor', 'null', null],
    ['number', '17', '17'],
    ['number beyond 2^53, as written', '12345678901234567890', '12345678901234567890'],
    ['such a number inside, spaced', '{ "id" : 12345678901234567890 }', '{ "id" : 12345678901234567890 }'],
    ['long fraction', '0.10000000000000000555', '0.10000000000000000555'],
    ['beyond a double, which a parse would make null', '[1e999]', '[1e999]'],
    ['spaced object without such numbers, printed', '{ "a" : [ 1 , "x" ] }', '{"a":[1,"x"]}'],
    ['own __proto__', '{"__proto__":{"x":1}}', '{"__proto__":{"x":1}}'],
    ['surrogate pair', '"\\ud83d\\ude00"', '"😀"'],
    ['escaped backslash before u0000', '"\\\\u0000"', '"\\\\u0000"'],
    ['other control characters', '"\\u0001"', '"\\u0001"'],
  ])('keeps a cursor: %s', (_name, json, expected) => {
    expect(page(`{"cursor":${json},"events":[]}`).cursor).toBe(expected);
    expect(page(`{ "events": [], "cursor" :\n${json} }`).cursor).toBe(expected);
  });

  it('takes the last of two cursors, also where it must be cut out of the text', () => {
    expect(page('{"cursor":1,"events":[{"cursor":3}],"cursor":  12345678901234567890}').cursor).toBe(
      '12345678901234567890',
    );
  });

  it.each([
    ['empty', ''],
    ['not JSON', '{"events":[]'],
    ['not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['a list', '[]'],
    ['null', 'null'],
    ['a string', '"x"'],
    ['no events', '{"cursor":null}'],
    ['events an object', '{"events":{"length":0},"cursor":null}'],
    ['no cursor', '{"events":[]}'],
    ['fields only on __proto__', '{"__proto__":{"events":[],"cursor":null}}'],
    ['more a string', '{"events":[],"cursor":null,"more":"false"}'],
    ['rekeys a number', '{"events":[],"cursor":null,"rekeys":1}'],
    ['retryAfter negative', '{"events":[],"cursor":null,"retryAfter":-1}'],
    ['retryAfter infinite', '{"events":[],"cursor":null,"retryAfter":1e999}'],
    ['version a number', '{"events":[],"cursor":null,"version":3}'],
    ['version long', `{"events":[],"cursor":null,"version":"${'v'.repeat(129)}"}`],
    ['version with NUL', '{"events":[],"cursor":null,"version":"\\u0000"}'],
    ['cursor with NUL', '{"events":[],"cursor":"a\\u0000b"}'],
    ['cursor with a NUL in a name', '{"events":[],"cursor":{"\\u0000":1}}'],
    ['cursor with a lone high surrogate', '{"events":[],"cursor":"\\uD83D"}'],
    ['cursor with a lone low surrogate behind a backslash', '{"events":[],"cursor":"\\\\\\ude00"}'],
    ['cursor of 16 KiB and a byte', `{"events":[],"cursor":"${'x'.repeat(16_383)}"}`],
    ['cursor large in bytes only', `{"events":[],"cursor":"${'ü'.repeat(8_192)}"}`],
    ['cursor nested too deeply to print', `{"events":[],"cursor":${'['.repeat(100_000)}${']'.repeat(100_000)}}`],
    ['error a string', '{"error":"transient"}'],
    ['error of no known class', '{"error":{"class":"constructor","message":"m"}}'],
    ['error without class', '{"error":{"message":"m"}}'],
  ])('refuses %s', (_name, text) => {
    expect(read(text).code).toBe('poll.response_invalid');
  });

  it('takes a cursor of exactly 16 KiB, and one nested as deeply as fits', () => {
    expect(page(`{"events":[],"cursor":"${'x'.repeat(16_382)}"}`).cursor).toHaveLength(16_384);
    const deep = `${'['.repeat(2_000)}0.30000000000000000001${']'.repeat(2_000)}`;
    expect(page(`{"events":[],"cursor": ${deep}}`).cursor).toBe(deep);
  });

  it.each([
    ['transient', 'poll.connector_error'],
    ['connector', 'poll.connector_error'],
    ['rate_limited', 'poll.rate_limited'],
    ['auth', 'poll.auth_rejected'],
    ['permanent', 'poll.permanent'],
  ])('names a failure of class %s %s', (errorClass, code) => {
    const text = JSON.stringify({
      error: { class: errorClass, message: 'why\n\u0000\ud800', retryAfter: 9 },
      events: [],
    });
    expect(read(text)).toEqual({ code, message: 'why �', retryAfterSeconds: 9 });
  });

  it('cuts a failure’s message and does without one', () => {
    const long = read(`{"error":{"class":"auth","message":"${'m'.repeat(5_000)}"}}`);
    expect(long).toMatchObject({ message: 'm'.repeat(500) });
    expect(read('{"error":{"class":"auth","message":{}}}')).toMatchObject({ message: 'the connector gave no message' });
  });
});

describe('retryAfterSeconds', () => {
  const date = 'Wed, 25 Nov 2026 05:00:00 GMT';
  it.each([
    ['seconds', '120', date, 120],
    ['a number', 1.5, date, 1.5],
    ['a date less the answer’s own', 'Wed, 25 Nov 2026 05:01:30 GMT', date, 90],
    ['a date in the past', 'Wed, 25 Nov 2026 04:00:00 GMT', date, 0],
    ['a date without the answer’s own', 'Wed, 25 Nov 2026 05:01:30 GMT', undefined, undefined],
    ['nonsense', 'soon', date, undefined],
    ['negative', -1, date, undefined],
    ['nothing', undefined, date, undefined],
  ])('reads %s', (_name, value, own, expected) => {
    expect(retryAfterSeconds(value, own)).toBe(expected);
  });
});
