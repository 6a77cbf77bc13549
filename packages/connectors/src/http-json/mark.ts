/** The watermark of a listing: the greatest value seen, compared and sent in the API's own format. */
import { z } from 'zod';
import type { HttpJsonConfig } from './config.ts';

type Watermark = NonNullable<HttpJsonConfig['watermark']>;

export const markSchema = z.union([z.number(), z.string().max(500)]);
export type Mark = z.output<typeof markSchema>;

const TEXT_LENGTH_MAX = 500;
/** Seconds since 1970 stay below this until the year 5138; milliseconds have passed it since 1973. */
const UNIX_SECONDS_MAX = 100_000_000_000;
/** The last instant a Date can hold. */
const TIME_MS_MAX = 8.64e15;

/** RFC 3339 of a time in any of the usual forms; undefined for what is none. */
export function timeOf(value: unknown): string | undefined {
  const ms = millisecondsOf(value);
  return ms === undefined ? undefined : new Date(ms).toISOString();
}

/** The greater of what was known and an item's value; values of another form are passed over. */
export function greaterMark(known: Mark | undefined, value: unknown, format: Watermark['format']): Mark | undefined {
  switch (format) {
    case 'text': {
      if (typeof value !== 'string' || value.length > TEXT_LENGTH_MAX) return known;
      return typeof known === 'string' && known >= value ? known : value;
    }
    case 'number': {
      const number = typeof value === 'string' ? Number(value) : value;
      if (typeof number !== 'number' || !Number.isFinite(number)) return known;
      return typeof known === 'number' && known >= number ? known : number;
    }
    default: {
      const ms = millisecondsOf(value);
      if (ms === undefined) return known;
      return typeof known === 'number' && known >= ms ? known : ms;
    }
  }
}

/** What the query parameter says; undefined on a first poll without `since`. Times are kept in milliseconds. */
export function markParam(
  mark: Mark | undefined,
  since: string | undefined,
  { format, overlapSeconds }: Watermark,
): string | undefined {
  if (format === 'text' || format === 'number') return mark === undefined ? undefined : String(mark);
  const ms =
    typeof mark === 'number' ? mark - overlapSeconds * 1000 : since === undefined ? undefined : Date.parse(since);
  if (ms === undefined) return undefined;
  if (format === 'unix') return String(Math.floor(ms / 1000));
  return format === 'unix_ms' ? String(ms) : new Date(ms).toISOString();
}

function millisecondsOf(value: unknown): number | undefined {
  const isNumeric = typeof value === 'number' || (typeof value === 'string' && /^\d{1,16}(\.\d+)?$/.test(value));
  const number = isNumeric ? Number(value) : Number.NaN;
  const ms = isNumeric ? (number < UNIX_SECONDS_MAX ? number * 1000 : number) : Date.parse(String(value));
  return typeof value !== 'object' && Math.abs(ms) <= TIME_MS_MAX ? Math.floor(ms) : undefined;
}
