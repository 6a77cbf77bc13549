/** What PostgreSQL's jsonb refuses in JSON text: NUL and lone surrogates. */

/** JSON.stringify writes only these two with such an escape: other control characters differ, pairs stand as they are. */
const ESCAPED = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/;

/** Whether JSON text printed by `JSON.stringify` holds one, in a string or a member name. */
export function hasUnstorableJson(text: string): boolean {
  return text.includes('\\u') && ESCAPED.test(text);
}
