/** RFC 8785 canonical JSON, for keys of items that bring none: object members sorted by UTF-16 code units. */
export function canonicalJson(value: unknown): string {
  try {
    return print(value);
  } catch (error) {
    // Nested deeper than the stack: whoever sends that gets a key like everybody else.
    if (error instanceof RangeError) return printDeep(value);
    throw error;
  }
}

function print(value: unknown): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  if (Array.isArray(value)) return `[${value.map(print).join(',')}]`;
  const source = value as Record<string, unknown>;
  const members: string[] = [];
  for (const name of Object.keys(source).sort()) {
    if (source[name] !== undefined) members.push(`${JSON.stringify(name)}:${print(source[name])}`);
  }
  return `{${members.join(',')}}`;
}

/** The same text without recursion. */
function printDeep(root: unknown): string {
  const out: string[] = [];
  const open: { readonly text?: string; readonly value?: unknown }[] = [{ value: root }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { text, value } = next;
    if (text !== undefined) out.push(text);
    else if (value === null || typeof value !== 'object') out.push(JSON.stringify(value) ?? 'null');
    else if (Array.isArray(value)) {
      open.push({ text: ']' });
      for (let at = value.length - 1; at >= 0; at -= 1) {
        open.push({ value: value[at] });
        if (at > 0) open.push({ text: ',' });
      }
      open.push({ text: '[' });
    } else {
      const source = value as Record<string, unknown>;
      const names = Object.keys(source)
        .filter((name) => source[name] !== undefined)
        .sort();
      open.push({ text: '}' });
      for (let at = names.length - 1; at >= 0; at -= 1) {
        const name = names[at] as string;
        open.push({ value: source[name] }, { text: `${at > 0 ? ',' : ''}${JSON.stringify(name)}:` });
      }
      open.push({ text: '{' });
    }
  }
  return out.join('');
}
