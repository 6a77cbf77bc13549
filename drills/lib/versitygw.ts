/** versitygw, an S3 server people run, over a directory: built by `go install`, killed and started again by drills. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { systemClock } from '@milkrun/core';
import { findGoTool, type GoTool } from './go-tool.ts';
import type { Say } from './types.ts';

const TOOL: GoTool = {
  name: 'versitygw',
  module: 'github.com/versity/versitygw/cmd/versitygw',
  version: 'v1.8.0',
  setting: 'VERSITYGW_PATH',
};
const START_MS = 30_000;

export const VERSITYGW_CREDENTIALS = { accessKeyId: 'drill', secretAccessKey: 'drill-secret' };

export const findVersitygw = (log: Say): string => findGoTool(TOOL, log);

export interface Versitygw {
  readonly endpoint: string;
  /** Ends it without warning and starts it again on the same port and directory. */
  crash(): Promise<void>;
  stop(): Promise<void>;
}

/** Serves the directory; each folder in it is a bucket. */
export async function startVersitygw(binary: string, directory: string): Promise<Versitygw> {
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  let child = await start();

  async function start(): Promise<ChildProcess> {
    const started = spawn(binary, ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', directory], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        ROOT_ACCESS_KEY: VERSITYGW_CREDENTIALS.accessKeyId,
        ROOT_SECRET_KEY: VERSITYGW_CREDENTIALS.secretAccessKey,
      },
    });
    let output = '';
    started.stderr?.on('data', (chunk) => {
      output = (output + String(chunk)).slice(-2_000);
    });
    const until = systemClock.monotonic() + START_MS;
    while (!(await answers(endpoint))) {
      if (started.exitCode !== null || systemClock.monotonic() > until) {
        await kill(started);
        throw new Error(`versitygw does not answer on ${endpoint}: ${output}`);
      }
      await systemClock.sleep(20);
    }
    return started;
  }

  return {
    endpoint,
    async crash() {
      await kill(child);
      child = await start();
    },
    stop: () => kill(child),
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** Any HTTP answer will do: without a signature it is a refusal. */
async function answers(endpoint: string): Promise<boolean> {
  try {
    await (await fetch(endpoint)).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}
