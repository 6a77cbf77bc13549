/**
 * engine: the whole engine (PostgreSQL, Temporal, object store, one worker) beside a bare signed loop of the same width
 * against the same upstream, interleaved over rounds of one run; and what a poll costs the database, Temporal and the log.
 *
 * Groups of rows have an interval of one second while they are measured, so the engine never runs out of work; polls a
 * second are counted between two moments of that, and once more from the first arm to the last commit (`withEdges`). The
 * paced group is polled at its own pace under the whole table, which is what the database's goal is stated for.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { KEY_BYTES, keyHashOf } from '@milkrun/core';
import { type Bench, type Figures, type Flags, UsageError } from '@milkrun/drills';
import type { EngineFigures } from './lib/engine-process.ts';
import { type EngineStack, startEngineStack } from './lib/engine-stack.ts';
import {
  catchUp,
  closeGroup,
  type Group,
  holdDispatch,
  insertGroups,
  openGroup,
  resumeDispatch,
} from './lib/fleet-rows.ts';
import { beginWindow, endWindow, type WindowFigures } from './lib/window.ts';

const WIDTH = 500;
const GROUP_ROWS = 40_000;
/** Polls before a window: two batches, so that both of those that overlap are under way. */
const WARM_POLLS = 10_000;
const SEEN_KEYS = 1_000;
/** The design's pace: 1 M rows at an interval of 300 s. */
const PACED_PER_SECOND = 3_333;
const PACED_WARM_MS = 12_000;
const PACED_MS = 40_000;

const PROFILES = ['fast', 'slow', 'tail'] as const;
type Profile = (typeof PROFILES)[number];
/** Polls of a round, of each contestant. */
const POLLS: Readonly<Record<Profile, number>> = { fast: 80_000, slow: 25_000, tail: 60_000 };
const RATIO_GOALS: Readonly<Record<Profile, number>> = { fast: 0.6, slow: 0.9, tail: 0.7 };
const GOALS = {
  databaseCpuPerPollMicros: 60,
  statementsPer1000Polls: 4,
  walBytesPerPoll: 800,
  hotShare: 0.98,
  historyEventsPer1000Polls: 10,
  eventLoopDelayP99Ms: 30,
};

interface Round extends WindowFigures {
  readonly bare: { readonly pollsPerSecond: number; readonly cpuPerPollMicros: number };
  readonly withEdgesPerSecond: number;
}

export const bench: Bench = {
  name: 'engine',
  about:
    'The whole engine beside a bare signed loop 500 wide, and what a poll costs the database, Temporal and the log.',
  flags: {
    rows: 'rows of the table; 300,000 by default, at least 220,000',
    rounds: 'rounds of each profile; 3 by default',
    only: 'profiles measured, separated by commas: fast,slow,tail,events,seen,paced',
  },
  async run({ log, flags }) {
    const rows = integer(flags, 'rows', 300_000, 220_000);
    const rounds = integer(flags, 'rounds', 3, 1);
    const only = typeof flags.only === 'string' ? flags.only.split(',') : undefined;
    const wants = (name: string): boolean => only === undefined || only.includes(name);
    const groups = groupsOf(rows);
    const stack = await startEngineStack(async (sql) => {
      await insertGroups(sql, groups, log);
      if (wants('paced')) await catchUp(sql, indexOf(groups, 'fast-events-paced'));
      else await closeGroup(sql, indexOf(groups, 'fast-events-paced'));
    }, log);
    try {
      const paced = wants('paced') ? await measurePaced(stack, groups, log) : undefined;
      const byProfile = await measureRounds(stack, groups, PROFILES.filter(wants), rounds, log);
      const events = wants('events') ? await measureGroup(stack, groups, 'fast-events', POLLS.fast, log) : undefined;
      const seen = wants('seen') ? await measureGroup(stack, groups, 'fast-seen', POLLS.fast / 2, log) : undefined;
      return summary({ rows, byProfile, events, seen, paced });
    } finally {
      await stack.stop();
    }
  },
};

function integer(flags: Flags, name: string, fallback: number, least: number): number {
  const given = flags[name];
  if (given === undefined) return fallback;
  const value = Number(given);
  if (!Number.isInteger(value) || value < least)
    throw new UsageError(`--${name} takes an integer of at least ${least}`);
  return value;
}

function groupsOf(rows: number): Group[] {
  const seen = new Uint8Array(SEEN_KEYS * KEY_BYTES);
  for (let n = 0; n < SEEN_KEYS; n += 1) seen.set(keyHashOf(`item-${n}`), n * KEY_BYTES);
  const measured: Group[] = [
    ...PROFILES.map((profile) => ({ profile, rows: GROUP_ROWS })),
    { profile: 'fast-events', rows: GROUP_ROWS },
    { profile: 'fast-seen', rows: GROUP_ROWS, seen },
  ];
  const left = rows - measured.length * GROUP_ROWS;
  return [
    ...measured,
    { profile: 'fast-events-paced', rows: left, pacedBy: Math.max(1, Math.round(left / PACED_PER_SECOND)) },
  ];
}

function indexOf(groups: readonly Group[], profile: string): number {
  return groups.findIndex((group) => group.profile === profile);
}

async function measureRounds(
  stack: EngineStack,
  groups: readonly Group[],
  profiles: readonly Profile[],
  rounds: number,
  log: (line: string) => void,
): Promise<Map<Profile, Round[]>> {
  const byProfile = new Map<Profile, Round[]>(profiles.map((profile) => [profile, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (const profile of profiles) {
      const polls = POLLS[profile];
      // Who goes first takes turns: a machine that warms up or is shared favours neither.
      const before = round % 2 === 0 ? await bareLoop(stack, profile, polls) : undefined;
      const engine = await measureGroup(stack, groups, profile, polls, log);
      const bare = before ?? (await bareLoop(stack, profile, polls));
      byProfile.get(profile)?.push({ ...engine, bare });
      log(
        `round ${round + 1} ${profile}: bare ${Math.round(bare.pollsPerSecond)}/s ${bare.cpuPerPollMicros.toFixed(1)} µs, ` +
          `ratio ${(engine.pollsPerSecond / bare.pollsPerSecond).toFixed(3)}`,
      );
    }
  }
  return byProfile;
}

async function bareLoop(stack: EngineStack, profile: Profile, polls: number): Promise<Round['bare']> {
  const path = fileURLToPath(new URL('lib/bare-loop.ts', import.meta.url));
  const child = fork(path, [stack.upstream, profile, String(polls), String(WIDTH)], { silent: true });
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  await once(child, 'exit');
  const { seconds, cpu } = JSON.parse(line.toString()) as { seconds: number; cpu: number };
  return { pollsPerSecond: polls / seconds, cpuPerPollMicros: (cpu * 1e6) / polls };
}

/** Opens a group, measures `polls` polls after the start, closes it, and waits until everything is committed. */
async function measureGroup(
  stack: EngineStack,
  groups: readonly Group[],
  profile: string,
  polls: number,
  log: (line: string) => void,
): Promise<WindowFigures & { readonly withEdgesPerSecond: number }> {
  const index = indexOf(groups, profile);
  await openGroup(stack.sql, index);
  const before = await stack.figures();
  const started = performance.now();
  await stack.timers.arm(0);
  await pollsReach(stack, before.polls + WARM_POLLS);
  const from = await beginWindow(stack);
  await pollsReach(stack, from.figures.polls + polls);
  const { to, figures } = await endWindow(stack, from);
  await holdDispatch(stack.sql);
  const seconds = (performance.now() - started) / 1000;
  const after = await allCommitted(stack, before);
  await closeGroup(stack.sql, index);
  await resumeDispatch(stack.sql);
  log(
    `${profile}: ${Math.round(figures.pollsPerSecond)}/s, CPU ${figures.cpuPerPollMicros.toFixed(1)} µs, database ` +
      `${figures.databaseCpuPerPollMicros.toFixed(1)}, Temporal ${figures.temporalCpuPerPollMicros.toFixed(1)}, upstream ` +
      `${figures.upstreamCpuPerPollMicros.toFixed(1)}, WAL ${Math.round(figures.walBytesPerPoll)} B, HOT ` +
      `${figures.hotShare.toFixed(3)}, ${figures.statementsPer1000Polls.toFixed(2)} statements/1,000, ${figures.ticks} ticks, ` +
      `${figures.batches} batches of ${Math.round(figures.rowsPerBatch)}, loop p99 ${figures.eventLoopDelayP99Ms.toFixed(0)} ms, ` +
      `${to.figures.fenced - from.figures.fenced} fenced`,
  );
  return { ...figures, withEdgesPerSecond: (after.polls - before.polls) / seconds };
}

async function measurePaced(stack: EngineStack, groups: readonly Group[], log: (line: string) => void) {
  await sleep(PACED_WARM_MS);
  const from = await beginWindow(stack);
  await sleep(PACED_MS);
  const { figures } = await endWindow(stack, from);
  log(
    `paced: ${Math.round(figures.pollsPerSecond)}/s, database ${figures.databaseCpuPerPollMicros.toFixed(1)} µs, WAL ` +
      `${Math.round(figures.walBytesPerPoll)} B, HOT ${figures.hotShare.toFixed(3)}, ${figures.ticks} ticks, ${figures.batches} batches of ` +
      `${Math.round(figures.rowsPerBatch)}`,
  );
  await holdDispatch(stack.sql);
  await closeGroup(stack.sql, indexOf(groups, 'fast-events-paced'));
  await resumeDispatch(stack.sql);
  return figures;
}

/** The worker counts a commit a moment after the database has it. */
async function allCommitted(stack: EngineStack, before: EngineFigures): Promise<EngineFigures> {
  const giveUp = performance.now() + 5_000;
  for (;;) {
    const after = await stack.figures();
    const missing = after.polls - before.polls - (after.committed - before.committed);
    if (missing === 0) return after;
    if (performance.now() > giveUp) throw new Error(`${missing} polls were not committed`);
    await sleep(20);
  }
}

async function pollsReach(stack: EngineStack, wanted: number): Promise<void> {
  const giveUp = performance.now() + 120_000;
  while ((await stack.figures()).polls < wanted) {
    if (performance.now() > giveUp) throw new Error('the engine made no progress for two minutes');
    await sleep(50);
  }
}

function summary(measured: {
  readonly rows: number;
  readonly byProfile: ReadonlyMap<Profile, readonly Round[]>;
  readonly events: WindowFigures | undefined;
  readonly seen: WindowFigures | undefined;
  readonly paced: WindowFigures | undefined;
}): Figures & { readonly missed: readonly string[] } {
  const { rows, byProfile, events, seen, paced } = measured;
  const missed: string[] = [];
  const atLeast = (name: string, value: number | undefined, goal: number): void => {
    if (value !== undefined && !(value >= goal)) missed.push(`${name} ${round(value)} < ${goal}`);
  };
  const atMost = (name: string, value: number | undefined, goal: number): void => {
    if (value !== undefined && !(value <= goal)) missed.push(`${name} ${round(value)} > ${goal}`);
  };
  const profiles: Record<string, unknown> = {};
  for (const [profile, rounds] of byProfile) {
    const ratio = spreadOf(rounds.map((one) => one.pollsPerSecond / one.bare.pollsPerSecond));
    atLeast(`${profile}.ratio`, ratio.median, RATIO_GOALS[profile]);
    profiles[profile] = {
      ratio,
      withEdgesRatio: spreadOf(rounds.map((one) => one.withEdgesPerSecond / one.bare.pollsPerSecond)),
      cpuRatio: spreadOf(rounds.map((one) => one.cpuPerPollMicros / one.bare.cpuPerPollMicros)),
      bare: {
        pollsPerSecond: spreadOf(rounds.map((one) => one.bare.pollsPerSecond)),
        cpuPerPollMicros: median(rounds, (one) => one.bare.cpuPerPollMicros),
      },
      ...medians(rounds),
    };
  }
  const fast = byProfile.get('fast');
  const of = (pick: (figures: WindowFigures) => number): number | undefined => fast && median(fast, pick);
  const headline = {
    hotShare: events?.hotShare ?? of((one) => one.hotShare),
    toastGrowthBytes: events?.toastGrowthBytes,
    walBytesPerPoll: events?.walBytesPerPoll,
    statementsPer1000Polls: of((one) => one.statementsPer1000Polls),
    databaseCpuPerPollMicros: paced?.databaseCpuPerPollMicros,
    historyEventsPer1000Polls: fast && {
      batchPoller: median(fast, (one) => one.historyEventsPer1000Polls.batchPoller),
      timerShard: median(fast, (one) => one.historyEventsPer1000Polls.timerShard),
    },
    eventLoopDelayP99Ms: of((one) => one.eventLoopDelayP99Ms),
  };
  atLeast('hotShare', headline.hotShare, GOALS.hotShare);
  atMost('walBytesPerPoll', headline.walBytesPerPoll, GOALS.walBytesPerPoll);
  atMost('statementsPer1000Polls', headline.statementsPer1000Polls, GOALS.statementsPer1000Polls);
  atMost('databaseCpuPerPollMicros', headline.databaseCpuPerPollMicros, GOALS.databaseCpuPerPollMicros);
  atMost('eventLoopDelayP99Ms', headline.eventLoopDelayP99Ms, GOALS.eventLoopDelayP99Ms);
  atLeast('seenProfile.hotShare', seen?.hotShare, GOALS.hotShare);
  atMost('seenProfile.walBytesPerPoll', seen?.walBytesPerPoll, GOALS.walBytesPerPoll);
  atMost('seenProfile.statementsPer1000Polls', seen?.statementsPer1000Polls, GOALS.statementsPer1000Polls);
  const events1000 = headline.historyEventsPer1000Polls;
  if (events1000 !== undefined) {
    atMost(
      'historyEventsPer1000Polls',
      events1000.batchPoller + events1000.timerShard,
      GOALS.historyEventsPer1000Polls,
    );
  }
  return {
    ...profiles,
    ...rounded(headline),
    ...(events === undefined ? {} : { eventsProfile: medians([events]) }),
    ...(seen === undefined ? {} : { seenProfile: { seenKeys: SEEN_KEYS, ...medians([seen]) } }),
    ...(paced === undefined ? {} : { pacedProfile: medians([paced]) }),
    rows,
    width: WIDTH,
    quiet: [...byProfile.values()].every(isQuiet),
    missed,
  };
}

/** Whether the machine was left alone: the bare loop, which nothing of ours can slow, kept its rate within 15 %. */
function isQuiet(rounds: readonly Round[]): boolean {
  const rates = rounds.map((one) => one.bare.pollsPerSecond);
  return Math.max(...rates) <= Math.min(...rates) * 1.15;
}

function medians(rounds: readonly WindowFigures[]): Record<string, unknown> {
  const names = [
    'pollsPerSecond',
    'cpuPerPollMicros',
    'databaseCpuPerPollMicros',
    'temporalCpuPerPollMicros',
    'upstreamCpuPerPollMicros',
    'walBytesPerPoll',
    'hotShare',
    'toastGrowthBytes',
    'statementsPer1000Polls',
    'ticks',
    'rowsPerBatch',
    'eventLoopDelayP99Ms',
    'eventLoopDelayMaxMs',
    'rssMb',
  ] as const;
  return Object.fromEntries(names.map((name) => [name, median(rounds, (one) => one[name])]));
}

function median<T>(values: readonly T[], pick: (value: T) => number): number {
  const sorted = values.map(pick).sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN;
  return round((lower + upper) / 2);
}

function spreadOf(values: readonly number[]) {
  const sorted = values.toSorted((a, b) => a - b);
  return {
    median: median(values, (value) => value),
    min: round(sorted[0] ?? Number.NaN),
    max: round(sorted.at(-1) ?? Number.NaN),
    rounds: values.length,
  };
}

const round = (value: number): number => Number(value.toPrecision(4));

function rounded(figures: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(figures).map(([name, value]) => [name, typeof value === 'number' ? round(value) : value]),
  );
}
