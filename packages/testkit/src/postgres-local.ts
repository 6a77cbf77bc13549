/** One PostgreSQL server process on 127.0.0.1, from the embedded package's binaries or the machine's own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { Postgres, PostgresOptions } from './postgres.ts';
import { type Binaries, findBinaries } from './postgres-binaries.ts';
import { type Identity, reachable, serverIdentity, shelterOf } from './postgres-identity.ts';

/** What every server gets; a test server forgets on top of it. */
const COMMON = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', 'max_connections=300', 'jit=off'];
const FORGETFUL = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'shared_buffers=128MB'];
const DURABLE = ['shared_buffers=256MB', 'max_wal_size=2GB', 'checkpoint_timeout=15min'];

/** Starts the server; for a durable one, on the directory of an earlier run when there is one. */
export async function localPostgres(options: PostgresOptions): Promise<Postgres> {
  const identity = serverIdentity();
  const binaries = findBinaries(identity);
  await sweep();
  const home = options.dataDir
    ? durableHome(options.dataDir, identity)
    : mkdtempSync(join(tmpdir(), `milkrun-pg-${process.pid}-`));
  if (!options.dataDir) chmodSync(home, 0o755);
  const data = join(home, 'data');
  const secret = join(home, 'password');
  if (!existsSync(join(data, 'PG_VERSION'))) initialise(binaries, identity, data, secret);
  else refuseOtherMajor(binaries, data);
  const password = readFileSync(secret, 'utf8').trim();
  await endEarlierServer(data);
  const port = options.port ?? (await freePort());
  const settings = [...COMMON, ...(options.durable ? [...DURABLE, ...compression(binaries, identity)] : FORGETFUL)];
  const server = await start(binaries, identity, data, port, settings);
  writeFileSync(`${data}.owner`, String(process.pid));
  // A process that ends without `stop` takes its server along: SIGQUIT, the only signal that needs no waiting.
  const last = () => server.kill(options.durable ? 'SIGINT' : 'SIGQUIT');
  process.once('exit', last);
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    kind: binaries.kind,
    crash: async () => {
      process.removeListener('exit', last);
      await ended(server, 'SIGQUIT');
    },
    stop: async () => {
      process.removeListener('exit', last);
      await ended(server, 'SIGINT');
      if (!options.dataDir) rmSync(home, { recursive: true, force: true });
    },
  };
}

/** Ends and removes test servers whose process was killed before it could. */
async function sweep(): Promise<void> {
  for (const name of readdirSync(tmpdir())) {
    const owner = Number(/^milkrun-pg-(\d+)-/.exec(name)?.[1]);
    if (!owner || commandOf(owner) !== undefined) continue;
    const home = join(tmpdir(), name);
    await endEarlierServer(join(home, 'data')).catch(() => undefined);
    rmSync(home, { recursive: true, force: true });
  }
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  return await new Promise((done, failed) => {
    const server = createServer()
      .on('error', failed)
      .listen(0, '127.0.0.1', () => {
        const address = server.address();
        server.close(() => done(typeof address === 'object' && address ? address.port : 0));
      });
  });
}

/** The directory a durable server really uses: below `dataDir`, or a shelter when its user can not walk there. */
function durableHome(dataDir: string, identity: Identity): string {
  const wanted = resolve(dataDir);
  mkdirSync(wanted, { recursive: true });
  if (reachable(wanted, identity)) return wanted;
  const shelter = shelterOf(wanted);
  writeFileSync(join(wanted, 'moved-to'), `${shelter}\n`);
  return shelter;
}

function initialise(binaries: Binaries, identity: Identity, data: string, secret: string): void {
  writeFileSync(secret, `${randomBytes(18).toString('base64url')}\n`, { mode: 0o600 });
  if (identity.uid !== undefined) chownSync(secret, identity.uid, identity.gid ?? identity.uid);
  const flags = ['--auth=scram-sha-256', '--username=postgres', `--pwfile=${secret}`, '--no-sync'];
  const locale = ['--locale=C', '--encoding=UTF8'];
  // The data directory appears as a whole: a killed initdb is begun anew, never half used.
  const making = `${data}.new`;
  rmSync(making, { recursive: true, force: true });
  mkdirSync(making, { mode: 0o700 });
  if (identity.uid !== undefined) chownSync(making, identity.uid, identity.gid ?? identity.uid);
  run(binaries.initdb, [`--pgdata=${making}`, ...flags, ...locale], identity);
  renameSync(making, data);
}

function refuseOtherMajor(binaries: Binaries, data: string): void {
  const has = readFileSync(join(data, 'PG_VERSION'), 'utf8').trim();
  if (has === String(binaries.major)) return;
  throw new Error(
    `${data} was written by PostgreSQL ${has}, the one found here is ${binaries.major}: dump and restore it, ` +
      'or name another server in WORKERDB_URL',
  );
}

/** Stops a server that a killed run left behind on this directory, and removes a pid file that names nobody. */
async function endEarlierServer(data: string): Promise<void> {
  const file = join(data, 'postmaster.pid');
  if (!existsSync(file)) return;
  const pid = Number(readFileSync(file, 'utf8').split('\n')[0]);
  const command = commandOf(pid);
  if (command === undefined || !/postgres/.test(command) || !command.includes(data)) {
    rmSync(file, { force: true });
    return;
  }
  const parent = parentOf(pid);
  const owner = existsSync(`${data}.owner`) ? Number(readFileSync(`${data}.owner`, 'utf8')) : undefined;
  if (parent !== undefined && parent === owner) {
    throw new Error(`${data} is in use by process ${parent}: stop that run first`);
  }
  process.kill(pid, 'SIGINT');
  while (commandOf(pid)?.includes(data)) await new Promise((again) => setTimeout(again, 50));
}

function psField(pid: number, field: string): string | undefined {
  if (!Number.isSafeInteger(pid) || pid <= 1) return undefined;
  try {
    return execFileSync('ps', ['-o', `${field}=`, '-p', String(pid)], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return undefined;
  }
}

function commandOf(pid: number): string | undefined {
  if (!existsSync('/proc/self/cmdline')) return psField(pid, 'command') || undefined;
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim() || undefined;
  } catch {
    return undefined;
  }
}

function parentOf(pid: number): number | undefined {
  if (!existsSync('/proc/self/status')) return Number(psField(pid, 'ppid')) || undefined;
  try {
    return Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) || undefined;
  } catch {
    return undefined;
  }
}

/** `wal_compression=lz4` where this build has it. */
function compression(binaries: Binaries, identity: Identity): string[] {
  const setting = 'wal_compression=lz4';
  const empty = mkdtempSync(join(tmpdir(), 'milkrun-pg-probe-'));
  chmodSync(empty, 0o755);
  writeFileSync(join(empty, 'postgresql.conf'), '');
  try {
    run(binaries.postgres, ['-D', empty, '-C', 'wal_compression', '-c', setting], identity);
    return [setting];
  } catch {
    return ['wal_compression=on'];
  } finally {
    rmSync(empty, { recursive: true, force: true });
  }
}

function run(program: string, args: string[], identity: Identity): void {
  execFileSync(program, args, {
    ...identity,
    cwd: dirname(program),
    stdio: 'pipe',
    env: { ...process.env, LC_ALL: 'C' },
  });
}

async function start(
  binaries: Binaries,
  identity: Identity,
  data: string,
  port: number,
  settings: readonly string[],
): Promise<ChildProcess> {
  const flags = settings.flatMap((setting) => ['-c', setting]);
  const server = spawn(binaries.postgres, ['-D', data, '-p', String(port), ...flags], {
    ...identity,
    cwd: dirname(binaries.postgres),
    // Its own group: Ctrl-C in a terminal is for us; we stop the server when we have drained.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  let said = '';
  await new Promise<void>((ready, failed) => {
    server.once('error', failed);
    server.once('exit', (code) => failed(new Error(`postgres ended with ${code} at its start: ${said.slice(-2000)}`)));
    server.stderr?.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString('utf8')).slice(-8000);
      if (said.includes('database system is ready to accept connections')) ready();
    });
  });
  server.removeAllListeners('exit');
  server.unref();
  (server.stderr as { unref?: () => void } | null)?.unref?.();
  return server;
}

async function ended(server: ChildProcess, signal: 'SIGINT' | 'SIGQUIT'): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  server.ref();
  await new Promise<void>((done) => {
    server.once('exit', () => done());
    server.kill(signal);
  });
}
