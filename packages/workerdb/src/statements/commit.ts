/**
 * Commits rows: ≤ 8 MiB a statement, bisecting on data and size errors, so that one bad row never keeps the others from
 * committing. The bad row itself is quarantined with a reason. The mass-410 brake is counted here, under a lock.
 */
import {
  type CommitException,
  type CommitInput,
  type CommitResult,
  type CommitRow,
  halve,
  type RowOutcome,
} from '@milkrun/core';
import type { Sql, TransactionSql } from 'postgres';
import { codeNumberOf } from '../code-numbers.ts';
import { COMMIT, COMMIT_PLAIN } from './commit-sql.ts';

const STATEMENT_BYTES_MAX = 8 * 1024 * 1024;
const BRAKE_LOCK = 7003;
/** A row the brake has parked is offered again after this, not at once. */
const BRAKE_RETRY_SECONDS = 60;

interface Answer {
  readonly committed: number;
  readonly next_due_ms: number | null;
  readonly arm: boolean;
  readonly exceptions: readonly (readonly [number, string, number, 'already' | 'fenced'])[];
  readonly halted: Readonly<Record<string, number>>;
}

interface Total {
  committed: number;
  exceptions: CommitException[];
  nextDueInMs: number | null;
  arm: boolean;
  halted: Record<string, number>;
  bisections: number;
}

export async function commitRows(sql: Sql, input: CommitInput): Promise<CommitResult> {
  const total: Total = { committed: 0, exceptions: [], nextDueInMs: null, arm: false, halted: {}, bisections: 0 };
  const chunks = chunksOf(input.rows);
  for (let at = 0; at < chunks.length; at += 1) {
    await commitChunk(sql, input, chunks[at] as readonly CommitRow[], at === chunks.length - 1, total);
  }
  return total;
}

function chunksOf(rows: readonly CommitRow[]): (readonly CommitRow[])[] {
  const chunks: CommitRow[][] = [[]];
  let bytes = 0;
  for (const row of rows) {
    const size = sizeOf(row);
    if (bytes + size > STATEMENT_BYTES_MAX && bytes > 0) {
      chunks.push([]);
      bytes = 0;
    }
    (chunks.at(-1) as CommitRow[]).push(row);
    bytes += size;
  }
  return chunks;
}

function sizeOf(row: CommitRow): number {
  let size =
    200 +
    (row.cursor?.length ?? 0) +
    (((row.seenAdded ?? row.seen)?.byteLength ?? 0) * 4) / 3 +
    (row.reason?.length ?? 0);
  for (const event of row.held ?? []) size += event.json.length + 80;
  for (const letter of row.deadLetters ?? []) size += (letter.raw.byteLength * 4) / 3 + 300;
  return size;
}

async function commitChunk(
  sql: Sql,
  input: CommitInput,
  rows: readonly CommitRow[],
  last: boolean,
  total: Total,
): Promise<void> {
  try {
    add(total, await run(sql, input, rows, last, total));
  } catch (error) {
    if (!isDataError(error) || rows.length === 0) throw error;
    if (rows.length > 1) {
      total.bisections += 1;
      const [first, second] = halve(rows);
      await commitChunk(sql, input, first, false, total);
      await commitChunk(sql, input, second, last, total);
      return;
    }
    const [bad] = rows as [CommitRow];
    add(total, await run(sql, input, [quarantinedOf(bad, error)], last, total));
    total.exceptions.push({
      shard: bad.shard,
      triggerId: bad.triggerId,
      leaseEpoch: bad.leaseEpoch,
      status: 'quarantined',
    });
  }
}

/** SQLSTATE class 22 (data exception) and 54 (program limit exceeded): the data's fault, and nothing was left behind. */
function isDataError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && (code.startsWith('22') || code.startsWith('54'));
}

/** The row without what PostgreSQL refused: charged to the data, its cursor where it was. */
function quarantinedOf(row: CommitRow, error: unknown): CommitRow {
  const { shard, triggerId, leaseEpoch } = row;
  const reason = `PostgreSQL refuses the row: ${String((error as { code?: unknown }).code)}`;
  return {
    shard,
    triggerId,
    leaseEpoch,
    outcome: 'backoff',
    code: 'poll.response_invalid',
    charge: 'poison',
    haltAfter: 5,
    haltCode: 'quarantined',
    reason,
    events: 0,
  };
}

async function run(
  sql: Sql,
  input: CommitInput,
  rows: readonly CommitRow[],
  last: boolean,
  total: Total,
): Promise<Answer> {
  const end = last && input.end;
  const write = async (on: Sql | TransactionSql, chosen: readonly CommitRow[]): Promise<Answer> => {
    const { plain, others } = sortedOut(chosen);
    const batch = [input.batchId, end, input.open, end ? 0 : (input.extendSeconds ?? 0), end && input.forced];
    const [statement, parameters] =
      others.length === 0 ? [COMMIT_PLAIN, plain] : [COMMIT, [...plain, `[${others.join(',')}]`, chosen.length]];
    const [answer] = await on.unsafe<Answer[]>(statement, [...batch, ...parameters], { prepare: true });
    return answer as Answer;
  };
  if (!rows.some((row) => row.haltCode === 'receiver_gone')) return await write(sql, rows);
  return await sql.begin(async (tx) => {
    const { chosen, braked } = await applyBrake(tx, input.batchId, rows);
    const answer = await write(tx, chosen);
    total.exceptions.push(...braked);
    return answer;
  });
}

/** Which of the keys ($2) the batch still holds. Not locked: a fence that comes between costs one place of the brake's. */
export const STILL_HELD = `
select k.i as trigger_id from jsonb_to_recordset($2::text::jsonb) as k(s smallint, i uuid, e integer) cross join lateral (
  select t.lease_owner from polling_trigger_runs t
  where t.shard = k.s and t.trigger_id = k.i and t.lease_epoch = k.e and t.enabled limit 1) h
where h.lease_owner = (select batch_no from batches where batch_id = $1 and ended_at is null and expires_at > statement_timestamp())`;

/**
 * Above max(50, 5 % of the polled triggers) halts an hour nobody is halted any more: a routing mistake looks like this.
 * Only rows that are still the batch's own count, or a lost lease would brake everybody.
 */
async function applyBrake(
  tx: TransactionSql,
  batchId: string,
  rows: readonly CommitRow[],
): Promise<{ chosen: readonly CommitRow[]; braked: CommitException[] }> {
  await tx.unsafe(`select pg_advisory_xact_lock(${BRAKE_LOCK}, 0)`);
  const keys = rows.flatMap(({ haltCode, shard: s, triggerId: i, leaseEpoch: e }) =>
    haltCode === 'receiver_gone' ? [{ s, i, e }] : [],
  );
  const found = await tx.unsafe<{ trigger_id: string }[]>(STILL_HELD, [batchId, JSON.stringify(keys)]);
  const held = new Set(found.map((one) => one.trigger_id));
  if (held.size === 0) return { chosen: rows, braked: [] };
  const [brake] = await tx.unsafe<{ room: number }[]>(`
    select (greatest(50, ceil(f.polled * 0.05)) - (select count(*) from lifecycle_outbox
      where state = 'halted' and code = 'receiver_gone' and at > greatest(statement_timestamp() - interval '1 h', f.brake_reset_at)))::int as room
    from fleet f`);
  let room = brake?.room ?? 0;
  const braked: CommitException[] = [];
  const chosen = rows.map((row): CommitRow => {
    if (row.haltCode !== 'receiver_gone' || !held.has(row.triggerId)) return row;
    room -= 1;
    if (room >= 0) return row;
    braked.push({ shard: row.shard, triggerId: row.triggerId, leaseEpoch: row.leaseEpoch, status: 'braked' });
    const { haltCode: _, ...rest } = row;
    return {
      ...rest,
      outcome: 'release',
      code: 'broadcast.gone',
      reason: 'the mass-410 brake is on',
      retryAfterSeconds: BRAKE_RETRY_SECONDS,
    };
  });
  if (room <= 0) await tx.unsafe('update fleet set braked = true where not braked');
  return { chosen, braked };
}

const CHARGE = { failure: 'f', poison: 'p' } as const;

/** Columns of the plain rows, each an array literal, and the JSON of each other row. */
function sortedOut(rows: readonly CommitRow[]): {
  readonly plain: readonly string[];
  readonly others: readonly string[];
} {
  const others: string[] = [];
  let [shards, ids, epochs, millis, deduplicated] = ['', '', '', '', ''];
  for (const row of rows) {
    if (!isPlain(row)) {
      others.push(rowJson(row));
      continue;
    }
    shards += `,${row.shard}`;
    ids += `,${row.triggerId}`;
    epochs += `,${row.leaseEpoch}`;
    millis += `,${row.pollMs === undefined ? 'null' : Math.round(row.pollMs)}`;
    deduplicated += `,${row.deduplicated ?? 0}`;
  }
  const plain = [shards, ids, epochs, millis, deduplicated].map((column) => `{${column.slice(1)}}`);
  return { plain, others };
}

/** A success that found nothing and changes nothing that is remembered. */
function isPlain(row: CommitRow): boolean {
  return (
    row.outcome === 'success' &&
    row.code === 'ok' &&
    row.events === 0 &&
    (row.found === undefined || row.found === (row.deduplicated ?? 0)) &&
    row.cursor === undefined &&
    row.seen === undefined &&
    row.versionUsed === undefined &&
    row.primed === undefined &&
    row.rekeyed !== true &&
    row.retryAfterSeconds === undefined &&
    row.reason === undefined &&
    row.haltCode === undefined &&
    row.held === undefined &&
    row.heldDelivered === undefined &&
    row.deadLetters === undefined &&
    row.warnings === undefined
  );
}

/** JSON text passed through as it is: a cursor is never decoded to be encoded again. */
function rowJson(row: CommitRow): string {
  const outcome: RowOutcome = row.outcome;
  let json = `{"s":${row.shard},"i":"${row.triggerId}","e":${row.leaseEpoch},"o":"${outcome}","c":${codeNumberOf(row.code)},"ev":${row.events}`;
  if (row.code !== 'ok') json += `,"ct":"${row.code}"`;
  if (row.haltCode !== undefined) json += `,"hc":${codeNumberOf(row.haltCode)},"hct":"${row.haltCode}"`;
  if (row.haltAfter !== undefined) json += `,"ha":${row.haltAfter}`;
  if (row.charge !== undefined) json += `,"ch":"${CHARGE[row.charge]}"`;
  if (row.retryAfterSeconds !== undefined) json += `,"ra":${Math.ceil(row.retryAfterSeconds)}`;
  // A JSON null in a record is an SQL null, which means unchanged: a cursor that became null says so itself.
  if (row.cursor === 'null') json += ',"cn":true';
  else if (row.cursor !== undefined) json += `,"cur":${row.cursor}`;
  if (row.seen !== undefined) {
    const written = Buffer.from(row.seenAdded ?? row.seen).toString('base64');
    json += `,"${row.seenAdded === undefined ? 'sn' : 'sa'}":"${written}","sl":${row.seen.byteLength}`;
  }
  if (row.versionUsed !== undefined) json += `,"v":${JSON.stringify(row.versionUsed)}`;
  if (row.primed !== undefined) json += `,"pr":${row.primed}`;
  if (row.deduplicated !== undefined) json += `,"dd":${row.deduplicated}`;
  if (row.found !== undefined && row.found !== row.events + (row.deduplicated ?? 0)) json += `,"fd":${row.found}`;
  if (row.pollMs !== undefined) json += `,"ms":${Math.round(row.pollMs)}`;
  if (row.polled === true) json += ',"pl":true';
  if (row.rekeyed === true) json += ',"rk":true';
  if (row.reason !== undefined) json += `,"r":${JSON.stringify(clean(row.reason))}`;
  if (row.held !== undefined)
    json += `,"h":${JSON.stringify(row.held.map((event) => ({ id: event.eventId, ev: event.json })))}`;
  if (row.heldDelivered !== undefined) json += `,"hd":${JSON.stringify(row.heldDelivered)}`;
  if (row.deadLetters !== undefined) {
    const letters = row.deadLetters.map(({ stage, code, reason, eventId, raw }) => ({
      st: stage,
      c: code,
      r: clean(reason),
      id: eventId,
      raw: Buffer.from(raw).toString('base64'),
    }));
    json += `,"dl":${JSON.stringify(letters)}`;
  }
  if (row.warnings !== undefined) json += `,"w":${JSON.stringify(row.warnings)}`;
  return `${json}}`;
}

/** A reason is the engine's text with a provider's words in it: NUL and lone surrogates would refuse the whole row. */
function clean(text: string): string {
  return text.slice(0, 500).toWellFormed().replaceAll('\u0000', '\ufffd');
}

function add(total: Total, answer: Answer): void {
  total.committed += answer.committed;
  total.arm ||= answer.arm && answer.committed > 0;
  if (answer.next_due_ms !== null)
    total.nextDueInMs = Math.min(total.nextDueInMs ?? Number.POSITIVE_INFINITY, answer.next_due_ms);
  for (const [shard, triggerId, leaseEpoch, status] of answer.exceptions) {
    total.exceptions.push({ shard, triggerId, leaseEpoch, status });
    // A repeat arms too: the first attempt may have died between its commit and its signal.
    if (status === 'already') total.arm = true;
  }
  for (const [code, count] of Object.entries(answer.halted)) total.halted[code] = (total.halted[code] ?? 0) + count;
}
