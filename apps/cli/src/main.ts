#!/usr/bin/env node
import { processIo } from './io.ts';
import { runCli } from './program.ts';

// Who reads may have seen enough, as `head` has: that is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit();
});
process.exitCode = await runCli(process.argv.slice(2), processIo);
// The channel to `milkrun dev` would keep an ended part alive.
if (process.connected) process.disconnect();
