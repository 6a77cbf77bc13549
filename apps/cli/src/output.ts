/** Prints results: JSON for programs, aligned columns for people. */
import type { Io } from './io.ts';

export type Row = Readonly<Record<string, unknown>>;

/** One JSON document and a newline. */
export function printJson(io: Io, value: unknown): void {
  io.out(`${JSON.stringify(value, null, 2)}\n`);
}

/** Columns by dotted path, such as `halt.code`; what is missing is a dash. */
export function printTable(io: Io, rows: readonly Row[], columns: readonly string[]): void {
  if (rows.length === 0) {
    io.out('none\n');
    return;
  }
  const cells = rows.map((row) => columns.map((column) => cellOf(valueAt(row, column))));
  const heads = columns.map((column) =>
    column
      .replaceAll(/([A-Z])/g, ' $1')
      .replaceAll('.', ' ')
      .toUpperCase(),
  );
  const widths = columns.map((_, i) => Math.max(...[heads, ...cells].map((line) => (line[i] as string).length)));
  for (const line of [heads, ...cells]) {
    io.out(
      `${line
        .map((cell, i) => cell.padEnd(widths[i] as number))
        .join('  ')
        .trimEnd()}\n`,
    );
  }
}

/** One record as `name  value` lines; nested records are indented. */
export function printRecord(io: Io, record: Row, indent = ''): void {
  const names = Object.keys(record);
  const width = Math.max(0, ...names.map((name) => name.length));
  for (const name of names) {
    const value = record[name];
    if (value !== null && typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length > 0) {
      io.out(`${indent}${name}\n`);
      printRecord(io, value as Row, `${indent}  `);
    } else {
      io.out(`${indent}${name.padEnd(width)}  ${cellOf(value)}\n`);
    }
  }
}

function valueAt(row: Row, path: string): unknown {
  let at: unknown = row;
  for (const name of path.split('.')) {
    if (at === null || typeof at !== 'object' || !Object.hasOwn(at, name)) return undefined;
    at = (at as Row)[name];
  }
  return at;
}

/** Texts come from other people's systems: control characters must not reach the terminal. */
function cellOf(value: unknown): string {
  if (value === undefined || value === null) return '-';
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
  return text.replaceAll(/\p{Cc}/gu, '�');
}
