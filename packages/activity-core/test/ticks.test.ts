/** Ticks: cron expressions in zones, over clock changes, against a second opinion that knows no clock arithmetic. */
import { Cron } from 'croner';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { dueTicks, namingOf, nextTicks, parseCron, type TickRule, tickKeyOf, zoneOf } from '../src/index.ts';

const rule = (
  cron: string,
  zone: string,
  repeat: TickRule['repeat'] = 'once',
  gap: TickRule['gap'] = 'skip',
): TickRule => ({
  cron: parseCron(cron),
  zone: zoneOf(zone),
  repeat,
  gap,
});
const shown = (made: TickRule, from: string, count: number): string[] =>
  nextTicks(made, Date.parse(from), count).map(
    ({ at, local, flag, runs }) =>
      `${local} ${at === null ? 'none' : new Date(at).toISOString().slice(0, 16)}${flag ? ` ${flag}` : ''}${runs ? '' : ' no run'}`,
  );

it('a time in a gap has no tick, or one at the first minute after it', () => {
  expect(shown(rule('30 2 * * *', 'Europe/Berlin'), '2027-03-27T00:00:00Z', 3)).toEqual([
    '2027-03-27T02:30 2027-03-27T01:30',
    '2027-03-28T02:30 none gap no run',
    '2027-03-29T02:30 2027-03-29T00:30',
  ]);
  expect(shown(rule('30 2 * * *', 'Europe/Berlin', 'once', 'shift'), '2027-03-27T12:00:00Z', 1)).toEqual([
    '2027-03-28T02:30 2027-03-28T01:00 gap',
  ]);
});

it('a time that occurs twice is one tick or two, as the definition says', () => {
  expect(shown(rule('30 1 * * *', 'America/New_York'), '2026-10-31T12:00:00Z', 3)).toEqual([
    '2026-11-01T01:30 2026-11-01T05:30 repeat',
    '2026-11-01T01:30 2026-11-01T06:30 repeat no run',
    '2026-11-02T01:30 2026-11-02T06:30',
  ]);
  expect(shown(rule('*/30 * * * *', 'Australia/Lord_Howe', 'both'), '2027-04-03T14:20:00Z', 4)).toEqual([
    '2027-04-04T01:30 2027-04-03T14:30 repeat',
    '2027-04-04T01:30 2027-04-03T15:00 repeat',
    '2027-04-04T02:00 2027-04-03T15:30',
    '2027-04-04T02:30 2027-04-03T16:00',
  ]);
});

it('ticks in zones equal a minute-by-minute reading of the wall clock around every kind of clock change', () => {
  const zones = [
    'Europe/Berlin',
    'America/New_York',
    'Australia/Lord_Howe',
    'Africa/Casablanca',
    'Asia/Kathmandu',
    'UTC',
  ];
  const changes = [
    '2026-03-29T01:00:00Z',
    '2026-10-25T01:00:00Z',
    '2026-03-08T07:00:00Z',
    '2026-11-01T06:00:00Z',
    '2026-04-04T15:00:00Z',
    '2026-10-03T15:30:00Z',
    '2026-02-15T02:00:00Z',
    '2026-03-22T02:00:00Z',
  ];
  const expressions = ['30 2 * * *', '0 0 * * *', '*/30 1-3 * * *', '15 1,2 * * *', '0 * * * *'];
  let compared = 0;
  for (const zone of zones) {
    const clock = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'short' });
    for (const change of changes) {
      const from = Date.parse(change) - 20 * 3_600_000;
      const walls: { at: number; wall: number }[] = [];
      for (let at = from + 60_000; at <= from + 40 * 3_600_000; at += 60_000) {
        walls.push({ at, wall: Date.parse(`${clock.format(at).replace(' ', 'T')}Z`) });
      }
      for (const expression of expressions) {
        const named = new Set<number>();
        const oracle = new Cron(expression, { timezone: 'UTC', mode: '5-part', paused: true });
        for (let wall = from - 24 * 3_600_000; wall < from + 72 * 3_600_000; ) {
          wall = oracle.nextRun(new Date(wall))?.getTime() as number;
          named.add(wall);
        }
        const expected = walls.filter(({ wall }) => named.has(wall)).map(({ at }) => at);
        const { ticks } = dueTicks(rule(expression, zone, 'both'), from, from + 40 * 3_600_000, 10_000);
        expect(ticks, `${expression} in ${zone} around ${change}`).toEqual(expected);
        compared += expected.length;
      }
    }
  }
  expect(compared).toBeGreaterThan(2_000);
});

it('wall clock times equal those of another cron library, whatever the expression', () => {
  const field = (min: number, max: number) =>
    fc.oneof(
      fc.constant('*'),
      fc.integer({ min, max }).map(String),
      fc.integer({ min: 1, max: 20 }).map((n) => `*/${Math.min(n, max)}`),
      fc
        .tuple(fc.integer({ min, max }), fc.integer({ min, max }))
        .map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`),
    );
  const expression = fc.tuple(
    field(0, 59),
    field(0, 23),
    fc.integer({ min: 1, max: 28 }).map(String),
    field(1, 12),
    fc.constant('*'),
  );
  const weekly = fc.tuple(field(0, 59), field(0, 23), fc.constant('*'), field(1, 12), field(0, 6));
  fc.assert(
    fc.property(fc.oneof(expression, weekly), fc.integer({ min: 0, max: 3e9 }), (fields, seconds) => {
      const text = fields.join(' ');
      const ours = parseCron(text);
      const theirs = new Cron(text, { timezone: 'UTC', mode: '5-part', paused: true });
      const next = ours.nextAfter(seconds * 1000);
      expect(next).toBe(theirs.nextRun(new Date(seconds * 1000))?.getTime());
      expect(next !== undefined && ours.matches(next)).toBe(true);
    }),
    { numRuns: 300 },
  );
});

it('tells instants that the expression names from those it does not', () => {
  const london = rule('0 0 * * *', 'Europe/London');
  // The server fires this one too, at 01:00 local time.
  expect(namingOf(london, Date.parse('2026-10-25T00:00:00Z'))).toBe('unnamed');
  expect(namingOf(london, Date.parse('2026-10-24T23:00:00Z'))).toBe('named');
  const shifted = rule('30 2 * * *', 'Europe/Berlin', 'once', 'shift');
  expect(namingOf(shifted, Date.parse('2027-03-28T01:00:00Z'))).toBe('shifted');
  expect(namingOf(rule('30 2 * * *', 'Europe/Berlin'), Date.parse('2027-03-28T01:00:00Z'))).toBe('unnamed');
});

it('both occurrences of a time that is meant once have one key', () => {
  const once = rule('30 1 * * *', 'America/New_York');
  const [a, b] = [Date.parse('2026-11-01T05:30:00Z'), Date.parse('2026-11-01T06:30:00Z')];
  expect(tickKeyOf(once, a)).toBe('2026-11-01T01:30[America/New_York]');
  expect(tickKeyOf(once, b)).toBe(tickKeyOf(once, a));
  expect(tickKeyOf({ ...once, repeat: 'both' }, b)).not.toBe(tickKeyOf({ ...once, repeat: 'both' }, a));
});
