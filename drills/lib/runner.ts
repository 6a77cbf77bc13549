/**
 * Runs drills and benches by name. Progress goes to standard error, readable figures and then one JSON line, the last
 * one, to standard output. Exit codes: 0 the promise holds, 1 it does not or the run failed, 2 the command line is wrong.
 */
import { readdirSync } from 'node:fs';
import { nearest } from '@milkrun/core';
import { type CommandLine, checkFlags, integerFrom, parseCommandLine, UsageError } from './command-line.ts';
import { drillsInGate, GATE, runGate } from './gate.ts';
import { record } from './scoreboard.ts';
import type { Bench, Drill, Figures, Say } from './types.ts';

export interface RunnerInput {
  readonly args: readonly string[];
  /** Folder of the `NAME.ts` files, with a slash at its end. */
  readonly folder: URL;
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** Where `--record` writes; the scoreboard is made from these. */
  readonly recordTo?: { readonly results: URL; readonly page: URL };
}

type Kind = 'drill' | 'bench';
type Outcome = { readonly line: Figures; readonly failures: readonly string[] };

const SEED_MAX = 2 ** 31;

export async function runDrill(input: RunnerInput): Promise<number> {
  if (input.args[0] === GATE) {
    const drills = await Promise.all(namesIn(input.folder).map((name) => load<Drill>('drill', input.folder, name)));
    return await runGate(drillsInGate(drills), input);
  }
  return await run('drill', input, ['count', 'seed'], async (drill: Drill, { flags }, log) => {
    const { count: countFlag, seed: seedFlag, ...own } = flags;
    const count = integerFrom('count', countFlag, drill.defaults.count, 1);
    const seed = integerFrom('seed', seedFlag, Math.floor(Math.random() * SEED_MAX), 0);
    log(`${drill.name}: ${drill.about} count ${count}, seed ${seed}`);
    const startedAt = performance.now();
    const timed = (figures: Figures): Figures => ({
      drill: drill.name,
      ...figures,
      seed,
      seconds: secondsSince(startedAt),
    });
    try {
      const result = await drill.run({ count, seed, log, flags: own });
      const failures: string[] = [];
      if (!(Number.isInteger(result.tried) && result.tried > 0)) failures.push('nothing was tried');
      if (result.violations !== 0) failures.push(`${result.violations} violations`);
      if (result.faults !== undefined && !(result.faults > 0)) failures.push('no fault was fired');
      return { line: timed(result), failures };
    } catch (error) {
      return { line: timed({ tried: 0, violations: 1, error: (error as Error).message }), failures: [stackOf(error)] };
    }
  });
}

export async function runBench(input: RunnerInput): Promise<number> {
  return await run('bench', input, [], async (bench: Bench, { flags }, log) => {
    log(`${bench.name}: ${bench.about}`);
    const startedAt = performance.now();
    const timed = (figures: Figures): Figures => ({ bench: bench.name, ...figures, seconds: secondsSince(startedAt) });
    try {
      const figures = await bench.run({ log, flags });
      return { line: timed(figures), failures: figures.missed ?? [] };
    } catch (error) {
      return { line: timed({ error: (error as Error).message }), failures: [stackOf(error)] };
    }
  });
}

async function run<T extends Drill | Bench>(
  kind: Kind,
  { args, folder, out, err, recordTo }: RunnerInput,
  common: readonly string[],
  execute: (what: T, line: CommandLine, log: Say) => Promise<Outcome>,
): Promise<number> {
  try {
    const line = parseCommandLine(args);
    const names = namesIn(folder);
    if (line.name === undefined) {
      if (!line.help) throw new UsageError(`which ${kind}?\n${usage(kind, await describeAll<T>(kind, folder, names))}`);
      out(usage(kind, await describeAll<T>(kind, folder, names)));
      return 0;
    }
    if (!names.includes(line.name)) {
      const meant = nearest(line.name, names);
      const hint = meant === undefined ? '' : ` Did you mean ${meant}?`;
      throw new UsageError(`there is no ${kind} "${line.name}".${hint} There are: ${names.join(', ') || 'none'}`);
    }
    const what = await load<T>(kind, folder, line.name);
    if (line.help) {
      out(usageOf(what));
      return 0;
    }
    checkFlags(line.flags, [...common, ...Object.keys(what.flags ?? {})]);
    const { line: figures, failures } = await execute(what, line, (text) => err(`${text}\n`));
    for (const failure of failures) err(`${what.name}: ${failure}\n`);
    if (!line.json) for (const [name, value] of Object.entries(figures)) out(`${name.padEnd(24)} ${readable(value)}\n`);
    out(`${JSON.stringify(figures)}\n`);
    if (line.record) {
      if (recordTo === undefined)
        throw new UsageError(`a ${kind} of this folder has no scoreboard: leave --record out`);
      record(recordTo, {
        kind,
        args: args.filter((arg) => !SILENT.includes(arg)),
        figures,
        met: failures.length === 0,
      });
    }
    return failures.length === 0 ? 0 : 1;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    err(`${kind}: ${error.message}\n`);
    return 2;
  }
}

function namesIn(folder: URL): string[] {
  const files = readdirSync(folder, { withFileTypes: true });
  const names = files.flatMap((file) => /^([a-z][a-z0-9-]*)\.ts$/.exec(file.isFile() ? file.name : '')?.[1] ?? []);
  return names.filter((name) => name !== 'run').toSorted();
}

async function load<T extends Drill | Bench>(kind: Kind, folder: URL, name: string): Promise<T> {
  const module = (await import(new URL(`${name}.ts`, folder).href)) as Record<string, T>;
  const what = module[kind];
  if (what?.name !== name || typeof what.run !== 'function') {
    throw new Error(`${name}.ts must export ${kind} with name "${name}" and run`);
  }
  return what;
}

async function describeAll<T extends Drill | Bench>(
  kind: Kind,
  folder: URL,
  names: readonly string[],
): Promise<string> {
  const all = await Promise.all(names.map((name) => load<T>(kind, folder, name)));
  return all.map(({ name, about }) => `  ${name.padEnd(24)} ${about}\n`).join('');
}

/** Options that change nothing about the run. */
const SILENT = ['--json', '--record'];

const COMMON_HELP: Readonly<Record<Kind, string>> = {
  drill: '  --count N                how often to try\n  --seed S                 repeat the run of this seed\n',
  bench: '',
};

const OUTPUT_HELP =
  '  --json                   only the JSON line on standard output\n' +
  '  --record                 put the outcome on docs/scoreboard.md\n';

function usage(kind: Kind, list: string): string {
  const head = `npm run ${kind} -- NAME ${kind === 'drill' ? '[--count N] [--seed S] ' : ''}[--json]\n\n`;
  const gate = kind === 'drill' ? 'npm run drill -- gate runs those of them that are quick, with small counts.\n' : '';
  return `${head}${COMMON_HELP[kind]}${OUTPUT_HELP}\n${list || '  none\n'}${gate === '' ? '' : `\n${gate}`}`;
}

function usageOf(what: Drill | Bench): string {
  const own = Object.entries(what.flags ?? {}).map(([flag, about]) => `  ${`--${flag}`.padEnd(24)} ${about}\n`);
  const full = 'fullCount' in what ? `; the promise is stated for ${what.fullCount}` : '';
  const count = 'defaults' in what ? `  --count defaults to ${what.defaults.count}${full}.\n` : '';
  return `${what.name}: ${what.about}\n${count}${own.join('')}`;
}

const secondsSince = (startedAt: number): number => Number(((performance.now() - startedAt) / 1000).toFixed(1));
const readable = (value: unknown): string => (typeof value === 'object' ? JSON.stringify(value) : String(value));
const stackOf = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error));
