/** Stored events, newest first. */
import { sql } from 'drizzle-orm';
import { iso, type Store } from './database.ts';
import { RegistryProblem } from './problem.ts';

export interface EventView {
  readonly seq: number;
  readonly id: string;
  readonly triggerId: string;
  readonly storedAt: string;
  /** The CloudEvent as JSON text. */
  readonly record: string;
}

interface EventFilter {
  readonly limit: number;
  readonly triggerId?: string | undefined;
  /** `seq` of the last event of the page before. */
  readonly before?: number | undefined;
}

export interface Events {
  list(tenantId: string, filter: EventFilter): Promise<readonly EventView[]>;
  get(tenantId: string, id: string): Promise<EventView>;
}

interface Row extends Record<string, unknown> {
  seq: string;
  event_id: string;
  trigger_id: string;
  stored_at: string;
  record: string;
}

const COLUMNS = sql`seq, event_id, trigger_id, stored_at, record`;

export function createEvents({ db }: Store): Events {
  return {
    async list(tenantId, { limit, triggerId, before }) {
      const where = [sql`tenant_id = ${tenantId}`];
      if (triggerId !== undefined) where.push(sql`trigger_id = ${triggerId}::uuid`);
      if (before !== undefined) where.push(sql`seq < ${before}`);
      const rows = await db.execute<Row>(
        sql`select ${COLUMNS} from events where ${sql.join(where, sql` and `)} order by seq desc limit ${limit}`,
      );
      return rows.map(viewOf);
    },
    async get(tenantId, id) {
      const [row] = await db.execute<Row>(
        sql`select ${COLUMNS} from events where event_id = ${id} and tenant_id = ${tenantId}`,
      );
      if (row === undefined) throw new RegistryProblem('not_found', `no event ${id}`);
      return viewOf(row);
    },
  };
}

function viewOf(row: Row): EventView {
  return {
    seq: Number(row.seq),
    id: row.event_id,
    triggerId: row.trigger_id,
    storedAt: iso(row.stored_at),
    record: row.record,
  };
}
