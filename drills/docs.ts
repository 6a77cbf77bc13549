/**
 * The commands of README, docs and runbooks, run as they stand there against a live `milkrun dev`; and the tests that hold
 * every name in those pages against the code.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type DevRun, freePorts, startDev, until } from './lib/dev-run.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const MAIN = join(ROOT, 'apps/cli/src/main.ts');
const COMMAND_MS_MAX = 60_000;
/** Processes: `milkrun dev` starts each of them with this very command. */
const PARTS = ['dev', 'worker', 'api', 'poll-function', 'orchestrator'];
/** Exit codes that are answers: done, and doctor's "there are violations". */
const FINE = [0, 4];
const USAGE = 2;
const CREDENTIALS = JSON.stringify({ token: 'of-nobody' });

export const drill: Drill = {
  name: 'docs',
  about: 'Every command in README, docs and runbooks runs; every metric, setting and code named there exists.',
  defaults: { count: 1 },
  flags: { triggers: 'synthetic triggers of the live run; default 20' },
  async run({ log, flags }: DrillInput): Promise<DrillResult> {
    const triggers = integerFrom('triggers', flags.triggers, 20, 1);
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    const commands = commandsOfPages();
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-docs-'));
    // PostgreSQL refuses to run as root, so its own user has to reach the folder.
    await chmod(home, 0o755);
    const ports = await freePorts();
    let dev: DevRun | undefined;
    let ran = 0;
    let helped = 0;
    try {
      dev = await startDev({ home, settings: { ...ports, DISPATCH_TICK: '1s' }, fleet: triggers, log });
      await until('a poll', 60_000, async () => (await dev?.engine<{ due: number }>('/fleet')) !== undefined);
      for (const [line, page] of commands) {
        const [verb = ''] = line;
        if (PARTS.includes(verb) && line.length === 1) {
          if (verb !== 'dev') dev.pidOf(verb);
          ran += 1;
          continue;
        }
        const args = await filledIn(line, dev);
        let outcome = await milkrun(args, { ...ports, MILKRUN_HOME: home });
        // A page may name a group or a verb alone; then its help must be there.
        if (outcome.code === USAGE && !line.some((word) => word.startsWith('-'))) {
          outcome = await milkrun([...args, '--help'], { ...ports, MILKRUN_HOME: home });
          helped += 1;
        } else {
          ran += 1;
        }
        if (!FINE.includes(outcome.code ?? 1)) {
          report(`${page}: milkrun ${args.join(' ')} ended with ${outcome.code}: ${outcome.text.slice(-400)}`);
        }
      }
    } finally {
      await dev?.stop();
      await rm(home, { recursive: true, force: true });
    }
    const named = await namesExist();
    if (named !== undefined) report(named);
    return { tried: commands.size + 1, violations, commands: commands.size, ran, helped, pages: pages().length };
  },
};

function pages(): string[] {
  const docs = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'));
  return ['README.md', 'CONTRIBUTING.md', ...docs.map((name) => `docs/${name}`)];
}

/** Each command once, as words, with the page it stands on. */
function commandsOfPages(): Map<readonly string[], string> {
  const found = new Map<string, string>();
  for (const page of pages()) {
    const text = readFileSync(join(ROOT, page), 'utf8');
    const blocks = [...text.matchAll(/^```(?:sh|bash)\n([\s\S]*?)^```/gm)].flatMap(([, code = '']) =>
      code.replaceAll(/\\\n\s*/g, ' ').split(/\n(?![^']*'(?:[^']*'[^']*')*[^']*$)/),
    );
    const spans = [...text.replaceAll(/^```[\s\S]*?^```/gm, '').matchAll(/`([^`]+)`/g)].map(([, code = '']) => code);
    for (const code of [...blocks, ...spans]) {
      const [, rest] = /^(?:npm run milkrun --|milkrun) (.+)$/s.exec(code.trim()) ?? [];
      if (rest !== undefined && !found.has(rest)) found.set(rest, page);
    }
  }
  const commands = new Map<readonly string[], string>();
  for (const [rest, page] of found) {
    const line = wordsOf(rest.replace(/\s+#.*$/, ''));
    if (line.length > 0) commands.set(line, page);
  }
  return commands;
}

/** Words as a shell would see them; input that is redirected, `…` and `ARGS` stand for what the reader puts there. */
function wordsOf(text: string): string[] {
  const words = [...text.replace(/\s<\s.*$/s, '').matchAll(/'([^']*)'|"([^"]*)"|([^\s'"]+)/g)];
  return words
    .map(([, single, double, bare]) => single ?? double ?? bare ?? '')
    .filter((word) => !['…', 'ARGS'].includes(word));
}

/** Puts what exists in the live run where the page has a placeholder. */
async function filledIn(line: readonly string[], dev: DevRun): Promise<string[]> {
  const [group = ''] = line;
  const idOf = async (path: string): Promise<string> => {
    const { items } = await dev.api<{ items: { id: string }[] }>(path);
    return items.at(-1)?.id ?? 'none';
  };
  const words: string[] = [];
  for (const [at, word] of line.entries()) {
    const before = line[at - 1];
    if (word === 'ID' && before === '--connection') words.push(await idOf('/connections?limit=1'));
    else if (word === 'ID' && group === 'events') words.push(await idOf('/events?limit=1'));
    else if (word === 'ID') words.push(await idOf('/triggers?limit=50'));
    else if (word === 'NAME') words.push('synthetic');
    // `--since … --until …`: any times do.
    else if (before === '--until' && word.startsWith('--')) words.push('2030-01-01', word);
    else words.push(word);
  }
  if (words.at(-1) === '--until') words.push('2030-01-01');
  const since = words.indexOf('--since');
  if (since >= 0 && (words[since + 1] ?? '--').startsWith('--')) words.splice(since + 1, 0, '2026-01-01');
  const reason = words.indexOf('--reason');
  if (reason >= 0 && words[reason + 1] === undefined) words.push('as the page says');
  return words;
}

async function milkrun(args: readonly string[], settings: Readonly<Record<string, string>>) {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, ...settings },
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: COMMAND_MS_MAX,
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(CREDENTIALS);
  let text = '';
  child.stdout.on('data', (chunk) => (text += String(chunk)));
  child.stderr.on('data', (chunk) => (text += String(chunk)));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, text };
}

/** Runs the tests of the pages; answers what they said when one fails. */
async function namesExist(): Promise<string | undefined> {
  const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
  const child = spawn(process.execPath, [vitest, 'run', 'scripts/test/docs.test.ts'], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  child.stdout.on('data', (chunk) => (text += String(chunk)));
  child.stderr.on('data', (chunk) => (text += String(chunk)));
  const [code] = (await once(child, 'close')) as [number | null];
  return code === 0 ? undefined : `names in the pages: ${text.slice(-1_500)}`;
}
