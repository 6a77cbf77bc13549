/** What wall clocks show, second by second, and which minutes an expression names: read as naively as can be. */

const DAY = 86_400_000;

const formatters = new Map<string, Intl.DateTimeFormat>();

/** Wall clock time in milliseconds as if it were UTC, from the text a person would read. */
function wallOf(zone: string, ms: number): number {
  let formatter = formatters.get(zone);
  if (formatter === undefined) {
    formatter = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'medium' });
    formatters.set(zone, formatter);
  }
  return Date.parse(`${formatter.format(ms).replace(' ', 'T')}Z`);
}

export interface Transition {
  readonly zone: string;
  /** The first second of the new time. */
  readonly at: number;
  /** Milliseconds the clock is set on; negative where it is set back. */
  readonly shift: number;
}

/** Every clock change of a zone in the years [from, until). */
export function transitionsOf(zone: string, from: number, until: number): Transition[] {
  const found: Transition[] = [];
  const offset = (ms: number): number => wallOf(zone, ms) - ms;
  let before = offset(Date.UTC(from, 0, 1));
  for (let ms = Date.UTC(from, 0, 1) + DAY; ms <= Date.UTC(until, 0, 1); ms += DAY) {
    const after = offset(ms);
    if (after === before) continue;
    let [low, high] = [ms - DAY, ms];
    while (high - low > 1_000) {
      const middle = low + Math.floor((high - low) / 2_000) * 1_000;
      if (offset(middle) === before) low = middle;
      else high = middle;
    }
    found.push({ zone, at: high, shift: after - before });
    before = after;
  }
  return found;
}

/** What the wall clock shows at each second of [from, until]. */
export function wallsOf(zone: string, from: number, until: number): readonly number[] {
  const walls: number[] = [];
  for (let ms = from; ms <= until; ms += 1_000) walls.push(wallOf(zone, ms));
  return walls;
}

const NAMED = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];

/** Whether a field of numbers, `*`, ranges, steps and lists holds a value. */
function holds(field: string, value: number, min: number, max: number): boolean {
  return field.split(',').some((item) => {
    const [range = '', step = '1'] = item.split('/');
    const [low = '', high = low] = range === '*' ? [String(min), String(max)] : range.split('-');
    const numberOf = (text: string): number => (NAMED.includes(text) ? NAMED.indexOf(text) : Number(text));
    for (let at = numberOf(low); at <= numberOf(high); at += Number(step)) if (at === value) return true;
    return false;
  });
}

/** Whether a wall clock time is the begin of a minute the expression names. */
export function isNamed(expression: string, wall: number): boolean {
  const at = new Date(wall);
  const [minute = '', hour = '', day = '', month = '', weekday = ''] = expression.split(' ');
  return (
    wall % 60_000 === 0 &&
    holds(minute, at.getUTCMinutes(), 0, 59) &&
    holds(hour, at.getUTCHours(), 0, 23) &&
    holds(day, at.getUTCDate(), 1, 31) &&
    holds(month, at.getUTCMonth() + 1, 1, 12) &&
    holds(weekday, at.getUTCDay(), 0, 6)
  );
}

export interface OracleTick {
  readonly at: number | null;
  readonly wall: number;
  readonly flag: 'gap' | 'repeat' | null;
  readonly runs: boolean;
}

export interface OracleInput {
  readonly expression: string;
  readonly repeat: 'once' | 'both';
  readonly gap: 'skip' | 'shift';
  readonly from: number;
  /** Of each second from `from` on. */
  readonly walls: readonly number[];
}

/** The ticks of the published rule after the first second, in the order a person would list them. */
export function oracleTicks({ expression, repeat, gap, from, walls }: OracleInput): OracleTick[] {
  const seen = new Map<number, number>();
  for (const wall of walls) if (wall % 60_000 === 0) seen.set(wall, (seen.get(wall) ?? 0) + 1);
  const first = new Set<number>();
  const ticks: OracleTick[] = [];
  for (const [n, wall] of walls.entries()) {
    const at = from + n * 1_000;
    const before = walls[n - 1];
    if (before !== undefined && wall > before + 1_000) {
      for (let missing = before + 1_000; missing < wall; missing += 1_000) {
        if (!isNamed(expression, missing)) continue;
        ticks.push({ at: gap === 'shift' ? at : null, wall: missing, flag: 'gap', runs: gap === 'shift' });
      }
    }
    if (wall % 60_000 !== 0 || !isNamed(expression, wall)) continue;
    const twice = (seen.get(wall) ?? 0) > 1;
    const isFirst = !first.has(wall);
    first.add(wall);
    if (n > 0) ticks.push({ at, wall, flag: twice ? 'repeat' : null, runs: !twice || repeat === 'both' || isFirst });
  }
  return ticks;
}
