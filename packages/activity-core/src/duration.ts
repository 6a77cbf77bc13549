/** Durations as people write them in a definition: an integer and `ms`, `s`, `m`, `h` or `d`. */

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const DURATION = /^(\d{1,9})(ms|s|m|h|d)$/;

/** Whether the text is a duration. */
export function isDuration(text: string): boolean {
  return DURATION.test(text);
}

/** Milliseconds of a duration that was validated. */
export function durationMs(text: string): number {
  const [, amount, unit] = DURATION.exec(text) ?? [];
  if (amount === undefined || unit === undefined) throw new TypeError(`"${text}" is no duration such as 90s`);
  return Number(amount) * (UNITS[unit] as number);
}
