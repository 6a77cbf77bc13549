/**
 * Whether a cursor is the one already stored, so that an empty poll writes no state. PostgreSQL prints what it stores in
 * its own way (order of members, spaces), so values are compared and not texts.
 */

/** Cursors are small and flat; a deeper one is simply written. */
const DEPTH_MAX = 32;

/** Both JSON text, or null. False when in doubt: numbers that JavaScript cannot hold exactly count as changed. */
export function isSameCursor(stored: string | null, after: string | null): boolean {
  if (stored === null || after === null) return stored === after;
  return stored === after || isSameValue(JSON.parse(stored), JSON.parse(after), 0);
}

function isSameValue(a: unknown, b: unknown, depth: number): boolean {
  if (typeof a !== 'object' || a === null) return a === b && (typeof a !== 'number' || Number.isSafeInteger(a));
  if (typeof b !== 'object' || b === null || depth === DEPTH_MAX || Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  if (Object.keys(b).length !== names.length) return false;
  for (const name of names) {
    if (!Object.hasOwn(b, name)) return false;
    if (!isSameValue((a as Record<string, unknown>)[name], (b as Record<string, unknown>)[name], depth + 1))
      return false;
  }
  return true;
}
