/** What was used between two moments of a running engine: by the worker, PostgreSQL, Temporal and the stand-in. */
import { timerShardWorkflowIdOf } from '@milkrun/core';
import { cpuSecondsOf, treeCpuSecondsOf } from './cpu.ts';
import type { EngineFigures } from './engine-process.ts';
import type { EngineStack } from './engine-stack.ts';

interface Moment {
  readonly atMs: number;
  /** By the database's clock, RFC 3339. */
  readonly now: string;
  readonly figures: EngineFigures;
  readonly workerCpu: number;
  readonly databaseCpu: number;
  readonly temporalCpu: number;
  readonly upstreamCpu: number;
  readonly walBytes: number;
  readonly updates: number;
  readonly hotUpdates: number;
  readonly toastBytes: number;
  readonly statements: number;
  readonly ticks: number;
  readonly timerShardEvents: number;
}

/** Figures of a window; per poll where the name says so. */
export interface WindowFigures {
  readonly polls: number;
  readonly seconds: number;
  readonly pollsPerSecond: number;
  readonly cpuPerPollMicros: number;
  readonly databaseCpuPerPollMicros: number;
  readonly temporalCpuPerPollMicros: number;
  readonly upstreamCpuPerPollMicros: number;
  readonly walBytesPerPoll: number;
  readonly hotShare: number;
  readonly toastGrowthBytes: number;
  readonly statementsPer1000Polls: number;
  readonly ticks: number;
  readonly batches: number;
  readonly rowsPerBatch: number;
  readonly historyEventsPer1000Polls: { readonly batchPoller: number; readonly timerShard: number };
  readonly eventLoopDelayP99Ms: number;
  readonly eventLoopDelayMaxMs: number;
  readonly rssMb: number;
}

const HISTORIES_MAX = 12;

/** Marks the statements of the bench itself, which do not count. */
const MARK = '/* bench */';

const SAMPLE = `select ${MARK} statement_timestamp()::text as now, (pg_current_wal_insert_lsn() - '0/0')::float8 as wal,
  (select sum(n_tup_upd)::float8 from pg_stat_user_tables where relname ~ '^polling_trigger_runs_') as upd,
  (select sum(n_tup_hot_upd)::float8 from pg_stat_user_tables where relname ~ '^polling_trigger_runs_') as hot,
  (select sum(pg_relation_size(reltoastrelid))::float8 from pg_class where relname ~ '^polling_trigger_states_[0-9]+$' and reltoastrelid <> 0) as toast`;

const STATEMENTS = `select ${MARK} coalesce(sum(calls) filter (where query !~* '^(begin|commit|rollback)'), 0)::float8 as all,
    coalesce(sum(calls) filter (where query like 'select pg_advisory_xact_lock(%, $1::int)'), 0)::float8 as ticks
  from pg_stat_statements s join pg_database d on d.oid = s.dbid
  where d.datname = current_database() and query not like '%${MARK}%'`;

export async function beginWindow(stack: EngineStack): Promise<Moment> {
  return momentOf(stack, true);
}

async function momentOf(stack: EngineStack, reset: boolean): Promise<Moment> {
  const figures = await stack.figures(reset);
  const atMs = performance.now();
  const workerCpu = cpuSecondsOf(stack.workerPid);
  const databaseCpu = treeCpuSecondsOf(stack.postmasterPid, stack.ownBackends);
  const temporalCpu = stack.temporalPid === undefined ? 0 : cpuSecondsOf(stack.temporalPid);
  const upstreamCpu = cpuSecondsOf(stack.upstreamPid);
  const [row] = await stack.sql.unsafe<{ now: string; wal: number; upd: number; hot: number; toast: number }[]>(SAMPLE);
  const [calls] = stack.countsStatements
    ? await stack.sql.unsafe<{ all: number; ticks: number }[]>(STATEMENTS)
    : [{ all: Number.NaN, ticks: Number.NaN }];
  const shard = await stack.client.workflow.getHandle(timerShardWorkflowIdOf(0)).describe();
  if (row === undefined || calls === undefined) throw new Error('the database did not answer');
  return {
    atMs,
    now: row.now,
    figures,
    workerCpu,
    databaseCpu,
    temporalCpu,
    upstreamCpu,
    walBytes: row.wal,
    updates: row.upd,
    hotUpdates: row.hot,
    toastBytes: row.toast,
    statements: calls.all,
    ticks: calls.ticks,
    timerShardEvents: shard.historyLength,
  };
}

export async function endWindow(stack: EngineStack, from: Moment): Promise<{ to: Moment; figures: WindowFigures }> {
  const to = await momentOf(stack, false);
  const polls = to.figures.polls - from.figures.polls;
  const seconds = (to.atMs - from.atMs) / 1000;
  const micros = (used: number): number => (used * 1e6) / polls;
  const updates = to.updates - from.updates;
  const claimed = await stack.sql.unsafe<{ id: string; entries: number }[]>(
    `select ${MARK} batch_id as id, entries from batches where claimed_at between $1::timestamptz and $2::timestamptz and entries > 0`,
    [from.now, to.now],
  );
  const rows = claimed.reduce((sum, { entries }) => sum + entries, 0);
  return {
    to,
    figures: {
      polls,
      seconds,
      pollsPerSecond: polls / seconds,
      cpuPerPollMicros: micros(to.workerCpu - from.workerCpu),
      databaseCpuPerPollMicros: micros(to.databaseCpu - from.databaseCpu),
      temporalCpuPerPollMicros: micros(to.temporalCpu - from.temporalCpu),
      upstreamCpuPerPollMicros: micros(to.upstreamCpu - from.upstreamCpu),
      walBytesPerPoll: (to.walBytes - from.walBytes) / polls,
      hotShare: updates > 0 ? (to.hotUpdates - from.hotUpdates) / updates : Number.NaN,
      toastGrowthBytes: to.toastBytes - from.toastBytes,
      statementsPer1000Polls: ((to.statements - from.statements) * 1000) / polls,
      ticks: to.ticks - from.ticks,
      batches: claimed.length,
      rowsPerBatch: claimed.length === 0 ? 0 : rows / claimed.length,
      historyEventsPer1000Polls: {
        batchPoller: await batchEventsPer1000(stack, claimed),
        timerShard: ((to.timerShardEvents - from.timerShardEvents) * 1000) / polls,
      },
      eventLoopDelayP99Ms: to.figures.loopDelayP99Ms,
      eventLoopDelayMaxMs: to.figures.loopDelayMaxMs,
      rssMb: to.figures.rssMb,
    },
  };
}

/** Waits for the runs to end, and reads the lengths of some of their histories. */
async function batchEventsPer1000(
  stack: EngineStack,
  batches: readonly { readonly id: string; readonly entries: number }[],
): Promise<number> {
  let events = 0;
  let rows = 0;
  for (const { id, entries } of batches.slice(0, HISTORIES_MAX)) {
    const handle = stack.client.workflow.getHandle(id);
    await handle.result();
    events += (await handle.describe()).historyLength;
    rows += entries;
  }
  return rows === 0 ? Number.NaN : (events * 1000) / rows;
}
