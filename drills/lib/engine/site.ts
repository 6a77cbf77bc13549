/** One small engine of a drill: a database, a namespace, a folder of objects, a world, and workers behind proxies. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '@milkrun/core';
import { type ArmedFault, type FaultProxy, startFaultProxy } from '@milkrun/testkit';
import postgres, { type Sql } from 'postgres';
import type { Lab } from './lab.ts';
import { spawnWorker, type WorkerProcess } from './worker-process.ts';
import { startWorld, type World } from './world.ts';

/** The least that settings allow: what waits for a lease to run out waits this long. */
export const LEASE_TTL_S = 15;

export const PARTS = ['postgres', 'temporal', 'controlPlane', 'pollFunction'] as const;
export type ProxiedPart = (typeof PARTS)[number];

export interface Member {
  readonly worker: WorkerProcess;
  readonly proxies: Readonly<Record<ProxiedPart, FaultProxy>>;
  /** Its engine API; resolves when it is ready. */
  engine<T = unknown>(path: string, body?: unknown): Promise<T>;
  close(): Promise<void>;
}

export interface Site {
  readonly world: World;
  readonly sql: Sql;
  readonly namespace: string;
  /** Starts a worker of this engine; more settings and environment on top. */
  start(options?: {
    readonly armed?: readonly ArmedFault[];
    readonly settings?: Readonly<Record<string, string>>;
    readonly env?: Readonly<Record<string, string>>;
  }): Promise<Member>;
  /**
   * Waits until everything that providers had has been delivered and committed, then disables all triggers and waits until
   * no lease is left. Answers what was wrong: lost, leaked, stale.
   */
  settle(withinMs: number): Promise<string[]>;
  /** Frees what a process that is gone holds by time alone: its turns and its place among the live. */
  forget(pid: number): Promise<void>;
  /** What the database's own watch has seen so far. */
  seen(): Promise<string[]>;
  close(): Promise<void>;
}

const PROBE_MS = 100;

/** Asks until it is so; false when it has not become so in time. */
export async function eventually(withinMs: number, isSo: () => boolean | Promise<boolean>): Promise<boolean> {
  const giveUp = performance.now() + withinMs;
  while (!(await isSo())) {
    if (performance.now() > giveUp) return false;
    await systemClock.sleep(PROBE_MS);
  }
  return true;
}

export async function openSite(
  lab: Lab,
  place: number,
  options: { readonly objectStore?: string; readonly databaseUrl?: string } = {},
): Promise<Site> {
  const namespace = lab.namespaces[place] as string;
  const databaseUrl = options.databaseUrl ?? (await lab.database());
  const folder = join(lab.home, `site-${place}`);
  await mkdir(folder, { recursive: true });
  const world = await startWorld();
  const sql = postgres(databaseUrl, { max: 2, onnotice: () => {} });
  const members = new Set<Member>();
  let started = 0;

  async function start(given: Parameters<Site['start']>[0] = {}): Promise<Member> {
    const target: Record<ProxiedPart, number> = {
      postgres: Number(new URL(databaseUrl).port),
      temporal: Number(lab.temporalAddress.split(':')[1]),
      controlPlane: world.controlPlanePort,
      pollFunction: world.pollFunctionPort,
    };
    const proxies = Object.fromEntries(
      await Promise.all(PARTS.map(async (part) => [part, await startFaultProxy(target[part])] as const)),
    ) as Record<ProxiedPart, FaultProxy>;
    const url = new URL(databaseUrl);
    url.port = String(proxies.postgres.port);
    started += 1;
    const worker = spawnWorker({
      logFile: join(folder, `worker-${started}.log`),
      ...(given.armed === undefined ? {} : { armed: given.armed }),
      env: { NODE_COMPILE_CACHE: join(lab.home, 'engine', 'compile-cache'), ...given.env },
      settings: {
        WORKERDB_URL: url.href,
        CONTROL_PLANE_URL: `http://127.0.0.1:${proxies.controlPlane.port}`,
        CONTROL_PLANE_KEY: 'a-key-of-the-drill-only',
        POLL_FUNCTION_ENDPOINT: `http://127.0.0.1:${proxies.pollFunction.port}`,
        TEMPORAL_ADDRESS: `127.0.0.1:${proxies.temporal.port}`,
        TEMPORAL_NAMESPACE: namespace,
        OBJECT_STORE: options.objectStore ?? `fs:${join(folder, 'objects')}`,
        MILKRUN_HOME: join(lab.home, 'engine'),
        ENGINE_PORT: '0',
        METRICS_PORT: '0',
        LEASE_TTL: `${LEASE_TTL_S}s`,
        DISPATCH_TICK: '500ms',
        LIVENESS_EVERY: '5s',
        BATCH_SIZE: '8',
        POLL_WIDTH: '16',
        LOG_LEVEL: 'warn',
        ...given.settings,
      },
    });
    const member: Member = {
      worker,
      proxies,
      async engine(path, body) {
        const answer = await fetch((await worker.ready) + path, {
          method: body === undefined ? 'GET' : 'POST',
          ...(body === undefined
            ? {}
            : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
        });
        if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${(await answer.text()).slice(0, 300)}`);
        return (await answer.json()) as never;
      },
      async close() {
        members.delete(member);
        await worker.kill();
        await Promise.all(Object.values(proxies).map((proxy) => proxy.close()));
      },
    };
    members.add(member);
    return member;
  }

  const seen = async (): Promise<string[]> =>
    (await sql<{ what: string }[]>`select what from drill_wrong order by at`).map((row) => row.what);

  async function settle(withinMs: number): Promise<string[]> {
    const wrong: string[] = [];
    const ids = world.ids();
    world.heal();
    if (!(await eventually(withinMs, () => world.missing(ids).length === 0))) {
      const lost = world.missing(ids);
      wrong.push(`${lost.length} events are lost, such as ${lost.slice(0, 3).join(', ')}`);
    }
    // The commit of the last delivery may be on its way: every cursor has to arrive where its events are.
    const behind = async (): Promise<string[]> => {
      const rows = await sql<{ id: string; at: string | null }[]>`
        select trigger_id::text as id, cursor #>> '{}' as at from polling_trigger_states where trigger_id = any (${ids})`;
      const at = new Map(rows.map((row) => [row.id, Number(row.at)]));
      return ids.filter((id) => at.get(id) !== world.itemsOf(id));
    };
    if (!(await eventually(withinMs, async () => (await behind()).length === 0))) {
      wrong.push(`wrong cursors: ${(await behind()).slice(0, 3).join(', ')}`);
    }
    // Held events are sent again by their triggers' next polls.
    const held = async (): Promise<number> => {
      const [row] = await sql<{ count: number }[]>`select count(*)::int as count from held_events`;
      return row?.count ?? 1;
    };
    if (!(await eventually(withinMs, async () => (await held()) === 0)))
      wrong.push(`${await held()} events are still held`);
    world.disable(ids);
    const left = async (): Promise<number> => {
      const [row] = await sql<{ count: number }[]>`
        select ((select count(*) from batches where ended_at is null and expires_at > statement_timestamp())
          + (select count(*) from polling_trigger_runs where enabled)
          + (select count(*) from lifecycle_outbox where acknowledged_at is null))::int as count`;
      return row?.count ?? 1;
    };
    if (!(await eventually(withinMs, async () => (await left()) === 0))) {
      wrong.push(`${await left()} leases, triggers that were disabled or lifecycle records are left`);
    }
    const kept = await sql<{ what: string }[]>`
      select 'dead letter ' || coalesce(event_id, reason) as what from dead_letters`;
    wrong.push(...kept.map((row) => row.what), ...(await seen()), ...world.wrong.splice(0));
    await sql`truncate drill_wrong, dead_letters`;
    return wrong;
  }

  return {
    world,
    sql,
    namespace,
    start,
    settle,
    async forget(pid) {
      const like = `%:${pid}:%`;
      await sql`delete from turns where worker_id like ${like}`;
      await sql`delete from workers where worker_id like ${like}`;
    },
    seen,
    async close() {
      await Promise.all([...members].map((member) => member.close()));
      await sql.end({ timeout: 5 });
      await world.close();
    },
  };
}
