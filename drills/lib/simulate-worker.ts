/** One thread of the simulate drill: takes seeds, runs them, says what came of each. */
import { parentPort } from 'node:worker_threads';
import { simulate } from '@milkrun/simulation';

// Nobody reads a stack here, and a run makes thousands of errors on purpose: taking them is a tenth of its time.
Error.stackTraceLimit = 0;

export interface SeedAnswer {
  readonly seed: number;
  /** Invariant and what broke it. */
  readonly findings: readonly string[];
  readonly faults: Readonly<Record<string, number>>;
  readonly edits: number;
  readonly commits: number;
  readonly steps: number;
  readonly virtualSeconds: number;
  /** Run twice, and the two traces differed. */
  readonly differs: boolean;
  readonly replayed: boolean;
}

async function run(seed: number, replay: boolean): Promise<SeedAnswer> {
  const once = await simulate(seed);
  const differs = replay && (await simulate(seed)).traceHash !== once.traceHash;
  const faults: Record<string, number> = {};
  for (const { kind } of once.fired) faults[kind] = (faults[kind] ?? 0) + 1;
  return {
    seed,
    findings: once.findings.map(({ checker, message }) => `${checker}: ${message}`),
    faults,
    edits: once.edits.length,
    commits: once.history.facts.filter(({ kind }) => kind === 'committed').length,
    steps: once.steps,
    virtualSeconds: once.virtualSeconds,
    differs,
    replayed: replay,
  };
}

parentPort?.on('message', ({ seed, replay }: { readonly seed: number; readonly replay: boolean }) => {
  void run(seed, replay).then((answer) => parentPort?.postMessage(answer));
});
