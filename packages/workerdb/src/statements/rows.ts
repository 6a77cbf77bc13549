/** Shapes that several statements share: a row with its definition as claim answers it, and keys as one JSON parameter. */
import type { ClaimedTrigger, LeasedKey, PollPolicy } from '@milkrun/core';

/** What `DEFINITION` and `RUN` select, as postgres.js gives it. */
export interface ClaimedRow {
  readonly shard: number;
  readonly trigger_id: string;
  readonly lease_epoch: number;
  readonly tenant_id: string;
  readonly toolkit: string;
  readonly slug: string;
  readonly connection_id: string;
  readonly version_wanted: string;
  readonly version_used: string | null;
  readonly config: string;
  readonly poll_policy: string;
  readonly interval_s: number;
  /** Times in seconds since the epoch: numbers are read and written at a fraction of what dates cost. */
  readonly since: number | null;
  readonly created_at: number;
  readonly config_version: string;
  readonly primed: boolean;
  readonly last_ok_at: number | null;
  readonly failure_count: number;
  readonly poison_count: number;
  readonly due_at: number;
  readonly due_lag: number;
  readonly probe: boolean;
  readonly state_bytes: number;
}

/** Columns of the run row `t` that a claim answers. */
export const RUN_COLUMNS = `t.shard, t.trigger_id, t.lease_epoch, t.version_used, t.interval_s, t.primed, date_part('epoch', t.last_ok_at) as last_ok_at, t.failure_count, t.poison_count,
  date_part('epoch', t.next_poll_at) as due_at, date_part('epoch', statement_timestamp() - t.next_poll_at) as due_lag,
  t.halted_code is not null as probe, t.state_bytes`;

/** The definition of row `u`, by a keyed probe: `limit 1` keeps the planner from a hash join over the whole table. */
export const DEFINITION_PROBE = `cross join lateral (
  select d.tenant_id, d.toolkit, d.slug, d.connection_id, d.version_wanted, d.config::text as config, d.poll_policy::text as poll_policy,
    date_part('epoch', d.since) as since, date_part('epoch', d.created_at) as created_at, d.config_version
  from polling_triggers d where d.shard = u.shard and d.trigger_id = u.trigger_id limit 1) d`;

export function claimedOf(rows: readonly ClaimedRow[]): ClaimedTrigger[] {
  /** Triggers share a few policies: each is read once. */
  const policies = new Map<string, PollPolicy>();
  const policyOf = (json: string): PollPolicy => {
    let policy = policies.get(json);
    if (policy === undefined) {
      policy = JSON.parse(json) as PollPolicy;
      policies.set(json, policy);
    }
    return policy;
  };
  return rows.map((row) => claimedTrigger(row, policyOf(row.poll_policy)));
}

/** The millisecond a time lies in; what binary fractions lose of it is far below a microsecond. */
const isoOf = (seconds: number): string => new Date(Math.floor(seconds * 1000 + 0.001)).toISOString();

function claimedTrigger(row: ClaimedRow, pollPolicy: PollPolicy): ClaimedTrigger {
  return {
    shard: row.shard,
    triggerId: row.trigger_id,
    leaseEpoch: row.lease_epoch,
    tenantId: row.tenant_id,
    toolkit: row.toolkit,
    slug: row.slug,
    connectionId: row.connection_id,
    versionWanted: row.version_wanted,
    versionUsed: row.version_used,
    config: row.config,
    pollPolicy,
    intervalSeconds: row.interval_s,
    since: row.since === null ? null : isoOf(row.since),
    createdAt: isoOf(row.created_at),
    configVersion: Number(row.config_version),
    primed: row.primed,
    lastOkAt: row.last_ok_at === null ? null : isoOf(row.last_ok_at),
    failureCount: row.failure_count,
    poisonCount: row.poison_count,
    dueAt: isoOf(row.due_at),
    dueLagSeconds: row.due_lag,
    probe: row.probe,
    stateBytes: row.state_bytes,
  };
}

/** Keys as the JSON parameter of `jsonb_to_recordset(… ) as k(s smallint, i uuid)`. */
export function keysJson(keys: readonly Pick<LeasedKey, 'shard' | 'triggerId'>[]): string {
  return `[${keys.map((key) => `{"s":${key.shard},"i":"${key.triggerId}"}`).join(',')}]`;
}
