/**
 * Real servers for many small engines side by side: one PostgreSQL and one Temporal, a database and a namespace for each.
 * In each database triggers of the drill's own watch leases, commits and cursors: they know the rules, not the engine.
 */
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDatabase, type Postgres, startPostgres, startTemporal, type Temporal } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';
import postgres from 'postgres';
import { freePorts } from '../dev-run.ts';

/**
 * What no schedule of faults may do to a row. Read by the database itself at each change, so that what an engine overwrites
 * a moment later is seen all the same.
 */
const WATCH = `
create table drill_wrong (at timestamptz not null default clock_timestamp(), what text not null);

create function drill_watch_run() returns trigger language plpgsql as $$
begin
  if new.lease_epoch < old.lease_epoch then
    insert into drill_wrong (what) values (format('epoch of %s fell from %s to %s', old.trigger_id, old.lease_epoch, new.lease_epoch));
  end if;
  if new.lease_owner is not null and new.lease_owner is distinct from old.lease_owner then
    if new.lease_epoch <> old.lease_epoch + 1 then
      insert into drill_wrong (what) values (format('%s was leased without a new epoch', old.trigger_id));
    end if;
    if exists (select from batches where batch_no = old.lease_owner and ended_at is null and expires_at > statement_timestamp()) then
      insert into drill_wrong (what) values (format('%s was leased twice at once', old.trigger_id));
    end if;
  end if;
  if new.last_committed_epoch is distinct from old.last_committed_epoch then
    if new.last_committed_epoch <= old.last_committed_epoch then
      insert into drill_wrong (what) values (format('%s was committed twice under epoch %s', old.trigger_id, new.last_committed_epoch));
    end if;
    if new.last_committed_epoch is distinct from old.lease_epoch then
      insert into drill_wrong (what) values (format('stale commit of %s: epoch %s, the row has %s', old.trigger_id, new.last_committed_epoch, old.lease_epoch));
    end if;
    if not exists (select from batches where batch_no = old.lease_owner and expires_at > statement_timestamp()
        and (ended_at is null or ended_at >= statement_timestamp())) then
      insert into drill_wrong (what) values (format('%s was committed without a live lease', old.trigger_id));
    end if;
  end if;
  return null;
end $$;
create trigger drill_watch after update on polling_trigger_runs for each row execute function drill_watch_run();

create function drill_watch_state() returns trigger language plpgsql as $$
begin
  if coalesce((new.cursor #>> '{}')::bigint, 0) < coalesce((old.cursor #>> '{}')::bigint, 0) then
    insert into drill_wrong (what) values (format('the cursor of %s went back from %s to %s', old.trigger_id, old.cursor, new.cursor));
  end if;
  return null;
end $$;
create trigger drill_watch after update on polling_trigger_states for each row execute function drill_watch_state();
`;

export interface Lab {
  /** Everything of the run lies below it. */
  readonly home: string;
  /** `host:port` of Temporal. */
  readonly temporalAddress: string;
  readonly namespaces: readonly string[];
  /** A fresh database with workerdb's schema, watched. */
  database(): Promise<string>;
  /** An immediate stop of PostgreSQL, and its next start on the same port; only of a durable lab. */
  crashPostgres(): Promise<void>;
  startPostgres(): Promise<void>;
  /** SIGKILL of Temporal, and its next start on the same port; only of a durable lab. */
  killTemporal(): Promise<void>;
  startTemporal(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Starts both servers, for `places` engines side by side. Durable ones keep what they have acknowledged over a crash; they
 * are this run's own in any case.
 */
export async function startLab(places: number, { durable = false }: { readonly durable?: boolean } = {}): Promise<Lab> {
  const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-lab-'));
  await chmod(home, 0o755);
  await mkdir(join(home, 'engine'));
  const namespaces = Array.from({ length: places }, (_, n) => `drill-${n}`);
  const ports = durable ? Object.values(await freePorts()).map(Number) : [];
  const [postgresPort, temporalPort] = ports;
  const openPostgres = (): Promise<Postgres> =>
    startPostgres(
      postgresPort === undefined ? {} : { durable: true, dataDir: join(home, 'postgres'), port: postgresPort },
    );
  const openTemporal = (): Promise<Temporal> =>
    startTemporal({
      own: true,
      namespaces,
      ...(temporalPort === undefined ? {} : { dbFilename: join(home, 'temporal', 'state.db'), port: temporalPort }),
    });
  let server = await openPostgres();
  let temporal: Temporal | undefined;
  try {
    temporal = await openTemporal();
    const template = await createWatched(server.url);
    return {
      home,
      temporalAddress: temporal.address,
      namespaces,
      async database() {
        const url = await createDatabase(server.url, new URL(template).pathname.slice(1));
        // The role's settings belong to a database by its name: a copy has none of them.
        await (await openWorkerDb({ url, connections: 1 })).close();
        return url;
      },
      async crashPostgres() {
        await server.crash?.();
      },
      async startPostgres() {
        server = await openPostgres();
      },
      async killTemporal() {
        const pid = temporal?.pid;
        if (pid !== undefined) process.kill(pid, 'SIGKILL');
        await temporal?.stop();
      },
      async startTemporal() {
        temporal = await openTemporal();
      },
      async close() {
        await temporal?.stop();
        await server.stop();
        await rm(home, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await temporal?.stop();
    await server.stop();
    throw error;
  }
}

/** A database with the schema and what watches it. */
async function createWatched(serverUrl: string): Promise<string> {
  const url = await createDatabase(serverUrl);
  const db = await openWorkerDb({ url, connections: 1 });
  await db.close();
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  await sql.unsafe(WATCH);
  await sql.end();
  return url;
}
