/**
 * Writes of triggers. Each is one transaction: the row, its audit entry, and, last, its record in the feed, so that
 * what the engine is told is exactly what was committed.
 */
import { type Clock, encodePollState, keyHashOf, type Rng, uuidv7 } from '@milkrun/core';
import { and, asc, eq, inArray, isNull, sql } from 'drizzle-orm';
import { listMoves, record, type TriggerMove } from './audit.ts';
import { checkVersion } from './connections.ts';
import type { Runner, Store, Transaction } from './database.ts';
import { appendChanges, type Instruction } from './feed-append.ts';
import { type Actor, RegistryProblem } from './problem.ts';
import { connections, type TriggerRow, triggers } from './schema.ts';
import { listTriggers, selectTriggers, type TriggerFilter, type TriggerView } from './trigger-views.ts';

interface PollPolicyInput {
  readonly dedupe: TriggerRow['pollDedupe'];
  readonly overlapSeconds?: number | undefined;
  readonly repeatable: boolean;
}

export interface TriggerInput {
  readonly deduplicationKey?: string | undefined;
  readonly name?: string | undefined;
  readonly tags: readonly string[];
  readonly toolkit: string;
  readonly slug: string;
  readonly version: string;
  /** JSON text of an object. */
  readonly config: string;
  readonly connectionId: string;
  readonly intervalSeconds: number;
  readonly enabled: boolean;
  /** RFC 3339. */
  readonly since?: string | undefined;
  readonly poll: PollPolicyInput;
  /** What another poller remembers; only for a trigger that is made by this: a known one keeps its own. */
  readonly state?: ImportedState | undefined;
}

interface ImportedState {
  /** JSON text. */
  readonly cursor: string;
  /** Newest last. */
  readonly seenKeys: readonly string[];
}

export interface TriggerPatch {
  readonly name?: string | null | undefined;
  readonly tags?: readonly string[] | undefined;
  readonly version?: string | undefined;
  readonly config?: string | undefined;
  readonly connectionId?: string | undefined;
  readonly intervalSeconds?: number | undefined;
  readonly since?: string | null | undefined;
  readonly poll?: PollPolicyInput | undefined;
}

/** What a write is conditional on and why it is done. */
export interface WriteOptions {
  /** `configVersion` the caller last saw. */
  readonly ifVersion?: number | undefined;
  readonly reason?: string | undefined;
}

interface Upserted {
  readonly id: string;
  readonly created: boolean;
}

export interface Triggers {
  get(tenantId: string, id: string): Promise<TriggerView>;
  /** Its moves between the pipelines, newest first, at most 50. */
  moves(tenantId: string, id: string): Promise<readonly TriggerMove[]>;
  list(tenantId: string, filter: TriggerFilter): Promise<readonly TriggerView[]>;
  /** Creates, or changes the trigger with the same deduplication key; a definition that says the same changes nothing. */
  upsert(actor: Actor, input: TriggerInput): Promise<{ readonly trigger: TriggerView; readonly created: boolean }>;
  /** The same for many, in one transaction: all or none. No two may have the same deduplication key. */
  upsertMany(actor: Actor, inputs: readonly TriggerInput[]): Promise<readonly Upserted[]>;
  patch(actor: Actor, id: string, patch: TriggerPatch, options?: WriteOptions): Promise<TriggerView>;
  remove(actor: Actor, id: string, options?: WriteOptions): Promise<void>;
  enable(actor: Actor, id: string, resume: 'cursor' | 'now', options?: WriteOptions): Promise<TriggerView>;
  disable(actor: Actor, id: string, options?: WriteOptions): Promise<TriggerView>;
  /** Lifts a halt: goes on from the old cursor, or primes again from now. */
  resume(actor: Actor, id: string, from: 'cursor' | 'now', options?: WriteOptions): Promise<TriggerView>;
  pollNow(actor: Actor, id: string, options?: WriteOptions): Promise<TriggerView>;
  /** Goes back to a cursor (JSON text), or primes again from an instant. What the engine remembered is dropped. */
  rewind(
    actor: Actor,
    id: string,
    to: { readonly cursor: string } | { readonly since: string },
    options?: WriteOptions,
  ): Promise<TriggerView>;
}

/** Advisory locks of upserts: of one deduplication key, and, for many at once, of all of a tenant's. */
const KEY_LOCK = 7102;
const TENANT_LOCK = 7103;
const MOVES_MAX = 50;

type Fields = Partial<typeof triggers.$inferInsert>;

interface Write {
  readonly action: string;
  readonly options: WriteOptions | undefined;
  /** New values, or undefined: nothing to do. */
  readonly change: (row: TriggerRow, tx: Transaction) => Promise<Fields | undefined> | Fields | undefined;
  readonly lifts?: (before: TriggerRow, fields: Fields) => boolean;
  readonly instruction?: Instruction;
}

/** A new configuration, version or connection is what a halted trigger may have been waiting for. */
const liftingFields = (_before: TriggerRow, fields: Fields): boolean =>
  fields.config !== undefined || fields.connectionId !== undefined;

export function createTriggers(
  { db, transact }: Store,
  clock: Clock,
  rng: Rng,
  pipeline: 'v2' | 'legacy' = 'v2',
): Triggers {
  async function viewOf(runner: Runner, id: string): Promise<TriggerView> {
    const [view] = await selectTriggers(runner, sql`t.id = ${id}::uuid`, 1);
    return view as TriggerView;
  }

  async function save(
    tx: Transaction,
    actor: Actor,
    row: TriggerRow,
    fields: Fields,
    write: Omit<Write, 'change'>,
  ): Promise<TriggerRow> {
    const configVersion = row.configVersion + 1;
    const lifts = write.lifts?.(row, fields) ?? false;
    const [saved] = await tx
      .update(triggers)
      .set({
        ...fields,
        configVersion,
        updatedAt: sql`statement_timestamp()`,
        ...(lifts ? { liftedVersion: configVersion } : {}),
      })
      .where(eq(triggers.id, row.id))
      .returning();
    const detail = JSON.stringify({ fields: Object.keys(fields), configVersion });
    await record(tx, {
      actor,
      action: write.action,
      kind: 'trigger',
      ids: [row.id],
      reason: write.options?.reason,
      detail,
    });
    return saved as TriggerRow;
  }

  /** Answers in the order of `inputs`; a problem's field is given its place by `pathOf`. */
  async function upsertAll(
    tx: Transaction,
    actor: Actor,
    inputs: readonly TriggerInput[],
    pathOf: (at: number, field: string) => string,
  ): Promise<readonly Upserted[]> {
    await requireConnections(tx, actor.tenantId, inputs, pathOf);
    const known = await lockByKey(tx, actor.tenantId, inputs);
    const changed: TriggerRow[] = [];
    const made: (typeof triggers.$inferInsert)[] = [];
    const states: StateRow[] = [];
    const results: Upserted[] = [];
    for (const [at, input] of inputs.entries()) {
      const row = input.deduplicationKey === undefined ? undefined : known.get(input.deduplicationKey);
      if (row !== undefined) {
        const fields = changedFields(row, fieldsOf(input));
        // Enabling is a wish of its own: an upsert repeated by a script does not undo a person's disable.
        delete fields.enabled;
        if (fields.toolkit !== undefined || fields.slug !== undefined) {
          throw new RegistryProblem(
            'conflict',
            `deduplicationKey belongs to trigger ${row.id} of ${row.toolkit}/${row.slug}`,
            pathOf(at, 'deduplicationKey'),
          );
        }
        if (Object.keys(fields).length > 0) {
          changed.push(
            await save(tx, actor, row, fields, { action: 'changed', options: undefined, lifts: liftingFields }),
          );
        }
        results.push({ id: row.id, created: false });
        continue;
      }
      const id = uuidv7(clock, rng);
      made.push({
        ...fieldsOf(input),
        id,
        tenantId: actor.tenantId,
        deduplicationKey: input.deduplicationKey ?? null,
        ...(input.enabled ? {} : { disabledAt: sql`statement_timestamp()` as never, disabledBy: actor.name }),
      });
      if (input.state !== undefined) states.push(stateRowOf(id, input.state, pathOf(at, 'state')));
      results.push({ id, created: true });
    }
    const rows = made.length === 0 ? [] : await tx.insert(triggers).values(made).returning();
    if (pipeline === 'legacy' && rows.length > 0) {
      const ids = JSON.stringify(rows.map(({ id }) => id));
      await tx.execute(sql`
        insert into legacy_triggers (trigger_id, owner)
        select id::uuid, 'legacy' from jsonb_array_elements_text(${ids}::text::jsonb) as g(id)`);
    }
    await takeStates(tx, states);
    await record(tx, { actor, action: 'created', kind: 'trigger', ids: rows.map(({ id }) => id) });
    await appendChanges(tx, [...changed, ...rows]);
    return results;
  }

  const write = (actor: Actor, id: string, job: Write): Promise<TriggerView> =>
    transact(async (tx) => {
      const row = await lock(tx, actor.tenantId, id);
      checkVersion(row.configVersion, job.options?.ifVersion);
      const fields = await job.change(row, tx);
      if (fields !== undefined) await appendChanges(tx, [await save(tx, actor, row, fields, job)], job.instruction);
      return viewOf(tx, id);
    });

  return {
    async get(tenantId, id) {
      const [view] = await selectTriggers(db, sql`t.id = ${id}::uuid and t.tenant_id = ${tenantId}`, 1);
      if (view === undefined) throw missing(id);
      return view;
    },
    moves: (tenantId, id) => listMoves(db, tenantId, id, MOVES_MAX),
    list: (tenantId, filter) => listTriggers(db, tenantId, filter),
    upsert: (actor, input) =>
      transact(async (tx) => {
        const [done] = await upsertAll(tx, actor, [input], (_, field) => field);
        const { id, created } = done as Upserted;
        return { trigger: await viewOf(tx, id), created };
      }),
    upsertMany: (actor, inputs) =>
      transact((tx) => upsertAll(tx, actor, inputs, (at, field) => `triggers[${at}].${field}`)),
    patch: (actor, id, patch, options) =>
      write(actor, id, {
        action: 'changed',
        options,
        lifts: liftingFields,
        async change(row, tx) {
          if (patch.connectionId !== undefined) {
            const wanted = [{ connectionId: patch.connectionId, toolkit: row.toolkit }];
            await requireConnections(tx, actor.tenantId, wanted, (_, field) => field);
          }
          const changed = changedFields(row, patchFields(patch));
          return Object.keys(changed).length === 0 ? undefined : changed;
        },
      }),
    async remove(actor, id, options) {
      await transact(async (tx) => {
        const row = await lock(tx, actor.tenantId, id);
        checkVersion(row.configVersion, options?.ifVersion);
        await tx.execute(sql`delete from poll_states where trigger_id = ${id}::uuid`);
        const fields = { deletedAt: sql`statement_timestamp()` as never, enabled: row.enabled };
        await appendChanges(tx, [await save(tx, actor, row, fields, { action: 'deleted', options })]);
      });
    },
    enable: (actor, id, resume, options) =>
      write(actor, id, {
        action: 'enabled',
        options,
        lifts: () => true,
        instruction: { resume },
        change: (row) =>
          row.enabled ? undefined : { enabled: true, disabledAt: null, disabledBy: null, disabledReason: null },
      }),
    disable: (actor, id, options) =>
      write(actor, id, {
        action: 'disabled',
        options,
        change: (row) =>
          row.enabled
            ? {
                enabled: false,
                disabledAt: sql`statement_timestamp()` as never,
                disabledBy: actor.name,
                disabledReason: options?.reason ?? null,
              }
            : undefined,
      }),
    resume: (actor, id, resume, options) =>
      write(actor, id, { action: 'resumed', options, lifts: () => true, instruction: { resume }, change: () => ({}) }),
    pollNow: (actor, id, options) =>
      write(actor, id, { action: 'poll_requested', options, instruction: { pollNow: true }, change: () => ({}) }),
    rewind: (actor, id, to, options) =>
      write(actor, id, {
        action: 'rewound',
        options,
        lifts: () => true,
        instruction:
          'cursor' in to ? { rewindCursor: to.cursor, resume: 'cursor' } : { rewindCursor: 'null', resume: 'now' },
        async change(_row, tx) {
          await refuseDuringHandOff(tx, id);
          const primed = 'cursor' in to;
          await tx.execute(sql`
            update poll_states set poll_state = null, primed = primed and ${primed}, updated_at = statement_timestamp()
            where trigger_id = ${id}::uuid`);
          return primed ? {} : { since: new Date(to.since) };
        },
      }),
  };
}

interface StateRow {
  readonly id: string;
  readonly state: string;
  /** JSON text. */
  readonly cursor: string;
  /** Base64 of 8-byte hashes. */
  readonly seen: string;
}

function stateRowOf(id: string, { cursor, seenKeys }: ImportedState, path: string): StateRow {
  const seen = Buffer.concat(seenKeys.map(keyHashOf));
  const state = encodePollState({ cursor, seen, version: null });
  if (state === undefined) throw new RegistryProblem('invalid', 'cursor and seenKeys are too large together', path);
  return { id, state, cursor, seen: seen.toString('base64') };
}

/** Version 0: no poll has reported on it yet, so the feed gives the state to an engine that reads the trigger. */
async function takeStates(tx: Transaction, rows: readonly StateRow[]): Promise<void> {
  if (rows.length === 0) return;
  const given = sql`json_to_recordset(${JSON.stringify(rows)}::text::json) as g(id uuid, state text, cursor text, seen text)`;
  await tx.execute(sql`
    insert into poll_states (trigger_id, primed, poll_state, config_version, updated_at)
    select g.id, true, g.state, 0, statement_timestamp() from ${given}`);
  await tx.execute(sql`
    update legacy_triggers l set primed = true, cursor = nullif(g.cursor, 'null'), seen = decode(g.seen, 'base64')
    from ${given} where l.trigger_id = g.id`);
}

/** What a hand-off carries over must not change under it; it takes a minute or two. */
async function refuseDuringHandOff(tx: Transaction, id: string): Promise<void> {
  const rows = await tx.execute<{ owner: string }>(sql`
    select owner from legacy_triggers where trigger_id = ${id}::uuid and owner in ('to_v2', 'to_legacy') for share`);
  if (rows.length === 0) return;
  throw new RegistryProblem('conflict', `trigger ${id} is moving between pipelines: rewind it in a minute or two`);
}

const missing = (id: string): RegistryProblem => new RegistryProblem('not_found', `no trigger ${id}`);

async function lock(tx: Transaction, tenantId: string, id: string): Promise<TriggerRow> {
  const where = and(eq(triggers.id, id), eq(triggers.tenantId, tenantId), isNull(triggers.deletedAt));
  const [row] = await tx.select().from(triggers).where(where).for('update');
  if (row === undefined) throw missing(id);
  return row;
}

async function requireConnections(
  tx: Transaction,
  tenantId: string,
  wanted: readonly { readonly connectionId: string; readonly toolkit: string }[],
  pathOf: (at: number, field: string) => string,
): Promise<void> {
  const ids = [...new Set(wanted.map(({ connectionId }) => connectionId))];
  const where = and(inArray(connections.id, ids), eq(connections.tenantId, tenantId), isNull(connections.deletedAt));
  const rows = await tx
    .select({ id: connections.id, toolkit: connections.toolkit })
    .from(connections)
    .where(where)
    .orderBy(asc(connections.id))
    .for('key share');
  const toolkits = new Map(rows.map(({ id, toolkit }) => [id, toolkit]));
  for (const [at, { connectionId, toolkit }] of wanted.entries()) {
    const known = toolkits.get(connectionId);
    if (known === toolkit) continue;
    const why =
      known === undefined
        ? `no connection ${connectionId}`
        : `connection ${connectionId} is of toolkit ${known}, not ${toolkit}`;
    throw new RegistryProblem('invalid', why, pathOf(at, 'connectionId'));
  }
}

/**
 * The triggers that have these deduplication keys, locked. Two first upserts of one key at once: the second waits here
 * and finds the first one's row. Many keys take their tenant's lock instead of one each.
 */
async function lockByKey(
  tx: Transaction,
  tenantId: string,
  inputs: readonly TriggerInput[],
): Promise<ReadonlyMap<string, TriggerRow>> {
  const keys = inputs.flatMap(({ deduplicationKey: key }) => (key === undefined ? [] : [key]));
  if (keys.length === 0) return new Map();
  if (keys.length > 1) {
    await tx.execute(sql`select pg_advisory_xact_lock(${TENANT_LOCK}, hashtext(${tenantId}))`);
  } else {
    await tx.execute(sql`select pg_advisory_xact_lock_shared(${TENANT_LOCK}, hashtext(${tenantId}))`);
    await tx.execute(sql`select pg_advisory_xact_lock(${KEY_LOCK}, hashtext(${`${tenantId} ${keys[0]}`}))`);
  }
  const rows = await tx
    .select()
    .from(triggers)
    .where(and(eq(triggers.tenantId, tenantId), inArray(triggers.deduplicationKey, keys), isNull(triggers.deletedAt)))
    .orderBy(asc(triggers.id))
    .for('update');
  return new Map(rows.map((row) => [row.deduplicationKey as string, row]));
}

function fieldsOf(input: TriggerInput) {
  return {
    name: input.name ?? null,
    tags: [...input.tags],
    toolkit: input.toolkit,
    slug: input.slug,
    version: input.version,
    config: input.config,
    connectionId: input.connectionId,
    intervalSeconds: input.intervalSeconds,
    enabled: input.enabled,
    since: input.since === undefined ? null : new Date(input.since),
    ...policyFields(input.poll),
  };
}

const policyFields = ({ dedupe, overlapSeconds, repeatable }: PollPolicyInput) => ({
  pollDedupe: dedupe,
  pollOverlapSeconds: overlapSeconds ?? null,
  pollRepeatable: repeatable,
});

function patchFields(patch: TriggerPatch): Fields {
  const { name, tags, version, config, connectionId, intervalSeconds, since, poll } = patch;
  const given = {
    name,
    tags: tags === undefined ? undefined : [...tags],
    version,
    config,
    connectionId,
    intervalSeconds,
    since: typeof since === 'string' ? new Date(since) : since,
    ...(poll === undefined ? {} : policyFields(poll)),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Fields;
}

/** The fields whose value differs from the row's. */
function changedFields(row: TriggerRow, fields: Fields): Fields {
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
  const entries = Object.entries(fields).filter(([key, value]) => !same(value, row[key as keyof TriggerRow]));
  return Object.fromEntries(entries) as Fields;
}
