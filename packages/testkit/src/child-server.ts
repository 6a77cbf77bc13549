/** A server that is a child of this process, ready once its port listens, and gone with this process at the latest. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

interface ChildServer {
  readonly pid: number;
  /** Ends the child and resolves when it is gone. */
  stop(): Promise<void>;
}

const START_MS_MAX = 30_000;
const STOP_MS_MAX = 10_000;

/** Rejects with what the child said when it does not come up. */
export async function startChildServer(input: {
  readonly name: string;
  readonly binary: string;
  readonly args: readonly string[];
  readonly port: number;
}): Promise<ChildServer> {
  const { name, binary, args, port } = input;
  const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = tailOf(child);
  const kill = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', kill);
  const exited = new Promise<void>((resolve) => {
    const done = (): void => {
      process.removeListener('exit', kill);
      resolve();
    };
    child.once('exit', done);
    child.once('error', done);
  });
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    const gone = await Promise.race([exited.then(() => true), delay(STOP_MS_MAX, false, { ref: false })]);
    if (!gone) kill();
    await exited;
  };
  try {
    await answering(port, exited);
  } catch (error) {
    await stop();
    throw new Error(`${name} (${binary}) did not start on 127.0.0.1:${port}: ${said() || String(error)}`, {
      cause: error,
    });
  }
  return { pid: child.pid as number, stop };
}

/** A TCP probe: `Connection.connect` before the port listens would wait a whole second for its next try. */
async function answering(port: number, exited: Promise<void>): Promise<void> {
  const giveUp = performance.now() + START_MS_MAX;
  let gone = false;
  exited.then(() => {
    gone = true;
  });
  while (performance.now() < giveUp) {
    if (gone) throw new Error('it exited');
    if (await listens(port)) return;
    await delay(10);
  }
  throw new Error(`nothing listens after ${START_MS_MAX / 1000} s`);
}

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no free port on 127.0.0.1');
  return address.port;
}

/** The last 2,000 characters of what the child wrote to stderr; the pipe is always read, so it never blocks. */
function tailOf(child: ChildProcess): () => string {
  let tail = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-2000);
  });
  child.once('error', (error) => {
    tail = `${tail}${error.message}`;
  });
  return () => tail.trim();
}
