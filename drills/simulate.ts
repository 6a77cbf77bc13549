/**
 * Runs of the deterministic simulation, seed after seed, on two threads: the engine's own steps, decisions and loops under
 * faults that each seed draws for itself, then without faults until all is at rest; every run is judged by the invariants.
 *
 * A sample of the seeds is run twice, and the two traces must be the same to the byte. A seed that breaks something is
 * shrunk: what is left of its faults and edits is printed with the command that runs it again.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { CALL_FAULTS, MOMENT_FAULTS, reportOf, rerunCommand, shrink, simulate } from '@milkrun/simulation';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { UsageError } from './lib/index.ts';
import type { SeedAnswer } from './lib/simulate-worker.ts';

const THREADS = 2;
const REPLAY_EVERY = 50;
const SHRUNK_MAX = 3;
const SAID_EVERY = 500;
/** The promise: 10,000 seeds in ten minutes. */
const FULL = { seeds: 10_000, seconds: 600 };
/** Seeds from which on every kind of fault must have fired. */
const ALL_KINDS_FROM = 500;

interface Totals {
  tried: number;
  violations: number;
  replayed: number;
  edits: number;
  commits: number;
  steps: number;
  virtualSeconds: number;
  readonly faults: Record<string, number>;
  readonly failing: number[];
  readonly byInvariant: Record<string, number>;
}

/** Where a long run stands, kept in the file of `--resume`. */
interface Progress {
  readonly seed: number;
  next: number;
  totals: Totals;
}

const fresh = (): Totals => ({
  tried: 0,
  violations: 0,
  replayed: 0,
  edits: 0,
  commits: 0,
  steps: 0,
  virtualSeconds: 0,
  faults: {},
  failing: [],
  byInvariant: {},
});

function progressOf(file: string | true | undefined, seed: number): Progress {
  if (file === true) throw new UsageError('--resume takes a file');
  if (file === undefined || !existsSync(file)) return { seed, next: seed, totals: fresh() };
  return JSON.parse(readFileSync(file, 'utf8')) as Progress;
}

function add(totals: Totals, answer: SeedAnswer): void {
  totals.tried += 1;
  totals.edits += answer.edits;
  totals.commits += answer.commits;
  totals.steps += answer.steps;
  totals.virtualSeconds += answer.virtualSeconds;
  if (answer.replayed) totals.replayed += 1;
  for (const [kind, count] of Object.entries(answer.faults)) totals.faults[kind] = (totals.faults[kind] ?? 0) + count;
  const broken = new Set(answer.findings.map((finding) => finding.split(':')[0] as string));
  if (answer.differs) broken.add('replay');
  if (broken.size === 0) return;
  totals.violations += broken.size;
  totals.failing.push(answer.seed);
  for (const name of broken) totals.byInvariant[name] = (totals.byInvariant[name] ?? 0) + 1;
}

async function run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
  if (flags.trace !== undefined) return await show(seed, log);
  const file = flags.resume;
  const progress = progressOf(file, seed);
  const { totals } = progress;
  const until = progress.seed + count;
  const startedAt = performance.now();
  const begun = totals.tried;
  await inThreads(progress.next, until, (answer) => {
    add(totals, answer);
    for (const finding of answer.findings.slice(0, 2)) log(`seed ${answer.seed} ${finding}`);
    if (answer.differs) log(`seed ${answer.seed} was another run the second time`);
    if (totals.tried % SAID_EVERY !== 0) return;
    const rate = (totals.tried - begun) / ((performance.now() - startedAt) / 1000);
    log(`${totals.tried} of ${count} seeds, ${totals.violations} violations, ${rate.toFixed(1)} a second`);
    // What lies behind the file's number may be run again, never left out: seeds are handed out in order.
    if (typeof file === 'string') {
      progress.next = progress.seed + Math.max(0, totals.tried - THREADS);
      writeFileSync(file, JSON.stringify(progress));
    }
  });
  if (typeof file === 'string') writeFileSync(file, JSON.stringify({ ...progress, next: until }));
  for (const failing of totals.failing.slice(0, SHRUNK_MAX)) {
    const { run: least, tries } = await shrink(failing);
    log(`${reportOf(least)}\n(shrunk in ${tries} runs)`);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const missing = [...CALL_FAULTS, ...MOMENT_FAULTS].filter((kind) => totals.faults[kind] === undefined);
  const isSlow = totals.tried - begun >= FULL.seeds && seconds > (FULL.seconds * (totals.tried - begun)) / FULL.seeds;
  const isPartial = totals.tried >= ALL_KINDS_FROM && missing.length > 0;
  return {
    tried: totals.tried,
    violations: totals.violations + Number(isSlow) + Number(isPartial),
    faults: Object.values(totals.faults).reduce((sum, fired) => sum + fired, 0),
    faultKinds: Object.keys(totals.faults).length,
    edits: totals.edits,
    commits: totals.commits,
    moments: totals.steps,
    virtualHours: Math.round(totals.virtualSeconds / 3600),
    replayed: totals.replayed,
    seedsASecond: Number(((totals.tried - begun) / seconds).toFixed(1)),
    ...(totals.failing.length === 0 ? {} : { failing: totals.failing.slice(0, 20), byInvariant: totals.byInvariant }),
    ...(isPartial ? { missing } : {}),
  };
}

async function show(seed: number, log: DrillInput['log']): Promise<DrillResult> {
  const once = await simulate(seed, { keepTrace: true });
  log(once.trace.join(''));
  log(reportOf(once));
  if (once.findings.length > 0) log(reportOf((await shrink(seed)).run));
  return {
    tried: 1,
    violations: once.findings.length,
    faults: Math.max(1, once.fired.length),
    again: rerunCommand(seed),
  };
}

/** Seeds in order, each to the thread that is free. */
async function inThreads(from: number, until: number, done: (answer: SeedAnswer) => void): Promise<void> {
  let next = from;
  await Promise.all(
    Array.from({ length: THREADS }, async () => {
      const thread = new Worker(new URL('./lib/simulate-worker.ts', import.meta.url));
      try {
        while (next < until) {
          const seed = next;
          next += 1;
          const { promise, resolve, reject } = Promise.withResolvers<SeedAnswer>();
          thread.once('message', resolve).once('error', reject);
          thread.postMessage({ seed, replay: seed % REPLAY_EVERY === 0 });
          done(await promise);
          thread.removeListener('error', reject);
        }
      } finally {
        await thread.terminate();
      }
    }),
  );
}

export const drill: Drill = {
  name: 'simulate',
  about: 'Whatever fails, in whatever order, no invariant breaks; once nothing fails, everything comes to rest.',
  defaults: { count: 1_000 },
  fullCount: 10_000,
  ciCount: 150,
  flags: {
    resume: 'a file that keeps how far a long run has come; started again it goes on from there',
    trace: 'show the whole trace of the run of --seed',
  },
  run,
};
