/**
 * The servers of a laptop, PostgreSQL and Temporal, as one process of its own: a Ctrl-C in the terminal then reaches
 * neither of them before the parts that use them have drained.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { startPostgres, startTemporal } from '@milkrun/testkit';
import postgres from 'postgres';
import type { Context } from '../context.ts';
import { sayReady, stopRequest } from '../serve.ts';
import { readProcesses } from './home.ts';
import { isAlive, startTimeOf } from './identity.ts';

const OTHERS_DRAIN_MS = 65_000;

/** Runs until asked to stop. Addresses of servers the user names are passed on, and those are not started. */
export async function serveServers(context: Context): Promise<void> {
  const config = context.config('dev');
  const { WORKERDB_URL, REGISTRYDB_URL, TEMPORAL_ADDRESS } = context.io.env;
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
    if (TEMPORAL_ADDRESS) {
      sayReady({ type: 'ready', addresses: { ...addresses, temporal: TEMPORAL_ADDRESS, temporalKind: 'address' } });
    } else {
      const server = await startTemporal({ dbFilename: join(home, 'temporal.db') });
      stops.push(() => server.stop());
      const { pid } = server;
      const startedAt = pid === undefined ? undefined : startTimeOf(pid);
      sayReady({
        type: 'ready',
        addresses: { ...addresses, temporal: server.address, temporalKind: server.kind },
        processes: pid === undefined || startedAt === undefined ? [] : [{ name: 'temporal', pid, startedAt }],
      });
    }
    await asked;
    if (!process.connected) await othersGone(home);
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

/** After the parent's death the other parts are still draining, and need the servers for it. */
async function othersGone(home: string): Promise<void> {
  const others = readProcesses(home).filter(({ name }) => ['worker', 'api', 'poll-function'].includes(name));
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
