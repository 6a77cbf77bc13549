/** Events as they were stored, with what became of them, and their replay. */
import type { NewEvent, StartCommand } from '@milkrun/core';
import { type SQL, sql } from 'drizzle-orm';
import { record } from '../audit.ts';
import type { Store } from '../database.ts';
import { type Actor, RegistryProblem } from '../problem.ts';
import { insertEvent } from './runs.ts';
import { insertCommands } from './scheduling.ts';
import type { JsonRow } from './views.ts';

export interface EventRange {
  readonly types: readonly string[];
  /** RFC 3339, by the time of receipt: from included, to excluded. */
  readonly from: string;
  readonly to: string;
  /** Of these keys alone. */
  readonly keys?: readonly string[] | undefined;
  readonly limit: number;
}

export interface ReplayCandidate {
  readonly key: string;
  /** JSON text. */
  readonly record: string;
  /** The activity has an effective run for it, or has collected it. */
  readonly ran: boolean;
}

export interface EventLog {
  list(
    tenantId: string,
    filter: { readonly limit: number; readonly type?: string | undefined; readonly before?: EventPosition | undefined },
  ): Promise<readonly JsonRow[]>;
  /** With what each activity made of it, and the runs. */
  get(tenantId: string, key: string): Promise<JsonRow>;
  /** Oldest first. */
  inRange(tenantId: string, activityId: string, range: EventRange): Promise<readonly ReplayCandidate[]>;
  /** Stores the events of a replay and asks for their runs, in one transaction. */
  replay(
    actor: Actor,
    activityId: string,
    replayId: string,
    runs: readonly { readonly event: NewEvent; readonly start: StartCommand }[],
  ): Promise<void>;
}

export interface EventPosition {
  readonly receivedAt: string;
  readonly key: string;
}

const EVENT = sql`e.key, e.source, e.id, e.type, e.origin, e.received_at, e.matches`;

export function createEventLog({ db, transact }: Store): EventLog {
  const rows = async (query: SQL): Promise<JsonRow[]> => {
    const found = await db.execute<{ row: JsonRow }>(sql`select to_jsonb(x) as row from (${query}) x`);
    return found.map(({ row }) => row);
  };
  return {
    list(tenantId, { limit, type, before }) {
      const where = [sql`e.tenant_id = ${tenantId}`];
      if (type !== undefined) where.push(sql`e.type = ${type}`);
      if (before !== undefined)
        where.push(sql`(e.received_at, e.key) < (${before.receivedAt}::timestamptz, ${before.key})`);
      return rows(sql`select ${EVENT} from activity_events e where ${sql.join(where, sql` and `)}
        order by e.received_at desc, e.key desc limit ${limit}`);
    },
    async get(tenantId, key) {
      const [row] = await rows(sql`
        select ${EVENT}, e.record::jsonb as event, (select coalesce(jsonb_agg(jsonb_build_object('run_id', r.run_id,
            'activity_id', r.activity_id, 'status', r.status, 'version_used', r.version_used) order by r.fired_at, r.run_id), '[]')
          from activity_runs r where r.tenant_id = e.tenant_id and r.event_key = e.key) as runs
        from activity_events e where e.tenant_id = ${tenantId} and e.key = ${key}`);
      if (row === undefined) throw new RegistryProblem('not_found', `no event ${key}`);
      return row;
    },
    async inRange(tenantId, activityId, { types, from, to, keys, limit }) {
      const texts = (values: readonly string[]): SQL =>
        sql`(select json_array_elements_text(${JSON.stringify(values)}::text::json))`;
      return await db.execute<{ key: string; record: string; ran: boolean }>(sql`
        select e.key, e.record,
          exists (select 1 from activity_runs r where r.activity_id = ${activityId}::uuid and r.event_key = e.key
            and r.status not in ('missed', 'coalesced', 'duplicate', 'skipped'))
          or exists (select 1 from activity_inbox i where i.activity_id = ${activityId}::uuid and i.event_key = e.key) as ran
        from activity_events e
        where e.tenant_id = ${tenantId} and e.type in ${texts(types)} and e.received_at >= ${from}::timestamptz
          and e.received_at < ${to}::timestamptz and e.origin <> 'replay'
          ${keys === undefined ? sql`` : sql`and e.key in ${texts(keys)}`}
        order by e.received_at, e.key limit ${limit}`);
    },
    replay: (actor, activityId, replayId, runs) =>
      transact(async (tx) => {
        for (const { event } of runs) await insertEvent(tx, actor.tenantId, event);
        await insertCommands(
          tx,
          runs.map(({ start }) => ({ kind: 'start' as const, ...start })),
        );
        const detail = JSON.stringify({ replayId, events: runs.length });
        await record(tx, { actor, action: 'replayed', kind: 'activity', ids: [activityId], detail });
      }),
  };
}
