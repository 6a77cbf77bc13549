/** Events on their way to activities: stored once, matched with what is current, and what could not be delivered. */
import type { Candidate, DeadLetterInput, MatchNote, OutboxEvent, RegisteredType, RouterStore } from '@milkrun/core';
import { type Clock, type Rng, uuidv7 } from '@milkrun/core';
import { sql } from 'drizzle-orm';
import { record } from '../audit.ts';
import type { Store } from '../database.ts';
import { type Actor, RegistryProblem } from '../problem.ts';
import { createInboxWriter } from './inbox.ts';
import { insertEvent } from './runs.ts';
import { notifyActivities } from './scheduling.ts';

interface CandidateRow extends Record<string, unknown> {
  id: string;
  version: number;
  spec: string;
  enabled: boolean;
  status: Candidate['status'];
}

export interface DeadLetterView {
  readonly id: string;
  readonly stage: string;
  readonly eventKey: string | null;
  readonly error: string;
  readonly tries: number;
  readonly at: string;
  readonly resolution: string | null;
  /** The message as text. */
  readonly raw: string;
}

interface LetterFilter {
  readonly limit: number;
  readonly stage?: string | undefined;
  /** RFC 3339, by when they came last: from included, to excluded. */
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

/** What people do with events on their way. */
export interface EventDesk {
  list(
    tenantId: string,
    filter: { readonly limit: number; readonly open: boolean; readonly before?: string | undefined },
  ): Promise<readonly DeadLetterView[]>;
  /** An open one. Throws not_found. */
  get(tenantId: string, id: string): Promise<DeadLetterView>;
  /** Puts the event on the outbox again, as it is or with another record (JSON text). */
  retry(actor: Actor, id: string, edited?: { readonly key: string; readonly record: string }): Promise<void>;
  discard(actor: Actor, id: string, reason: string | undefined): Promise<void>;
  /** Open ones, oldest first, at most `limit`. */
  select(tenantId: string, filter: LetterFilter): Promise<readonly string[]>;
  /** Puts events on the outbox, all or none; one that waits there already is not put twice. */
  publish(tenantId: string, events: readonly { readonly key: string; readonly record: string }[]): Promise<void>;
}

export function createRouterStore(store: Store, clock: Clock, rng: Rng): RouterStore {
  const { db, transact } = store;
  return {
    ...createInboxWriter(store),

    receive: (tenantId, event, refuse) =>
      transact(async (tx) => {
        const [registered] = await tx.execute<{ state: RegisteredType['state']; schema: string | null }>(sql`
          select state, schema::text from event_types where tenant_id = ${tenantId} and type = ${event.type}`);
        const reason = refuse(registered ?? null);
        if (reason !== undefined) return { state: 'refused', reason };
        const isNew = await insertEvent(tx, tenantId, event);
        let state: 'new' | 'known' | 'conflict' = 'new';
        if (!isNew) {
          const [row] = await tx.execute<{ record: string }>(sql`
            select record from activity_events where tenant_id = ${tenantId} and key = ${event.key}`);
          state = row?.record === event.record ? 'known' : 'conflict';
        }
        const rows = await tx.execute<CandidateRow>(sql`
          select d.id::text, v.version, v.spec, d.enabled, d.status from activity_definitions d
          join activity_versions v on v.activity_id = d.id and v.version = d.version
          where d.tenant_id = ${tenantId} and d.deleted_at is null and d.event_types @> array[${event.type}]::text[]
          order by d.id`);
        return { state, candidates: rows.map(({ id, ...row }) => ({ activityId: id, ...row })) };
      }),

    async noteMatches(tenantId: string, key: string, matches: readonly MatchNote[]) {
      await db.execute(sql`
        update activity_events set matches = ${JSON.stringify(matches)}::text::jsonb
        where tenant_id = ${tenantId} and key = ${key}`);
    },

    async deadLetter(letter: DeadLetterInput) {
      const { tenantId, stage, eventKey, raw, headers, streamSeq, error, tries } = letter;
      await db.execute(sql`
        insert into dead_letters (id, tenant_id, stage, event_key, raw, headers, stream_seq, error, tries)
        values (${uuidv7(clock, rng)}::uuid, ${tenantId}, ${stage}, ${eventKey}, ${Buffer.from(raw)},
          ${JSON.stringify(headers)}::text::jsonb, ${streamSeq}, ${error.slice(0, 2_000)}, ${tries})
        on conflict (tenant_id, stage, stream_seq) do update set last_at = statement_timestamp(), tries = excluded.tries,
          error = excluded.error`);
    },

    async drainOutbox(send: (event: OutboxEvent) => Promise<void>, limit: number) {
      for (let sent = 0; sent < limit; sent += 1) {
        const done = await transact(async (tx) => {
          const [row] = await tx.execute<{ seq: string; tenant_id: string; key: string; record: string }>(sql`
            select seq, tenant_id, key, record from activity_outbox order by seq limit 1 for update skip locked`);
          if (row === undefined) return false;
          await send({ seq: Number(row.seq), tenantId: row.tenant_id, key: row.key, record: row.record });
          await tx.execute(sql`delete from activity_outbox where seq = ${row.seq}`);
          return true;
        });
        if (!done) return sent;
      }
      return limit;
    },
  };
}

interface LetterRow extends Record<string, unknown> {
  id: string;
  stage: string;
  event_key: string | null;
  error: string;
  tries: number;
  at: string;
  resolution: string | null;
  raw: Uint8Array;
}

const LETTER = sql`id::text, stage, event_key, error, tries, to_jsonb(last_at) #>> '{}' as at, resolution, raw`;

const letterOf = ({ event_key, raw, ...row }: LetterRow): DeadLetterView => ({
  ...row,
  eventKey: event_key,
  raw: Buffer.from(raw).toString(),
});

export function createEventDesk({ db, transact }: Store): EventDesk {
  return {
    async list(tenantId, { limit, open, before }) {
      const where = [sql`tenant_id = ${tenantId}`];
      if (open) where.push(sql`resolved_at is null`);
      if (before !== undefined) where.push(sql`id < ${before}::uuid`);
      const rows = await db.execute<LetterRow>(sql`
        select ${LETTER} from dead_letters
        where ${sql.join(where, sql` and `)} order by id desc limit ${limit}`);
      return rows.map(letterOf);
    },
    async get(tenantId, id) {
      const [row] = await db.execute<LetterRow>(sql`
        select ${LETTER} from dead_letters where id = ${id}::uuid and tenant_id = ${tenantId} and resolved_at is null`);
      if (row === undefined) throw new RegistryProblem('not_found', `no open dead letter ${id}`);
      return letterOf(row);
    },
    async select(tenantId, { limit, stage, from, to }) {
      const where = [sql`tenant_id = ${tenantId}`, sql`resolved_at is null`];
      if (stage !== undefined) where.push(sql`stage = ${stage}`);
      if (from !== undefined) where.push(sql`last_at >= ${from}::timestamptz`);
      if (to !== undefined) where.push(sql`last_at < ${to}::timestamptz`);
      const rows = await db.execute<{ id: string }>(
        sql`select id::text from dead_letters where ${sql.join(where, sql` and `)} order by id limit ${limit}`,
      );
      return rows.map(({ id }) => id);
    },
    retry: (actor, id, edited) =>
      transact(async (tx) => {
        const [row] = await tx.execute<LetterRow>(sql`
          select id::text, event_key, raw from dead_letters
          where id = ${id}::uuid and tenant_id = ${actor.tenantId} and resolved_at is null for update`);
        if (row === undefined) throw new RegistryProblem('not_found', `no open dead letter ${id}`);
        const text = edited?.record ?? Buffer.from(row.raw).toString();
        await tx.execute(sql`
          insert into activity_outbox (tenant_id, key, record)
          values (${actor.tenantId}, ${`${edited?.key ?? row.event_key ?? ''}~retry:${id}`}, ${text})`);
        await tx.execute(sql`
          update dead_letters set resolved_at = statement_timestamp(), resolution = 'retried', resolved_by = ${actor.name}
          where id = ${id}::uuid`);
        await record(tx, {
          actor,
          action: edited === undefined ? 'retried' : 'edited',
          kind: 'dead_letter',
          ids: [id],
        });
        await notifyActivities(tx);
      }),
    publish: (tenantId, events) =>
      transact(async (tx) => {
        await tx.execute(sql`
          insert into activity_outbox (tenant_id, key, record)
          select ${tenantId}, g.key, g.record
          from json_to_recordset(${JSON.stringify(events)}::text::json) as g(key text, record text)
          order by g.key on conflict (tenant_id, key) do nothing`);
        await notifyActivities(tx);
      }),
    discard: (actor, id, reason) =>
      transact(async (tx) => {
        const rows = await tx.execute(sql`
          update dead_letters set resolved_at = statement_timestamp(), resolution = 'discarded', resolved_by = ${actor.name}
          where id = ${id}::uuid and tenant_id = ${actor.tenantId} and resolved_at is null returning 1`);
        if (rows.length === 0) throw new RegistryProblem('not_found', `no open dead letter ${id}`);
        await record(tx, { actor, action: 'discarded', kind: 'dead_letter', ids: [id], reason });
      }),
  };
}
