/** Numbers, durations and times for people. Everything is text: nothing here makes markup. */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

/** `12,345`, `3.4`, or a dash where there is no figure. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  return (Math.abs(value) >= 100 ? whole : short).format(value);
}

const UNITS: readonly (readonly [name: string, seconds: number])[] = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
  ['s', 1],
];

/** Seconds as `340 ms`, `4.2 s`, `3 min 20 s`, `2 d 4 h`. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '–';
  if (seconds === 0) return '0 s';
  if (seconds < 0) return `−${duration(-seconds)}`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${short.format(seconds)} s`;
  const rounded = Math.round(seconds);
  const at = UNITS.findIndex(([, size]) => rounded >= size);
  const [name, size] = UNITS[at] as (typeof UNITS)[number];
  const [nextName, nextSize] = UNITS[at + 1] ?? ['', 0];
  const rest = nextSize === 0 ? 0 : Math.floor((rounded % size) / nextSize);
  return `${Math.floor(rounded / size)} ${name}${rest === 0 ? '' : ` ${rest} ${nextName}`}`;
}

/** Milliseconds since 1970 of RFC 3339, or of PostgreSQL's `2026-11-25 10:00:00.123+00`; NaN for anything else. */
export function instantOf(text: string): number {
  return Date.parse(text.replace(/^(\d{4}-\d\d-\d\d) /, '$1T').replace(/([+-]\d\d)$/, '$1:00'));
}

/** `3 min ago`, `in 20 s`, `now`. */
export function relative(text: string | null | undefined, nowMs: number): string {
  if (text === null || text === undefined) return '–';
  const ms = instantOf(text);
  if (Number.isNaN(ms)) return text;
  const seconds = (ms - nowMs) / 1000;
  if (Math.abs(seconds) < 1) return 'now';
  const [first, unit] = duration(Math.round(Math.abs(seconds))).split(' ');
  return seconds > 0 ? `in ${first} ${unit}` : `${first} ${unit} ago`;
}

/** The local date and time, to the second. */
export function when(text: string | null | undefined): string {
  if (text === null || text === undefined) return '–';
  const ms = instantOf(text);
  if (Number.isNaN(ms)) return text;
  const date = new Date(ms);
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** JSON for reading, cut at `max` characters. */
export function shownJson(value: unknown, max = 20_000): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value, null, 2) ?? '');
  return text.length > max ? `${text.slice(0, max)}\n… ${count(text.length - max)} characters more` : text;
}

/** The end of an id: where UUIDv7 differ. */
export const shortId = (id: string): string => (id.length > 13 ? `…${id.slice(-12)}` : id);
