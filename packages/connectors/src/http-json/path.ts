/**
 * A small subset of JSONPath: `$`, `a.b`, `$.a['b c'][0]`. Own properties only; nothing that searches or filters, so a
 * path costs its length.
 */
export type Path = readonly (string | number)[];

const STEP = /\.?([A-Za-z_$@][\w$@-]*)|\[(\d{1,6})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]/y;

/** Undefined for text that is no such path. */
export function parsePath(text: string): Path | undefined {
  const path: (string | number)[] = [];
  const isRooted = text === '$' || text.startsWith('$.') || text.startsWith('$[');
  let at = isRooted ? 1 : 0;
  while (at < text.length) {
    STEP.lastIndex = at;
    const step = STEP.exec(text);
    if (step === null || (at === 0 && step[0].startsWith('.'))) return undefined;
    if (at > 0 && step[1] !== undefined && !step[0].startsWith('.')) return undefined;
    const [whole, name, index, single, double] = step;
    path.push(index === undefined ? (name ?? (single ?? double ?? '').replace(/\\(.)/g, '$1')) : Number(index));
    at += whole.length;
  }
  return text === '' ? undefined : path;
}

/** Undefined where the path leads nowhere. */
export function valueAt(root: unknown, path: Path): unknown {
  let value = root;
  for (const step of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return undefined;
    value = (value as Record<string | number, unknown>)[step];
  }
  return value;
}
