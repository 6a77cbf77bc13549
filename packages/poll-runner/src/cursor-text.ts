/** A cursor as JSON text: bounded, free of what PostgreSQL cannot store, and with its numbers as they were written. */
import { memberText } from './json-slice.ts';

const CURSOR_BYTES_MAX = 16 * 1024;
const UTF8_BYTES_PER_UNIT_MAX = 3;
/** In text printed by JSON.stringify only NUL and lone surrogates are written so (other control characters differ). */
const UNSTORABLE = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/;

/**
 * The text of `cursor`, which was parsed from `answer`. Null for a null cursor.
 *
 * Throws CursorInvalid, with a message for people, when it cannot be kept.
 */
export function cursorTextOf(cursor: unknown, answer: string): string | null {
  if (cursor === null) return null;
  const text = print(cursor);
  assertSmall(text);
  if (text.includes('\\u') && UNSTORABLE.test(text)) {
    throw new CursorInvalid('cursor holds a NUL or a lone surrogate');
  }
  if (typeof cursor === 'string' || typeof cursor === 'boolean') return text;
  if (standsAsPrinted(text, answer) || !hasInexactNumber(cursor)) return text;
  const asWritten = memberText(answer, 'cursor') ?? text;
  assertSmall(asWritten);
  return asWritten;
}

export class CursorInvalid extends Error {
  override readonly name = 'CursorInvalid';
}

function print(cursor: unknown): string {
  try {
    return JSON.stringify(cursor);
  } catch (cause) {
    // Nested too deeply to print.
    throw new CursorInvalid('cursor cannot be printed', { cause });
  }
}

function assertSmall(text: string): void {
  if (text.length * UTF8_BYTES_PER_UNIT_MAX <= CURSOR_BYTES_MAX) return;
  const bytes = Buffer.byteLength(text);
  if (bytes > CURSOR_BYTES_MAX) throw new CursorInvalid(`cursor is ${bytes} bytes, ${CURSOR_BYTES_MAX} are allowed`);
}

/** Whether the answer holds the printed text itself: then nothing was lost. True for every compact writer. */
function standsAsPrinted(text: string, answer: string): boolean {
  const name = '"cursor":';
  const at = answer.lastIndexOf(name + text);
  const after = at < 0 ? undefined : answer[at + name.length + text.length];
  return after === ',' || after === '}';
}

/** Without recursion: a cursor may be nested thousands deep. */
function hasInexactNumber(cursor: unknown): boolean {
  const open = [cursor];
  while (open.length > 0) {
    const value = open.pop();
    if (typeof value === 'number' && !Number.isSafeInteger(value)) return true;
    if (typeof value === 'object' && value !== null) open.push(...Object.values(value));
  }
  return false;
}
