/**
 * The poll contract's answer, read from bytes: a page, a failure the connector names, or `poll.response_invalid`.
 *
 * Only the page is judged here; a bad item is the caller's to dead-letter. Nothing of the answer is copied by name, so
 * an own `__proto__` stays data.
 */
import { isUtf8 } from 'node:buffer';
import type { PollPage, PollReply } from '@milkrun/core';
import { CursorInvalid, cursorTextOf } from './cursor-text.ts';
import { retryAfterSeconds } from './retry-after.ts';

const VERSION_LENGTH_MAX = 128;
const MESSAGE_LENGTH_MAX = 500;

/** Class of a connector's failure → code. */
const CODE_OF_CLASS = new Map<unknown, Exclude<PollReply['code'], 'ok' | 'aborted'>>([
  ['transient', 'poll.connector_error'],
  ['connector', 'poll.connector_error'],
  ['rate_limited', 'poll.rate_limited'],
  ['auth', 'poll.auth_rejected'],
  ['permanent', 'poll.permanent'],
]);

/** `answerDate` is the answer's own `Date` header, for a `retryAfter` given as a date. */
export function readAnswer(body: Buffer, answerDate: string | undefined): PollReply {
  if (!isUtf8(body)) return invalid('answer is not UTF-8');
  const text = body.toString();
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    return invalid(text.length === 0 ? 'answer is empty' : 'answer is not JSON');
  }
  if (typeof answer !== 'object' || answer === null || Array.isArray(answer)) return invalid('answer is no object');
  const fields = answer as Readonly<Record<string, unknown>>;
  if (fields.error !== undefined && fields.error !== null) return failureOf(fields.error, answerDate);
  return pageOf(fields, text, body.length, answerDate);
}

function pageOf(
  fields: Readonly<Record<string, unknown>>,
  text: string,
  bytes: number,
  answerDate: string | undefined,
): PollReply {
  const { events, cursor, more, retryAfter, version, rekeys } = fields;
  if (!Array.isArray(events)) return invalid('events is no list');
  if (cursor === undefined) return invalid('cursor is missing');
  if (more !== undefined && more !== null && typeof more !== 'boolean') return invalid('more is no boolean');
  if (rekeys !== undefined && rekeys !== null && typeof rekeys !== 'boolean') return invalid('rekeys is no boolean');
  let cursorText: string | null;
  try {
    cursorText = cursorTextOf(cursor, text);
  } catch (error) {
    if (error instanceof CursorInvalid) return invalid(error.message);
    throw error;
  }
  const page: { -readonly [Name in keyof PollPage]: PollPage[Name] } = {
    items: events,
    cursor: cursorText,
    more: more === true,
  };
  if (retryAfter !== undefined && retryAfter !== null) {
    const seconds = retryAfterSeconds(retryAfter, answerDate);
    if (seconds === undefined) return invalid('retryAfter is no duration');
    page.retryAfterSeconds = seconds;
  }
  if (version !== undefined && version !== null) {
    if (typeof version !== 'string' || version.length > VERSION_LENGTH_MAX || !isStorable(version)) {
      return invalid('version is no short text');
    }
    page.version = version;
  }
  if (rekeys === true) page.rekeys = true;
  return { code: 'ok', page, bytes };
}

function failureOf(error: unknown, answerDate: string | undefined): PollReply {
  if (typeof error !== 'object' || error === null) return invalid('error is no object');
  const fields = error as Readonly<Record<string, unknown>>;
  const code = CODE_OF_CLASS.get(fields.class);
  if (code === undefined) return invalid('error.class is not one of the poll contract');
  const message = messageOf(fields.message, 'the connector gave no message');
  const seconds = retryAfterSeconds(fields.retryAfter, answerDate);
  return seconds === undefined ? { code, message } : { code, message, retryAfterSeconds: seconds };
}

function invalid(message: string): PollReply {
  return { code: 'poll.response_invalid', message };
}

const isStorable = (text: string): boolean => text.isWellFormed() && !text.includes('\0');

/** Foreign text for a log line or an explanation: one line, short, well-formed; `otherwise` when there is none. */
export function messageOf(value: unknown, otherwise: string): string {
  if (typeof value !== 'string') return otherwise;
  const cut = value.slice(0, MESSAGE_LENGTH_MAX).toWellFormed();
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed.
  const line = cut.replace(/[\x00-\x1f\x7f]+/g, ' ').trim();
  return line === '' ? otherwise : line;
}
