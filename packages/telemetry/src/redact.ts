/** Copies a value for the log without what must not be seen. */
import { Secret } from '@milkrun/core';

const SHOWN = '[redacted]';
const DEPTH_MAX = 6;
const ITEMS_MAX = 100;
const TEXT_MAX = 8192;

/** Names of fields whose value is a secret, whatever it is. */
const SECRET_NAME =
  /^(auth|authorization|cookie|set-cookie|credentials?|password|passwd|secret|token|api[-_]?key|private[-_]?key|blob[-_]?key|engine[-_]?key|control[-_]?plane[-_]?key)$|(secret|token|password|apikey|api_key)$/i;
/** `scheme://user:password@` in addresses; `Bearer …` and `Basic …` in texts. */
const ADDRESS_CREDENTIALS = /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi;
const HEADER_CREDENTIALS = /\b(Bearer|Basic)\s+[\w.~+/=-]+/g;

/** A copy of at most six levels, 100 items a list or object and 8,192 characters a text. */
export function redact(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return redactText(value);
  if (typeof value === 'bigint') return value.toString();
  if (value === null || typeof value !== 'object') return typeof value === 'function' ? undefined : value;
  if (value instanceof Secret) return SHOWN;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (depth >= DEPTH_MAX) return '[deep]';
  if (value instanceof Error) return redactError(value, depth);
  if (value instanceof Uint8Array) return `[${value.byteLength} bytes]`;
  if (Array.isArray(value)) {
    const kept = value.slice(0, ITEMS_MAX).map((item) => redact(item, depth + 1));
    return value.length > ITEMS_MAX ? [...kept, `[${value.length - ITEMS_MAX} more]`] : kept;
  }
  const items =
    value instanceof Map ? [...value.entries()].map(([k, v]) => [String(k), v] as const) : Object.entries(value);
  const copy: Record<string, unknown> = {};
  for (const [name, item] of items.slice(0, ITEMS_MAX)) {
    if (name === '__proto__') continue;
    copy[name] = SECRET_NAME.test(name) && item !== null && item !== undefined ? SHOWN : redact(item, depth + 1);
  }
  return copy;
}

function redactError(error: Error, depth: number): Record<string, unknown> {
  const { code, cause } = error as Error & { code?: unknown };
  return {
    name: error.name,
    message: redactText(error.message),
    ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}),
    ...(error.stack === undefined ? {} : { stack: redactText(error.stack) }),
    ...(cause === undefined ? {} : { cause: redact(cause, depth + 1) }),
  };
}

function redactText(text: string): string {
  const cut = text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}[${text.length - TEXT_MAX} more]` : text;
  return cut.replace(ADDRESS_CREDENTIALS, `$1${SHOWN}@`).replace(HEADER_CREDENTIALS, `$1 ${SHOWN}`);
}
