/**
 * Cron expressions of five fields, as strictly as the server reads them: no nicknames, no `L`, `W` or `#`, no open steps.
 */
export class CronRefused extends Error {
  override readonly name = 'CronRefused';
}

export interface CronExpression {
  readonly text: string;
  /** The hour field names its hours one by one: a repeated hour is meant once. */
  readonly isFixedHour: boolean;
  /** Whether the minute that begins at this wall clock time (milliseconds as if it were UTC) is named. */
  matches(wallMs: number): boolean;
  /** The next named wall clock minute after `wallMs`, or undefined when there is none in the years to come. */
  nextAfter(wallMs: number): number | undefined;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** 29 February on one weekday comes once in 40 years at the most. */
const DAYS_AHEAD = 41 * 366;

interface Field {
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly names?: readonly string[];
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const FIELDS: readonly Field[] = [
  { name: 'minute', min: 0, max: 59 },
  { name: 'hour', min: 0, max: 23 },
  { name: 'day of month', min: 1, max: 31 },
  { name: 'month', min: 1, max: 12, names: MONTHS },
  { name: 'day of week', min: 0, max: 7, names: DAYS },
];
const NICKNAMES: Readonly<Record<string, string>> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@hourly': '0 * * * *',
};

/**
 * Parses an expression. `both`: day of month and day of week may both be set and must then both hold, which is how the
 * server combines them. Throws CronRefused with what is accepted.
 */
export function parseCron(text: string, both = false): CronExpression {
  const nickname = NICKNAMES[text.trim().toLowerCase()];
  if (nickname !== undefined) throw new CronRefused(`"${text}" is not accepted; the same is "${nickname}"`);
  const given = text.trim().split(/\s+/);
  if (given.length !== FIELDS.length) {
    throw new CronRefused(`"${text}" has ${given.length} fields; accepted: five, such as "0 9 * * 1"`);
  }
  const sets = FIELDS.map((field, at) => parseField(field, given[at] as string));
  const [minutes, hours, days, months, weekdays] = sets as [
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>,
  ];
  if (weekdays.delete(7)) weekdays.add(0);
  if (given[2] !== '*' && given[4] !== '*' && !both) {
    throw new CronRefused(
      `"${text}" sets day of month and day of week; set one, or say dom_dow: and, when both have to hold`,
    );
  }
  const minutesInOrder = [...minutes].sort((a, b) => a - b);
  const hoursInOrder = [...hours].sort((a, b) => a - b);
  const dayMatches = (day: Date): boolean =>
    months.has(day.getUTCMonth() + 1) && days.has(day.getUTCDate()) && weekdays.has(day.getUTCDay());
  function nextAfter(wallMs: number): number | undefined {
    const today = Math.floor(wallMs / DAY) * DAY;
    for (let day = today; day < today + DAYS_AHEAD * DAY; day += DAY) {
      if (!dayMatches(new Date(day))) continue;
      for (const hour of hoursInOrder) {
        if (day + (hour + 1) * HOUR <= wallMs) continue;
        const minute = minutesInOrder.find((each) => day + hour * HOUR + each * MINUTE > wallMs);
        if (minute !== undefined) return day + hour * HOUR + minute * MINUTE;
      }
    }
    return undefined;
  }
  if (nextAfter(0) === undefined) throw new CronRefused(`"${text}" names no date that exists`);
  return {
    text: given.join(' '),
    isFixedHour: !(given[1] as string).includes('*'),
    nextAfter,
    matches(wallMs) {
      const at = new Date(wallMs);
      return wallMs % MINUTE === 0 && minutes.has(at.getUTCMinutes()) && hours.has(at.getUTCHours()) && dayMatches(at);
    },
  };
}

function parseField(field: Field, text: string): Set<number> {
  const set = new Set<number>();
  for (const item of text.split(',')) {
    const [, from, to, step] = /^(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:\/(\d{1,3}))?$/i.exec(item) ?? [];
    const refuse = (why: string): never => {
      throw new CronRefused(`${field.name} "${text}": ${why}`);
    };
    if (from === undefined || (from === '*' && to !== undefined)) {
      throw new CronRefused(`${field.name} "${text}" is not accepted: write *, */n, a, a-b, a-b/n, or a list of them`);
    }
    const low = from === '*' ? field.min : numberOf(field, from);
    const high =
      from === '*' ? Math.min(field.max, field.name === 'day of week' ? 6 : field.max) : numberOf(field, to ?? from);
    if (step !== undefined && from !== '*' && to === undefined) refuse(`write ${from}-${field.max}/${step}`);
    if (low > high) refuse(`the range ${item} runs backwards; write ${low}-${field.max},${field.min}-${high}`);
    const by = step === undefined ? 1 : Number(step);
    if (by === 0 || by > field.max)
      refuse(`the step ${by} is outside 1–${field.max}; nearest accepted: ${by === 0 ? 1 : field.max}`);
    for (let value = low; value <= high; value += by) set.add(value);
  }
  return set;
}

function numberOf(field: Field, text: string): number {
  const named = field.names?.indexOf(text.toLowerCase()) ?? -1;
  if (named >= 0) return named + (field.name === 'month' ? 1 : 0);
  const value = /^\d{1,3}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value)) {
    const accepted = `${field.min}–${field.max}${field.names === undefined ? '' : ` or ${field.names.join(', ')}`}`;
    throw new CronRefused(`${field.name} "${text}" is not accepted: write ${accepted}`);
  }
  if (value < field.min || value > field.max) {
    const near = value < field.min ? field.min : field.max;
    throw new CronRefused(`${field.name} ${value} is outside ${field.min}–${field.max}; nearest accepted: ${near}`);
  }
  return value;
}
