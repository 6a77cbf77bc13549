/**
 * The rule for clock changes against an oracle that knows nothing of it: it looks at what the wall clock shows, second by second,
 * around each change. A sample is also held against the next times that a real Temporal server gives.
 */
import {
  decideTick,
  dueTicks,
  type MisfirePolicy,
  namingOf,
  nextTicks,
  parseCron,
  type TickRule,
  tickKeyOf,
  zoneOf,
} from '@milkrun/activity-core';
import { startTemporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import { isNamed, oracleTicks, type Transition, transitionsOf, wallsOf } from './lib/clock-oracle.ts';
import { verdicts } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom, type Say } from './lib/index.ts';
import { randomFrom, shuffled } from './lib/random.ts';

const HOUR = 3_600_000;
/** What is looked at around a change, to both sides. */
const REACH = 4 * HOUR;
const YEARS = [2024, 2032] as const;
/** Expressions for one change: the seconds around it are gone through once for all of them. */
const EXPRESSIONS = 100;
const SAMPLE = 40;
/** Changes found for each that is looked at, so that a change is not one of a few zones. */
const ZONES_EACH = 3;

export const drill: Drill = {
  name: 'clock-changes',
  about:
    'Around every clock change of every zone ticks are those of the published rule, and the server’s next times agree.',
  defaults: { count: 20_000 },
  fullCount: 100_000,
  ciCount: 2_000,
  flags: { sample: `cases held against a real server; default ${SAMPLE}` },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const sample = integerFrom('sample', flags.sample, SAMPLE, 1);
    const found = verdicts(log);
    const random = randomFrom(seed);
    const wanted = Math.ceil(count / EXPRESSIONS);
    const all: Transition[] = [];
    // Zones in any order, as many as have the changes of several times the count: a server's sample is taken from them too.
    for (const zone of shuffled(Intl.supportedValuesOf('timeZone'), random)) {
      if (all.length < ZONES_EACH * (wanted + sample)) all.push(...transitionsOf(zone, ...YEARS));
    }
    const tally = { ticks: 0, gaps: 0, repeats: 0, decisions: 0 };
    const looked = shuffled(all, random).slice(0, wanted);
    // Where there are fewer changes than asked for, each is looked at with more expressions.
    const each = Math.ceil(count / looked.length);
    let tried = 0;
    for (const change of looked) {
      const from = change.at - REACH;
      const walls = wallsOf(change.zone, from, change.at + REACH);
      for (let n = 0; n < each; n += 1) {
        checkCase(caseOf(change, random), { from, walls, random, tally, missed: found.missed });
        tried += 1;
      }
    }
    for (const kind of ['ticks', 'gaps', 'repeats'] as const)
      if (tally[kind] === 0) found.missed(`no ${kind} occurred`);
    const server = await compareWithServer({ all, sample, random, missed: found.missed, log });
    return {
      tried,
      violations: found.count,
      zones: new Set(looked.map(({ zone }) => zone)).size,
      changes: looked.length,
      ...tally,
      ...server,
    };
  },
};

interface Case {
  readonly change: Transition;
  readonly expression: string;
  readonly rule: TickRule;
}

const pick = <T>(list: readonly T[], random: () => number): T => list[Math.floor(random() * list.length)] as T;

/** An expression whose hours are about those of the change, with each choice for gaps and repeats. */
function caseOf(change: Transition, random: () => number): Case {
  const wall = new Date(zoneOf(change.zone).wallAt(change.at - 1_000));
  const hour = (by: number): number => (wall.getUTCHours() + by + 24) % 24;
  const [a, b] = [hour(Math.floor(random() * 6) - 3), hour(Math.floor(random() * 6) - 3)];
  const minutes = ['0', '30', '59', '*', '*/15', '*/7', '10-20/5', '0,29,31', String(Math.floor(random() * 60))];
  const hours = [String(a), String(a), `${a},${b}`, `${Math.min(a, b)}-${Math.max(a, b)}`, '*', '*/2', '*/3'];
  const days = ['*', '*', '*', String(wall.getUTCDate()), '1-15', '*/2'];
  const weekdays = ['*', '*', String(wall.getUTCDay()), 'mon-fri', 'sun'];
  const day = pick(days, random);
  const fields = [pick(minutes, random), pick(hours, random), day, '*', day === '*' ? pick(weekdays, random) : '*'];
  const expression = fields.join(' ');
  const cron = parseCron(expression, false);
  const repeat = pick([cron.isFixedHour ? 'once' : 'both', 'once', 'both'] as const, random);
  const gap = pick(['skip', 'shift'] as const, random);
  return { change, expression, rule: { cron, zone: zoneOf(change.zone), repeat, gap } };
}

interface Look {
  readonly from: number;
  readonly walls: readonly number[];
  readonly random: () => number;
  readonly tally: { ticks: number; gaps: number; repeats: number; decisions: number };
  readonly missed: (what: string) => void;
}

function checkCase({ change, expression, rule }: Case, { from, walls, random, tally, missed }: Look): void {
  const until = from + (walls.length - 1) * 1_000;
  const { repeat, gap } = rule;
  const wanted = oracleTicks({ expression, repeat, gap, from, walls });
  const about = `${change.zone} ${new Date(change.at).toISOString()} "${expression}" repeat ${repeat} gap ${gap}`;
  const differs = (what: string, got: unknown, want: unknown): void => {
    const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
    if (a !== b) missed(`${about}: ${what} ${a?.slice(0, 400)}, not ${b?.slice(0, 400)}`);
  };
  const runs = [...new Set(wanted.flatMap(({ at, runs }) => (runs && at !== null ? [at] : [])))];
  tally.ticks += runs.length;
  tally.gaps += wanted.filter(({ flag }) => flag === 'gap').length;
  tally.repeats += wanted.filter(({ flag }) => flag === 'repeat').length;
  differs('due', dueTicks(rule, from, until, 1_000).ticks, runs);
  const preview = nextTicks(rule, from, wanted.length).map(({ at, local, flag, runs }) => [at, local, flag, runs]);
  const listed = wanted.map(({ at, wall, flag, runs }) => [at, new Date(wall).toISOString().slice(0, 16), flag, runs]);
  differs('preview', preview, listed);
  for (const at of runs) if (namingOf(rule, at) === 'unnamed') missed(`${about}: ${at} is a tick and not named`);
  for (let n = 0; n < 10; n += 1) {
    const second = Math.floor(random() * walls.length);
    const at = from + second * 1_000;
    const named = isNamed(expression, walls[second] as number) || (gap === 'shift' && runs.includes(at));
    if ((namingOf(rule, at) !== 'unnamed') !== named) missed(`${about}: ${new Date(at).toISOString()} named ${!named}`);
  }
  // The same wall clock time twice is one key where it is meant once, two where both are meant.
  const walled = new Map<number, Set<string>>();
  for (const { at, wall, flag } of wanted) {
    if (at === null || flag !== 'repeat') continue;
    walled.set(wall, (walled.get(wall) ?? new Set()).add(tickKeyOf(rule, at)));
  }
  for (const [wall, keys] of walled) {
    const times = wanted.filter((tick) => tick.wall === wall).length;
    if (keys.size !== (repeat === 'once' ? 1 : times)) missed(`${about}: ${keys.size} keys for ${times} ticks`);
  }
  checkMisfire({ rule, runs, until, from, random, tally, about, missed });
}

interface MisfireLook {
  readonly rule: TickRule;
  /** The oracle's ticks that run. */
  readonly runs: readonly number[];
  readonly from: number;
  readonly until: number;
  readonly random: () => number;
  readonly tally: { decisions: number };
  readonly about: string;
  readonly missed: (what: string) => void;
}

/** What becomes of one of the ticks, opened late, read from the oracle's list. */
function checkMisfire({ rule, runs, from, until, random, tally, about, missed }: MisfireLook): void {
  if (runs.length === 0) return;
  const nominalMs = pick(runs, random);
  const nowMs = nominalMs + Math.floor(random() * (until - nominalMs));
  const coveredMs = from + Math.floor(random() * (until - from));
  const policy = pick(['skip', 'catchup', 'compress'] as const, random);
  const misfire: MisfirePolicy = {
    policy,
    graceMs: 60_000,
    windowMs: 7 * 24 * HOUR,
    max: 1 + Math.floor(random() * 5),
  };
  const { outcome, window } = decideTick({ rule, misfire, nominalMs, nowMs, coveredMs });
  tally.decisions += 1;
  const later = runs.filter((at) => at > nominalMs && at <= nowMs).length;
  const late = nowMs - nominalMs > misfire.graceMs;
  const wanted = {
    skip: late ? 'missed' : 'run',
    catchup: later >= misfire.max ? 'missed' : 'run',
    compress: nominalMs <= coveredMs ? 'coalesced' : 'run',
  }[policy];
  if (outcome !== wanted)
    missed(`${about}: ${policy} of ${nominalMs} at ${nowMs}, covered ${coveredMs}: ${outcome}, not ${wanted}`);
  if (policy !== 'compress' || window === null) return;
  const due = runs.filter((at) => at > coveredMs && at <= nowMs);
  if (window.endMs !== due.at(-1) || window.missedCount !== due.length - 1) {
    missed(
      `${about}: a window to ${window.endMs} with ${window.missedCount} others, not ${due.at(-1)} and ${due.length - 1}`,
    );
  }
}

interface ServerLook {
  readonly all: readonly Transition[];
  readonly sample: number;
  readonly random: () => number;
  readonly missed: (what: string) => void;
  readonly log: Say;
}

/**
 * The server's next times from shortly before a change on. Where the clock is set on they have to be ours. Where it is set back
 * the server fires times no expression names, which our rule tells apart, and leaves some out, which the reconciler makes up for.
 */
async function compareWithServer({ all, sample, random, missed, log }: ServerLook) {
  const temporal = await startTemporal({ own: true });
  const connection = await Connection.connect({ address: temporal.address });
  const client = new Client({ connection });
  const figures = { serverCases: 0, serverTimes: 0, serverUnnamed: 0, serverLeftOut: 0 };
  try {
    const coming = all.filter(({ at }) => at > Date.now() + 24 * HOUR);
    for (const change of shuffled(coming, random).slice(0, sample)) {
      const { expression, rule: made } = caseOf(change, random);
      const rule: TickRule = { ...made, gap: 'skip' };
      const startAt = new Date(change.at - REACH);
      const handle = await client.schedule.create({
        scheduleId: `clock-${figures.serverCases}`,
        spec: { cronExpressions: [expression], timezone: change.zone, startAt },
        action: { type: 'startWorkflow', workflowType: 'None', taskQueue: 'none' },
        state: { paused: true },
      });
      const { info } = await handle.describe();
      await handle.delete();
      const times = info.nextActionTimes.map((time) => time.getTime());
      const last = times.at(-1);
      if (last === undefined) continue;
      figures.serverCases += 1;
      figures.serverTimes += times.length;
      const about = `server, ${change.zone} ${new Date(change.at).toISOString()} "${expression}"`;
      const named = times.filter((at) => namingOf(rule, at) !== 'unnamed');
      const unnamed = times.filter((at) => namingOf(rule, at) === 'unnamed');
      figures.serverUnnamed += unnamed.length;
      const both: TickRule = { ...rule, repeat: 'both' };
      const ours = dueTicks(both, startAt.getTime() - 1, last, 1_000).ticks;
      const leftOut = ours.filter((at) => !times.includes(at));
      figures.serverLeftOut += leftOut.length;
      for (const at of named)
        if (!ours.includes(at)) missed(`${about}: fires ${new Date(at).toISOString()}, which is no tick`);
      // Only in the hours around a clock that is set back.
      const nearSetBack = (at: number): boolean =>
        all.some(({ zone, at: when, shift }) => zone === change.zone && shift < 0 && Math.abs(at - when) <= 26 * HOUR);
      for (const at of unnamed) if (!nearSetBack(at)) missed(`${about}: fires ${new Date(at).toISOString()}, unnamed`);
      for (const at of leftOut) if (!nearSetBack(at)) missed(`${about}: leaves out ${new Date(at).toISOString()}`);
    }
    log(`${figures.serverCases} schedules of a real server, ${figures.serverTimes} times`);
    if (figures.serverCases === 0) missed('the server gave no times');
    return figures;
  } finally {
    await connection.close();
    await temporal.stop();
  }
}
