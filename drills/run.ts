/** `npm run drill -- NAME`: runs drills/NAME.ts. */
import { runDrill } from './lib/index.ts';

// What a drill has started ends with it, interrupted or not: that hangs on the event of an orderly exit.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

const code = await runDrill({
  args: process.argv.slice(2),
  folder: new URL('./', import.meta.url),
  recordTo: {
    results: new URL('../drills/results/', import.meta.url),
    page: new URL('../docs/scoreboard.md', import.meta.url),
  },
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
});
// Not left to Node: a socket left open would keep a finished run from ending, and one that a proxy reset while it connected
// keeps Node's own end waiting for ever.
process.stderr.write('', () => process.stdout.write('', () => process.exit(code)));
