/**
 * Proof that the proofs can fail: bugs kept as patches, each breaking one rule, planted one after the other into a scratch
 * copy of the engine. Each must be found, by a seed of the simulation or by the contract between its model of workerdb and
 * PostgreSQL; what finds nothing in the unpatched copy finds nothing by accident. A patch that no longer applies is a
 * violation: it must follow the code it breaks.
 */
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startPostgres } from '@milkrun/testkit';
import { type Drill, type DrillInput, type DrillResult, type Say, UsageError } from './lib/index.ts';
import { type FoundBy, plantedBugs } from './lib/planted-bugs.ts';
import type { Planted } from './lib/scoreboard.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** What runs in the copy, by its path there. */
const SEEDS = relative(ROOT, fileURLToPath(new URL('./lib/planted-seeds.ts', import.meta.url)));
const CONTRACT = relative(ROOT, fileURLToPath(new URL('./lib/planted-contract.ts', import.meta.url)));
const LANES = 2;
const CONTRACT_STEPS = 40;
const CONTRACT_SEEDS_MAX = 60;
/** Seeds of the unpatched copy, which must find nothing: of the contract all that a bug is given, the simulation has a drill. */
const CONTROL = { simulate: 20, contract: CONTRACT_SEEDS_MAX };
/** One bug may take so long; the promise is a number of seeds, this is only the end of waiting. */
const PATIENCE_MS = 600_000;

interface Finding {
  readonly seeds: number;
  readonly finding?: string;
}

function command(
  program: string,
  args: readonly string[],
  cwd: string,
): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(program, args, { cwd, maxBuffer: 64 * 1024 * 1024 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : 1, out, err });
    });
  });
}

/** A copy of what runs, with the packages' own links, so that they find each other in the copy. */
function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'milkrun-planted-'));
  for (const part of ['packages', 'drills', 'package.json', 'tsconfig.base.json'])
    cpSync(join(ROOT, part), join(folder, part), { recursive: true, verbatimSymlinks: true });
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}

async function search(folder: string, by: FoundBy, seeds: number, server: string): Promise<Finding> {
  const args =
    by === 'simulate'
      ? [SEEDS, '1', String(seeds), String(PATIENCE_MS)]
      : [CONTRACT, server, String(Math.min(seeds, CONTRACT_SEEDS_MAX)), String(CONTRACT_STEPS), String(PATIENCE_MS)];
  const { out, err } = await command(process.execPath, args, folder);
  const line = out.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{'))
    return { seeds: 0, finding: `the copy does not run: ${err.trim().split('\n').slice(-3).join(' ').slice(0, 300)}` };
  return JSON.parse(line) as Finding;
}

async function run({ count, log, flags }: DrillInput): Promise<DrillResult> {
  const { only } = flags;
  if (only === true) throw new UsageError('--only takes a part of a name');
  const bugs = plantedBugs().filter(({ name }) => only === undefined || name.includes(only));
  const server = await startPostgres();
  const folders = Array.from({ length: LANES }, scratch);
  const table: Record<string, Planted> = {};
  const missed: string[] = [];
  const notApplied: string[] = [];
  try {
    const control = await controlled(folders[0] as string, server.url, log);
    const waiting = [...bugs];
    const lane = async (folder: string): Promise<void> => {
      for (let bug = waiting.shift(); bug !== undefined; bug = waiting.shift()) {
        const applied = await command('git', ['apply', bug.patch], folder);
        if (applied.code !== 0) {
          notApplied.push(bug.name);
          log(`${bug.name}: the patch does not apply: ${applied.err.trim()}`);
          continue;
        }
        const { seeds, finding } = await search(folder, bug.by, count, server.url);
        await command('git', ['apply', '--reverse', bug.patch], folder);
        // A copy that does not run has found nothing.
        if (finding === undefined || seeds === 0) missed.push(bug.name);
        const { name, rule, by } = bug;
        table[name] = { rule, by, seeds: finding === undefined || seeds === 0 ? `not in ${seeds}` : seeds };
        log(`${name}: ${by} ${table[name].seeds}; ${finding ?? 'nothing'}`);
      }
    };
    await Promise.all(folders.map(lane));
    return {
      tried: bugs.length,
      violations: missed.length + notApplied.length + control + Number(only === undefined && bugs.length < 30),
      faults: bugs.length - notApplied.length,
      found: bugs.length - missed.length - notApplied.length,
      seedsMax: count,
      seedsToFind: Object.fromEntries(Object.entries(table).toSorted(([a], [b]) => (a < b ? -1 : 1))),
      ...(missed.length === 0 ? {} : { missed }),
      ...(notApplied.length === 0 ? {} : { notApplied }),
    };
  } finally {
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    await server.stop();
  }
}

/** Nothing may be found where nothing was planted. */
async function controlled(folder: string, server: string, log: Say): Promise<number> {
  let violations = 0;
  for (const by of ['simulate', 'contract'] as const) {
    const { finding, seeds } = await search(folder, by, CONTROL[by], server);
    log(`nothing planted: ${by} found ${finding ?? 'nothing'} in ${seeds} seeds`);
    violations += Number(finding !== undefined || seeds === 0);
  }
  return violations;
}

export const drill: Drill = {
  name: 'planted-bugs',
  about:
    'Every planted bug is found: by a seed of the simulation, or by the contract between its model and PostgreSQL.',
  defaults: { count: 1_000 },
  fullCount: 10_000,
  flags: { only: 'only bugs whose name holds this text' },
  run,
};
