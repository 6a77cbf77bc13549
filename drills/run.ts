/** `npm run drill -- NAME`: runs drills/NAME.ts. */
import { runDrill } from './lib/index.ts';

/** A server or socket left open must not keep a finished run from ending. */
const LINGER_MS = 10_000;

// What a drill has started ends with it, interrupted or not: that hangs on the event of an orderly exit.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

process.exitCode = await runDrill({
  args: process.argv.slice(2),
  folder: new URL('./', import.meta.url),
  recordTo: {
    results: new URL('../drills/results/', import.meta.url),
    page: new URL('../docs/scoreboard.md', import.meta.url),
  },
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
});
setTimeout(() => process.exit(), LINGER_MS).unref();
