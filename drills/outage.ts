/**
 * Control plane and poll function are away while an hour's worth of triggers falls due, then both come back at once.
 *
 * Scaled: the hour is in the due times, which are spread over the last 3,600 s; the parts are really away for `--down`
 * seconds, long enough for the breakers to open and for dispatch to stop. Everything after their return is real time. A
 * window is the time in which a quarter of the triggers is polled.
 */
import { systemClock } from '@milkrun/core';
import { actionsPerPoll } from './lib/actions.ts';
import { insertFleet, type Rig, startRig, verdicts } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const BATCH_SIZE = 5000;
const HOUR_S = 3600;
const REQUESTS_PER_SUCCESS_MAX = 1.1;
const ACTIONS_PER_POLL_MAX = 0.0025;
const WINDOWS = 4;
const DRAIN_MS_MAX = 600_000;

interface Look {
  readonly open: number;
  readonly left: number;
  readonly oldest: number;
}

export const drill: Drill = {
  name: 'outage',
  about: 'After an hour without control plane and poll function everything overdue is polled in one pass, gently.',
  defaults: { count: 20_000 },
  fullCount: 100_000,
  flags: { down: 'seconds the parts are really away; default 30', workers: 'worker processes; default 2' },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const downSeconds = integerFrom('down', flags.down, 30, 1);
    const workers = integerFrom('workers', flags.workers, 2, 1);
    const rig = await startRig({
      workers: 0,
      settings: { BATCH_SIZE: String(BATCH_SIZE) },
      log,
      fill: (sql) =>
        insertFleet(
          sql,
          Array.from({ length: 10 }, (_, n) => ({
            count: Math.ceil(count / 10),
            toolkit: `toolkit-${n}`,
            tenants: 20,
            intervalSeconds: HOUR_S,
            dueAt: `statement_timestamp() - interval '1 s' * (n % ${HOUR_S})`,
          })),
        ),
    });
    try {
      return await measure(rig, { workers, downSeconds, log });
    } finally {
      await rig.stop();
    }
  },
};

async function measure(
  rig: Rig,
  { workers, downSeconds, log }: { workers: number; downSeconds: number; log: DrillInput['log'] },
): Promise<DrillResult> {
  const { upstream } = rig;
  const judge = verdicts(log);
  const cap = 2 * BATCH_SIZE * workers;
  let openMax = 0;
  upstream.down.add('control_plane').add('poll_function');
  for (let n = 0; n < workers; n += 1) await rig.startWorker();
  const until = performance.now() + downSeconds * 1000;
  while (performance.now() < until) {
    openMax = Math.max(openMax, (await look(rig)).open);
    await systemClock.sleep(500);
  }
  const refused = upstream.counts.refused;
  if (upstream.counts.polls > 0) judge.missed(`${upstream.counts.polls} polls were answered while the parts were away`);
  upstream.down.clear();
  const backAt = performance.now();
  const seconds = (): number => (performance.now() - backAt) / 1000;
  log(`the parts are back after ${refused} refused requests`);
  let firstPollAfter: number | undefined;
  let last = await look(rig);
  const windows = [last.oldest];
  const step = Math.ceil(last.left / WINDOWS);
  let next = last.left - step;
  while (last.left > 0 && seconds() * 1000 < DRAIN_MS_MAX) {
    await systemClock.sleep(500);
    last = await look(rig);
    openMax = Math.max(openMax, last.open);
    if (firstPollAfter === undefined && upstream.counts.polls > 0) firstPollAfter = seconds();
    if (last.left <= next) {
      next -= step;
      windows.push(last.oldest);
      log(
        `${seconds().toFixed(0)} s: ${last.left} left, oldest due ${last.oldest.toFixed(0)} s ago, ${last.open} open`,
      );
    }
  }
  const drainSeconds = seconds();
  const [row] = await rig.sql<{ rows: number; failed: number; epochs: number }[]>`
    select count(*)::int as rows, count(*) filter (where failure_count > 0 or halted_code is not null)::int as failed,
      max(lease_epoch)::int as epochs from polling_trigger_runs`;
  const rows = row?.rows ?? 0;
  const requestsPerSuccess = upstream.counts.polls / Math.max(1, rows - last.left);
  const notFalling = windows.filter((oldest, at) => at > 0 && oldest >= (windows[at - 1] ?? 0)).length;
  const actions = await actionsPerPoll(rig, upstream.counts.polls);
  if (last.left > 0) judge.missed(`${last.left} triggers were not polled`);
  if (openMax > cap) judge.missed(`${openMax} in flight, above the cap of ${cap}`);
  if (requestsPerSuccess > REQUESTS_PER_SUCCESS_MAX)
    judge.missed(`${requestsPerSuccess.toFixed(3)} requests a success`);
  if (notFalling > 0) judge.missed(`the oldest due age did not fall in ${notFalling} of ${windows.length} windows`);
  if ((row?.failed ?? 0) > 0) judge.missed(`${row?.failed} triggers were charged for the outage`);
  if (actions.perPoll > ACTIONS_PER_POLL_MAX && rows >= 20 * BATCH_SIZE)
    judge.missed(`${actions.perPoll.toFixed(5)} Temporal actions a poll`);
  return {
    tried: rows - last.left,
    violations: judge.count,
    faults: refused,
    workers,
    downSeconds,
    firstPollAfterSeconds: Number((firstPollAfter ?? Number.NaN).toFixed(1)),
    drainSeconds: Number(drainSeconds.toFixed(1)),
    inFlightMax: openMax,
    inFlightCap: cap,
    requestsPerSuccess: Number(requestsPerSuccess.toFixed(4)),
    claimsPerRowMax: row?.epochs ?? 0,
    windows: windows.map((age) => Math.round(age)),
    actionsPerPoll: Number(actions.perPoll.toFixed(5)),
    actions: actions.byKind,
  };
}

/** What is in flight, and what has not been polled yet. */
async function look({ sql }: Rig): Promise<Look> {
  const [seen] = await sql<Look[]>`
    with live as (select open, claimed_at, planned from batches where ended_at is null
      and (expires_at > statement_timestamp() or (claimed_at is null and started_at > statement_timestamp() - interval '60 s')))
    select (select coalesce(sum(case when claimed_at is null then planned else open end), 0)::int from live) as open,
      count(*) filter (where last_polled_at is null)::int as left,
      coalesce(greatest(0, extract(epoch from statement_timestamp() - min(next_poll_at) filter (where last_polled_at is null))), 0)::float8 as oldest
    from polling_trigger_runs`;
  return seen as Look;
}
