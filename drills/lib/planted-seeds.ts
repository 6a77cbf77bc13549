/** Runs seeds one after the other until one finds something: what the planted-bugs drill starts in its scratch copy. */
import { CHECKERS, simulate } from '@milkrun/simulation';

// Nobody reads a stack here, and a run makes thousands of errors on purpose: taking them is a tenth of its time.
Error.stackTraceLimit = 0;

const [from = 1, count = 1, patienceMs = 60_000] = process.argv.slice(2).map(Number);
const until = performance.now() + patienceMs;
let found: { readonly seeds: number; readonly finding: string } | undefined;
let seeds = 0;
for (let seed = from; seed < from + count && found === undefined && performance.now() < until; seed += 1) {
  seeds += 1;
  try {
    const [finding] = (await simulate(seed)).findings;
    if (finding !== undefined) found = { seeds, finding: `${finding.checker}: ${finding.message}` };
  } catch (error) {
    // The run itself broke on what the bug made of its data.
    found = { seeds, finding: `run: ${String(error)}` };
  }
}
process.stdout.write(`${JSON.stringify({ seeds, checkers: Object.keys(CHECKERS).length, ...found })}\n`, () =>
  process.exit(),
);
