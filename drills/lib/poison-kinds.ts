/**
 * Data that nobody should send, one kind a way it can be wrong, each with the end it must come to. What a poll function, a
 * `/conn/batch` and a `/state` may say is covered; every body is written as text, since most of it no honest serializer
 * makes.
 */
import type { AskedConnection, Scripted, SentResult } from '@milkrun/testkit';

interface PoisonEnd {
  readonly code: string;
  readonly halt?: string;
  /** Keys of the items that must be told, in order. */
  readonly told: readonly string[];
  readonly deadLetters: number;
  /** JSON text of the cursor as PostgreSQL prints it; absent: the one from before the poison. */
  readonly cursor?: string;
}

export interface PoisonKind {
  readonly name: string;
  readonly ends: PoisonEnd;
  /** What the poll function answers; an honest page when absent. */
  readonly polled?: Scripted;
  /** What `/conn/batch` says of the connection, as JSON texts of records. */
  readonly connection?: (ask: AskedConnection) => readonly string[];
  /** What `/state` says of the trigger, as JSON texts of statuses; what it accepts it must say itself. */
  readonly state?: (result: SentResult) => readonly string[];
}

/** Key of the item an honest page holds. */
export const ITEM = 'new';

const MIB = 1024 * 1024;
const nested = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels);
const page = (events: string, cursor = '1', rest = ''): Scripted => ({
  body: `{"events":[${events}],"cursor":${cursor}${rest}}`,
});
const item = (key: string, data = '1'): string => `{"key":"${key}","data":${data}}`;

const invalid: PoisonEnd = { code: 'poll.response_invalid', told: [], deadLetters: 0 };
const told = (cursor: string, keys: readonly string[], deadLetters = 0): PoisonEnd => ({
  code: 'ok',
  told: keys,
  deadLetters,
  cursor,
});
const unanswered: PoisonEnd = { code: 'auth.missing', told: [], deadLetters: 0 };
const untaken: PoisonEnd = { code: 'broadcast.unavailable', told: [], deadLetters: 0 };

const record = ({ connectionId, tenantId }: AskedConnection, rest: string): string =>
  `{"connectionId":${JSON.stringify(connectionId)},"tenantId":${JSON.stringify(tenantId)},${rest}}`;
const active = (ask: AskedConnection): string => record(ask, '"status":"active","auth":{"token":"t"}');
const status = ({ triggerId }: SentResult, rest: string): string => `{"triggerId":"${triggerId}",${rest}}`;

export const POISON_KINDS: readonly PoisonKind[] = [
  // What stands in an answer that is a page.
  { name: 'NUL in data', polled: page(item('nul', '"a\\u0000b"')), ends: told('1', ['nul']) },
  { name: 'lone surrogate in data', polled: page(item('half', '{"\\ud800":1}')), ends: told('1', ['half']) },
  {
    name: '__proto__ everywhere',
    polled: page(item('p', '{"__proto__":{"polluted":1}}'), '{"__proto__":1,"at":2}', ',"__proto__":{"more":true}'),
    ends: told('{"at": 2, "__proto__": 1}', ['p']),
  },
  { name: 'one key twice', polled: page(`${item('twice')},${item('twice', '2')}`), ends: told('1', ['twice']) },
  {
    name: 'items of wrong types',
    polled: page(`7,null,"text",[],${item('good')},{"key":5,"data":1},{"key":"no data"}`),
    ends: told('1', ['good'], 6),
  },
  {
    name: 'key over 512 bytes',
    polled: page(`${item('k'.repeat(513))},${item('good')}`),
    ends: told('1', ['good'], 1),
  },
  {
    name: 'occurredAt that is no time',
    polled: page(`{"key":"when","occurredAt":"yesterday","data":1},${item('good')}`),
    ends: told('1', ['good'], 1),
  },
  {
    name: 'item deeper than the stack',
    polled: page(`${item('before')},${item('deep', nested(20_000))},${item('after')}`),
    ends: told('1', ['before', 'after'], 1),
  },
  {
    name: 'event too large for any chunk',
    polled: page(`${item('huge', `"${'x'.repeat(MIB - 20_000)}"`)},${item('good')}`),
    ends: told('1', ['good'], 1),
  },
  {
    name: 'numbers no double holds',
    polled: page(item('n', '-1e400'), '{"at":123456789012345678901234567890.5}'),
    ends: told('{"at": 123456789012345678901234567890.5}', ['n']),
  },
  { name: 'more for ever without moving', polled: page('', '0', ',"more":true'), ends: told('0', []) },
  // What makes a page unusable.
  { name: 'NUL in the cursor', polled: page(item('a'), '"a\\u0000"'), ends: invalid },
  { name: 'lone surrogate in the cursor', polled: page(item('a'), '["\\udfff"]'), ends: invalid },
  { name: 'NUL in a key', polled: page(`${item('good')},${item('a\\u0000')}`), ends: invalid },
  { name: 'cursor of 64 KiB', polled: page(item('a'), `"${'c'.repeat(65_536)}"`), ends: invalid },
  { name: 'cursor number too large for PostgreSQL', polled: page('', '{"at":1e200000}'), ends: invalid },
  { name: 'no cursor', polled: { body: `{"events":[${item('a')}]}` }, ends: invalid },
  { name: 'events that are no list', polled: { body: '{"events":{"0":1,"length":1},"cursor":1}' }, ends: invalid },
  { name: 'more that is no boolean', polled: page(item('a'), '1', ',"more":"yes"'), ends: invalid },
  { name: 'retryAfter that is no duration', polled: page(item('a'), '1', ',"retryAfter":"soon"'), ends: invalid },
  { name: 'version with a NUL', polled: page(item('a'), '1', ',"version":"1\\u0000"'), ends: invalid },
  { name: 'rekeys without a version', polled: page(item('a'), '1', ',"rekeys":true'), ends: invalid },
  { name: 'no JSON', polled: { body: '{"events":[' }, ends: invalid },
  { name: 'nothing', polled: { body: '' }, ends: invalid },
  { name: 'a list', polled: { body: nested(30_000) }, ends: invalid },
  { name: 'bytes that are no UTF-8', polled: { body: Buffer.from([0x7b, 0xff, 0xfe, 0x7d]) }, ends: invalid },
  {
    name: 'an error of an unknown class',
    polled: { body: '{"error":{"class":"mystery","message":"\\u0000"}}' },
    ends: invalid,
  },
  {
    name: 'a body of 6 MB',
    polled: page(item('a', `"${'x'.repeat(6 * MIB)}"`)),
    ends: { code: 'poll.too_large', told: [], deadLetters: 0 },
  },
  {
    name: 'a failure with a message of 100 KB and control characters',
    polled: { body: `{"error":{"class":"permanent","message":"\\u0000\\u001b[31m\\ud800${'m'.repeat(100_000)}"}}` },
    ends: { code: 'poll.permanent', told: [], deadLetters: 0 },
  },
  {
    name: 'a function error that is no JSON',
    polled: { headers: { 'x-amz-function-error': 'Unhandled' }, body: '\u0000\ud800' },
    ends: { code: 'poll.connector_error', told: [], deadLetters: 0 },
  },
  {
    name: 'a listing longer than can be remembered',
    polled: page(Array.from({ length: 5_001 }, (_, n) => item(`k${n}`)).join(',')),
    ends: { code: 'poll.listing_too_large', told: [], deadLetters: 0 },
  },
  // What /conn/batch says.
  { name: 'a connection named twice', connection: (ask) => [active(ask), active(ask)], ends: unanswered },
  {
    name: 'auth that is a list',
    connection: (ask) => [record(ask, '"status":"active","auth":["t"]')],
    ends: unanswered,
  },
  {
    name: 'auth nested 5,000 deep',
    connection: (ask) => [record(ask, `"status":"active","auth":{"a":${nested(5_000)}}`)],
    ends: unanswered,
  },
  {
    name: 'expiresAt that is no time',
    connection: (ask) => [record(ask, '"status":"active","auth":{},"expiresAt":"0000-01-01T00:00:00Z"')],
    ends: unanswered,
  },
  {
    name: 'auth with a __proto__',
    connection: (ask) => [record(ask, '"status":"active","auth":{"__proto__":{"polluted":1},"token":"t"}')],
    ends: told('1', [ITEM]),
  },
  {
    name: 'a reason of 100 KB with a NUL',
    connection: (ask) => [record(ask, `"status":"revoked","reason":"\\u0000${'r'.repeat(100_000)}"`)],
    ends: { code: 'auth.revoked', halt: 'auth.revoked', told: [], deadLetters: 0 },
  },
  // What /state says.
  { name: 'a status of an unknown name', state: (result) => [status(result, '"status":"maybe"')], ends: untaken },
  {
    name: 'two statuses that contradict',
    state: (result) => [status(result, '"status":"accepted"'), status(result, '"status":"gone"')],
    ends: untaken,
  },
  {
    name: 'a refusal whose reason holds a NUL',
    state: (result) =>
      result.events.length === 0
        ? [status(result, '"status":"accepted"')]
        : [status(result, `"status":"rejected","eventId":"${result.events[0]?.id}","reason":"\\u0000\\ud800 no"`)],
    ends: told('1', [], 1),
  },
];
