/** RFC 8785 canonical JSON, for keys of items that bring none: object members sorted by UTF-16 code units. */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  const source = value as Record<string, unknown>;
  const members: string[] = [];
  for (const name of Object.keys(source).sort()) {
    if (source[name] !== undefined) members.push(`${JSON.stringify(name)}:${canonicalJson(source[name])}`);
  }
  return `{${members.join(',')}}`;
}
