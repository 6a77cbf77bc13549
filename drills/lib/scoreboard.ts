/**
 * `docs/scoreboard.md`: what each drill and bench gave when it was last recorded. Nothing on it is written by hand:
 * `--record` saves the run's own line and renders the page again; a test fails while the two differ.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Figures } from './types.ts';

export interface Recorded {
  readonly kind: 'drill' | 'bench';
  /** The command line after `npm run KIND --`. */
  readonly args: readonly string[];
  readonly figures: Figures;
  /** The promise held in this run. */
  readonly met: boolean;
}

/** A planted bug in the figures of its drill, under `seedsToFind` by its name. */
export interface Planted {
  readonly rule: string;
  readonly by: string;
  readonly seeds: number | string;
}

interface Saved extends Recorded {
  readonly cores: number;
}

/** Saves a run under its name and renders the page. */
export function record(to: { readonly results: URL; readonly page: URL }, run: Recorded): void {
  const name = String(run.figures[run.kind]);
  mkdirSync(to.results, { recursive: true });
  const saved: Saved = { ...run, cores: availableParallelism() };
  writeFileSync(new URL(`${run.kind}-${name}.json`, to.results), `${JSON.stringify(saved, null, 2)}\n`);
  writeFileSync(to.page, renderScoreboard(to.results));
}

/** The page made of the saved runs in a folder (with a slash at its end). */
export function renderScoreboard(results: URL): string {
  const runs = readdirSync(results)
    .filter((file) => file.endsWith('.json'))
    .toSorted()
    .map((file) => JSON.parse(readFileSync(new URL(file, results), 'utf8')) as Saved);
  const section = (kind: Recorded['kind']): string =>
    runs
      .filter((run) => run.kind === kind)
      .map(rowOf)
      .join('');
  return `# Scoreboard

What the drills and benches of this repository gave when they were last recorded, each by the command beside it. The page
is made by \`--record\`; nothing on it is written by hand. A line that says **missed** did not reach its goal in that run.
Times and rates depend on the machine; counts and ratios should not.

## Drills

| drill | held | tried | violations | figures | command |
|---|---|---|---|---|---|
${section('drill')}
## Benches

| bench | held | figures | command |
|---|---|---|---|
${section('bench')}${runs.map(plantedOf).join('')}`;
}

/** The seeds it took to find each planted bug, where a run has looked for them. */
function plantedOf({ figures: { seedsToFind } }: Saved): string {
  if (seedsToFind === undefined) return '';
  const rows = Object.entries(seedsToFind as Readonly<Record<string, Planted>>).map(
    ([name, { rule, by, seeds }]) => `| ${name} | ${shortly(rule)} | ${by} | ${shortly(seeds)} |\n`,
  );
  return `
## Planted bugs

Patches under \`drills/planted-bugs\`, each breaking one rule, and how many seeds of the simulation, or of the contract between
its model of workerdb and PostgreSQL, it took to find each.

| bug | what it breaks | found by | seeds |
|---|---|---|---|
${rows.join('')}`;
}

function rowOf({ kind, figures, met, args, cores }: Saved): string {
  const { [kind]: name, tried, violations, seedsToFind, ...rest } = figures;
  const counts = kind === 'drill' ? ` ${grouped(tried)} | ${grouped(violations)} |` : '';
  const shown = Object.entries({ ...rest, cores }).map(([key, value]) => `${key} ${shortly(value)}`);
  const command = `\`npm run ${kind} -- ${args.join(' ')}\``;
  return `| ${name} | ${met ? 'yes' : '**missed**'} |${counts} ${shown.join('; ')} | ${command} |\n`;
}

const grouped = (value: unknown): string => (typeof value === 'number' ? value.toLocaleString('en-US') : String(value));

/** A cell must stay one line and one cell. */
function shortly(value: unknown): string {
  if (typeof value === 'number') return grouped(value);
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ');
}
