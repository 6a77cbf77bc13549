/** Retry-After as seconds: a number, or a date less the answer's own `Date` (never less our clock, which may differ). */
const DELTA_SECONDS = /^\s*\d{1,10}\s*$/;

/** Undefined when the value says nothing usable. */
export function retryAfterSeconds(value: unknown, answerDate: string | undefined): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? value : undefined;
  if (typeof value !== 'string') return undefined;
  if (DELTA_SECONDS.test(value)) return Number(value);
  const until = Date.parse(value);
  const from = answerDate === undefined ? Number.NaN : Date.parse(answerDate);
  if (Number.isNaN(until) || Number.isNaN(from)) return undefined;
  return Math.max(0, Math.ceil((until - from) / 1000));
}
