/**
 * PostgreSQL stopped at once, again and again, under an engine that polls: at any moment, and inside COMMIT, where the
 * caller never learns whether it happened. Two kinds of the latter, each waited for and seen in `pg_stat_activity` before the
 * stop: before the commit record is written (a deferred trigger sleeps: nothing of it survives) and after it is durable (the
 * backend waits for a standby that does not exist: all of it survives). No event may be lost and no cursor be wrong, and the
 * workers stay and go on by themselves.
 */
import { systemClock as clock } from '@milkrun/core';
import type { Sql } from 'postgres';
import { eventually, openSite } from './lib/engine/site.ts';
import { stopAgainAndAgain } from './lib/engine/stops.ts';
import { TRIGGER_KINDS } from './lib/engine/world.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

/** Transactions in whose COMMIT the server is stopped: by the table they write last. */
const HELD = ['commit', 'claim', 'tick', 'feed'] as const;
const HALVES = ['before', 'after'] as const;

/** A hold is for one life of the server: the next one begins without. */
const HOLDS = `
create table drill_hold (life timestamptz not null default pg_postmaster_start_time(), what text not null, half text not null);
create table drill_touch (at timestamptz not null default clock_timestamp());

create function drill_hold_here() returns trigger language plpgsql as $$
declare wanted text;
begin
  select h.half into wanted from drill_hold h where h.what = tg_argv[0] and h.life = pg_postmaster_start_time();
  if wanted = 'after' then perform set_config('synchronous_commit', 'on', true);
  elsif wanted = 'before' then insert into drill_touch default values;
  end if;
  return null;
end $$;
create function drill_sleep() returns trigger language plpgsql as $$
begin
  perform pg_sleep(600);
  return null;
end $$;
create constraint trigger drill_touched after insert on drill_touch deferrable initially deferred for each row execute function drill_sleep();

create trigger drill_hold_commit after update on polling_trigger_runs for each row
  when (new.last_committed_epoch is distinct from old.last_committed_epoch) execute function drill_hold_here('commit');
create trigger drill_hold_claim after update on polling_trigger_runs for each row
  when (new.lease_owner is not null and new.lease_owner is distinct from old.lease_owner) execute function drill_hold_here('claim');
create trigger drill_hold_tick after insert on batches for each row execute function drill_hold_here('tick');
create trigger drill_hold_feed after update on change_feed for each row
  when (new.cursor is distinct from old.cursor) execute function drill_hold_here('feed');
`;

/** Stops between two settlements. */
const ROUND = 10;
const HELD_MS = 60_000;
const AGAIN_MS = 120_000;
/** Load runs for up to this long before a stop at any moment. */
const RUN_MS = 2_000;
/** Of 500 stops 50 have to be inside COMMIT; of fewer as many in proportion. */
const INSIDE_SHARE = 0.1;

export const drill: Drill = {
  name: 'postgres-stops',
  about: 'PostgreSQL stopped at once under load, also inside COMMIT: no event lost, no cursor wrong.',
  defaults: { count: 20 },
  fullCount: 500,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    const inside: Record<string, number> = {};
    const result = await stopAgainAndAgain({
      ...{ count, report, round: ROUND },
      async open(lab) {
        const site = await openSite(lab, 0, { databaseUrl: await lab.database() });
        await prepare(site.sql);
        return site;
      },
      async stop({ lab, site, n }) {
        // Every second stop is inside COMMIT, each kind of it in turn.
        const kind = n % 2 === 0 ? undefined : Math.floor(n / 2) % (HELD.length * HALVES.length);
        const what = kind === undefined ? undefined : (HELD[kind % HELD.length] as string);
        const half = kind === undefined ? undefined : (HALVES[Math.floor(kind / HELD.length)] as string);
        if (what !== undefined && half !== undefined)
          await site.sql`insert into drill_hold (what, half) values (${what}, ${half})`;
        site.world.add(TRIGGER_KINDS);
        if (what === undefined || half === undefined) await clock.sleep(random() * RUN_MS);
        else if (await eventually(HELD_MS, () => isInsideCommit(site.sql, half))) {
          inside[`${what} ${half}`] = (inside[`${what} ${half}`] ?? 0) + 1;
        } else report(`nobody came to be inside COMMIT of ${what}, ${half} its record`);
        await lab.crashPostgres();
        await lab.startPostgres();
        const startedAt = performance.now();
        if (!(await eventually(AGAIN_MS, () => hasCommitted(site.sql))))
          report(`nothing was committed after stop ${n + 1}`);
        const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
        log(
          `stop ${n + 1} of ${count}: ${what === undefined ? 'at any moment' : `inside COMMIT of ${what}, ${half} its record`}; committing again after ${seconds} s`,
        );
      },
    });
    const insideCommit = Object.values(inside).reduce((sum, times) => sum + times, 0);
    if (insideCommit < Math.floor(count * INSIDE_SHARE))
      report(`only ${insideCommit} of ${count} stops were inside COMMIT`);
    return { ...result, violations, insideCommit, inside };
  },
};

/** Commits wait for a standby only where a hold asks for it: for everybody else the default is to wait for the disk. */
async function prepare(sql: Sql): Promise<void> {
  await sql.unsafe(HOLDS);
  const [row] = await sql<{ name: string }[]>`select current_database() as name`;
  await sql.unsafe(`alter database ${row?.name} set synchronous_commit = local`);
  await sql.unsafe(`set synchronous_commit = local`);
  await sql.unsafe(`alter system set synchronous_standby_names = 'drill_nobody'`);
  await sql`select pg_reload_conf()`;
}

async function isInsideCommit(sql: Sql, half: string): Promise<boolean> {
  const event = half === 'before' ? 'PgSleep' : 'SyncRep';
  const rows = await sql`
    select from pg_stat_activity where datname = current_database() and state = 'active' and wait_event = ${event}`;
  return rows.length > 0;
}

async function hasCommitted(sql: Sql): Promise<boolean> {
  try {
    const [row] = await sql<{ again: boolean }[]>`
      select exists (select from polling_trigger_runs where last_polled_at > pg_postmaster_start_time()) as again`;
    return row?.again === true;
  } catch {
    // Not back yet, or its first answer was to a connection of before.
    return false;
  }
}
