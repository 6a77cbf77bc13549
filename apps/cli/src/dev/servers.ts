/**
 * The servers of a laptop, PostgreSQL, Temporal and NATS, as one process of its own: a Ctrl-C in the terminal then reaches
 * neither of them before the parts that use them have drained.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { startNats, startPostgres, startTemporal } from '@milkrun/testkit';
import postgres from 'postgres';
import type { Context } from '../context.ts';
import { sayReady, stopRequest } from '../serve.ts';
import { readProcesses } from './home.ts';
import { isAlive, startTimeOf } from './identity.ts';

const OTHERS_DRAIN_MS = 65_000;

/** Runs until asked to stop. Addresses of servers the user names are passed on, and those are not started. */
export async function serveServers(context: Context): Promise<void> {
  const config = context.config('dev');
  const { WORKERDB_URL, REGISTRYDB_URL, TEMPORAL_ADDRESS, NATS_URL } = context.io.env;
  const home = config.home;
  const asked = stopRequest();
  const stops: (() => Promise<void>)[] = [];
  try {
    const addresses: Record<string, string> = {};
    if (!WORKERDB_URL || !REGISTRYDB_URL) {
      const server = await startPostgres({ dataDir: join(home, 'postgres'), durable: true });
      stops.push(() => server.stop());
      addresses.postgresKind = server.kind;
      addresses.workerdb = WORKERDB_URL || (await databaseOn(server.url, 'workerdb'));
      addresses.registrydb = REGISTRYDB_URL || (await databaseOn(server.url, 'registrydb'));
    } else {
      Object.assign(addresses, { postgresKind: 'url', workerdb: WORKERDB_URL, registrydb: REGISTRYDB_URL });
    }
    const nats = NATS_URL ? undefined : await startNats({ directory: join(home, 'nats') });
    if (nats !== undefined) stops.push(() => nats.stop());
    addresses.nats = NATS_URL || (nats?.url ?? '');
    const processes = recorded('nats', nats?.pid);
    if (TEMPORAL_ADDRESS) {
      const temporal = { temporal: TEMPORAL_ADDRESS, temporalKind: 'address' };
      sayReady({ type: 'ready', addresses: { ...addresses, ...temporal }, processes });
    } else {
      const server = await startTemporal({ dbFilename: join(home, 'temporal.db') });
      stops.push(() => server.stop());
      sayReady({
        type: 'ready',
        addresses: { ...addresses, temporal: server.address, temporalKind: server.kind },
        processes: [...processes, ...recorded('temporal', server.pid)],
      });
    }
    await asked;
    if (!process.connected) await othersGone(home);
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

/** So that a later run can end what a killed one left. */
function recorded(name: string, pid: number | undefined) {
  const startedAt = pid === undefined ? undefined : startTimeOf(pid);
  return pid === undefined || startedAt === undefined ? [] : [{ name, pid, startedAt }];
}

/** After the parent's death the other parts are still draining, and need the servers for it. */
async function othersGone(home: string): Promise<void> {
  const others = readProcesses(home).filter(({ name }) =>
    ['worker', 'orchestrator', 'api', 'poll-function'].includes(name),
  );
  const giveUp = performance.now() + OTHERS_DRAIN_MS;
  while (others.some(isAlive) && performance.now() < giveUp) await delay(100);
}

/** The database's address; made when it does not exist. */
async function databaseOn(serverUrl: string, name: string): Promise<string> {
  const sql = postgres(serverUrl, { max: 1, onnotice: () => {} });
  try {
    const [known] = await sql`select 1 from pg_database where datname = ${name}`;
    if (known === undefined) await sql.unsafe(`create database ${name}`);
  } finally {
    await sql.end();
  }
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return url.href;
}
