/**
 * The text of one top-level member of a JSON object, exactly as it was written.
 *
 * For numbers that a parse and a print would change (beyond 2^53, long fractions). The text must have been accepted by
 * JSON.parse; the last member of a double name counts, as there.
 */
export function memberText(json: string, name: string): string | undefined {
  let found: string | undefined;
  let at = skipSpace(json, json.indexOf('{') + 1);
  while (json[at] === '"') {
    const nameEnd = stringEnd(json, at);
    const isWanted = JSON.parse(json.slice(at, nameEnd)) === name;
    const start = skipSpace(json, skipSpace(json, nameEnd) + 1);
    const end = valueEnd(json, start);
    if (isWanted) found = json.slice(start, end);
    at = skipSpace(json, end);
    if (json[at] !== ',') return found;
    at = skipSpace(json, at + 1);
  }
  return found;
}

function skipSpace(json: string, from: number): number {
  let at = from;
  while (at < json.length && json.charCodeAt(at) <= 0x20) at += 1;
  return at;
}

/** One past the closing quote of the string that opens at `from`. */
function stringEnd(json: string, from: number): number {
  for (let at = from + 1; at < json.length; at += 1) {
    const mark = json[at];
    if (mark === '\\') at += 1;
    else if (mark === '"') return at + 1;
  }
  return json.length;
}

function valueEnd(json: string, from: number): number {
  let depth = 0;
  let at = from;
  while (at < json.length) {
    const mark = json[at];
    if (mark === '"') {
      at = stringEnd(json, at);
      if (depth === 0) return at;
      continue;
    }
    if (mark === '{' || mark === '[') depth += 1;
    else if (mark === '}' || mark === ']') {
      if (depth === 0) return at;
      depth -= 1;
      if (depth === 0) return at + 1;
    } else if (depth === 0 && (mark === ',' || json.charCodeAt(at) <= 0x20)) return at;
    at += 1;
  }
  return at;
}
