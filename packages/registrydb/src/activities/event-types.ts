/** Types of events: their schema, an example, and whether they are approved. */
import { sql } from 'drizzle-orm';
import { record } from '../audit.ts';
import { iso, type Runner, type Store } from '../database.ts';
import { type Actor, RegistryProblem } from '../problem.ts';

export interface EventTypeWrite {
  readonly state: 'draft' | 'approved';
  /** JSON text of a checked JSON Schema, or null. */
  readonly schema: string | null;
  /** JSON text, or null. */
  readonly example: string | null;
  readonly owner: string | null;
  readonly description: string | null;
}

export interface EventTypeView extends EventTypeWrite {
  readonly type: string;
  readonly version: number;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface EventTypes {
  get(tenantId: string, type: string): Promise<EventTypeView>;
  list(
    tenantId: string,
    filter: { readonly limit: number; readonly after?: string | undefined; readonly state?: string | undefined },
  ): Promise<readonly EventTypeView[]>;
  /** Those of `types` that are known. */
  find(tenantId: string, types: readonly string[]): Promise<readonly EventTypeView[]>;
  put(actor: Actor, type: string, input: EventTypeWrite, ifVersion?: number): Promise<EventTypeView>;
  remove(actor: Actor, type: string, ifVersion?: number): Promise<void>;
}

interface Row extends Record<string, unknown> {
  type: string;
  state: EventTypeWrite['state'];
  schema: string | null;
  example: string | null;
  owner: string | null;
  description: string | null;
  version: number;
  created_at: string;
  updated_at: string;
}

const SELECT = sql`select type, state, schema::text, example::text, owner, description, version, created_at, updated_at
  from event_types`;

export function createEventTypes({ db, transact }: Store): EventTypes {
  async function find(runner: Runner, tenantId: string, type: string, lock = false): Promise<Row | undefined> {
    const [row] = await runner.execute<Row>(
      sql`${SELECT} where tenant_id = ${tenantId} and type = ${type} ${lock ? sql`for update` : sql``}`,
    );
    return row;
  }
  const missing = (type: string): RegistryProblem => new RegistryProblem('not_found', `no event type ${type}`);

  return {
    async get(tenantId, type) {
      const row = await find(db, tenantId, type);
      if (row === undefined) throw missing(type);
      return viewOf(row);
    },
    async list(tenantId, { limit, after, state }) {
      const where = [sql`tenant_id = ${tenantId}`];
      if (after !== undefined) where.push(sql`type > ${after}`);
      if (state !== undefined) where.push(sql`state = ${state}`);
      const rows = await db.execute<Row>(
        sql`${SELECT} where ${sql.join(where, sql` and `)} order by type limit ${limit}`,
      );
      return rows.map(viewOf);
    },
    async find(tenantId, types) {
      const rows = await db.execute<Row>(sql`${SELECT} where tenant_id = ${tenantId}
        and type in (select json_array_elements_text(${JSON.stringify(types)}::text::json))`);
      return rows.map(viewOf);
    },
    put: (actor, type, input, ifVersion) =>
      transact(async (tx) => {
        const before = await find(tx, actor.tenantId, type, true);
        if (ifVersion !== undefined && ifVersion !== (before?.version ?? 0)) {
          throw new RegistryProblem(
            'precondition_failed',
            `it is at version ${before?.version ?? 0}, not ${ifVersion}`,
          );
        }
        await tx.execute(sql`
          insert into event_types (tenant_id, type, state, schema, example, owner, description)
          values (${actor.tenantId}, ${type}, ${input.state}, ${input.schema}::text::jsonb, ${input.example}::text::jsonb,
            ${input.owner}, ${input.description})
          on conflict (tenant_id, type) do update set state = excluded.state, schema = excluded.schema,
            example = excluded.example, owner = excluded.owner, description = excluded.description,
            version = event_types.version + 1, updated_at = statement_timestamp()`);
        const action = before === undefined ? 'created' : 'changed';
        const detail = JSON.stringify({ before: before?.state ?? null, after: input.state });
        await record(tx, { actor, action, kind: 'event_type', ids: [type], detail });
        return viewOf((await find(tx, actor.tenantId, type)) as Row);
      }),
    remove: (actor, type, ifVersion) =>
      transact(async (tx) => {
        const before = await find(tx, actor.tenantId, type, true);
        if (before === undefined) throw missing(type);
        if (ifVersion !== undefined && ifVersion !== before.version) {
          throw new RegistryProblem('precondition_failed', `it is at version ${before.version}, not ${ifVersion}`);
        }
        await tx.execute(sql`delete from event_types where tenant_id = ${actor.tenantId} and type = ${type}`);
        await record(tx, { actor, action: 'deleted', kind: 'event_type', ids: [type] });
      }),
  };
}

const viewOf = ({ created_at, updated_at, ...row }: Row): EventTypeView => ({
  ...row,
  createdAt: iso(created_at),
  updatedAt: iso(updated_at),
});
