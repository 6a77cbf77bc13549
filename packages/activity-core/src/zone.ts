/** Time zones by IANA name: what the wall clock shows at an instant, and at which instants it shows a time. */
import { nearest } from '@milkrun/core';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
/** Clocks are never changed twice within half a day. */
const STEP = 12 * HOUR;
const STRETCH = 40 * 24 * HOUR;
/** Far enough to both sides of a transition of at most a day. */
const REACH = 26 * HOUR;

export interface Zone {
  readonly name: string;
  /** Wall clock time at an instant, in milliseconds as if it were UTC. */
  wallAt(ms: number): number;
  /** The instants at which the wall clock shows `wallMs`: none in a gap, two in a repeated hour, earliest first. */
  instantsOf(wallMs: number): readonly number[];
  /**
   * The end of the stretch of one offset that holds `ms`: the instant of the next clock change, or an instant some weeks
   * on when there is none before.
   */
  endOfStretch(ms: number): number;
}

/** Why a name is not accepted, with the nearest that is; undefined when it is. */
export function zoneProblem(name: string): string | undefined {
  const known = Intl.supportedValuesOf('timeZone');
  if (/^[A-Za-z]/.test(name) && formatterOf(name) !== undefined) return undefined;
  if (/^[+-]?\d/.test(name) || /^(utc|gmt)[+-]/i.test(name))
    return `"${name}" is an offset; accepted: a name such as Europe/Berlin`;
  const meant = nearest(name, [...known, 'UTC']);
  return `"${name}" is no time zone; ${meant === undefined ? 'accepted: a name such as Europe/Berlin' : `did you mean ${meant}?`}`;
}

const formatters = new Map<string, Intl.DateTimeFormat>();

function formatterOf(zone: string): Intl.DateTimeFormat | undefined {
  const known = formatters.get(zone);
  if (known !== undefined) return known;
  try {
    const options = { hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric' } as const;
    const clock = { hour: 'numeric', minute: 'numeric', second: 'numeric', era: 'short' } as const;
    const made = new Intl.DateTimeFormat('en-US', { timeZone: zone, ...options, ...clock });
    formatters.set(zone, made);
    return made;
  } catch {
    return undefined;
  }
}

/** Throws TypeError for a name that `zoneProblem` refuses. */
export function zoneOf(name: string): Zone {
  const formatter = formatterOf(name);
  if (formatter === undefined) throw new TypeError(zoneProblem(name));
  /** Offsets change at whole quarters of an hour at most, so one look a quarter is enough. */
  const offsets = new Map<number, number>();

  function offsetAt(ms: number): number {
    const quarter = Math.floor(ms / (HOUR / 4));
    const known = offsets.get(quarter);
    if (known !== undefined) return known;
    const at = quarter * (HOUR / 4);
    const parts: Record<string, number> = {};
    for (const { type, value } of (formatter as Intl.DateTimeFormat).formatToParts(at)) parts[type] = Number(value);
    const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = parts;
    const offset = Date.UTC(year, month - 1, day, hour, minute, second) - at;
    if (offsets.size > 20_000) offsets.clear();
    offsets.set(quarter, offset);
    return offset;
  }

  return {
    name,
    wallAt: (ms) => ms + offsetAt(ms),
    instantsOf(wallMs) {
      const candidates = new Set([wallMs - offsetAt(wallMs - REACH), wallMs - offsetAt(wallMs + REACH)]);
      return [...candidates].filter((ms) => ms + offsetAt(ms) === wallMs).sort((a, b) => a - b);
    },
    endOfStretch(ms) {
      const offset = offsetAt(ms);
      let before = Math.floor(ms / MINUTE) * MINUTE;
      for (const last = before + STRETCH; before < last; before += STEP) {
        let after = before + STEP;
        if (offsetAt(after) === offset) continue;
        while (after - before > MINUTE) {
          const middle = before + Math.floor((after - before) / (2 * MINUTE)) * MINUTE;
          if (offsetAt(middle) === offset) before = middle;
          else after = middle;
        }
        return after;
      }
      return before;
    },
  };
}
