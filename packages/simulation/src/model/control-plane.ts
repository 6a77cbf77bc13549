/**
 * A control plane: triggers and their feed, connections with their credentials, and the receiver of events. Honest by
 * itself; what is wrong with an answer is done to it on its way.
 */
import type { DedupeStrategy } from '@milkrun/core';

export interface TriggerRecord {
  readonly triggerId: string;
  readonly tenantId: string;
  readonly toolkit: string;
  version: string;
  name: string;
  config: string;
  connectionId: string;
  intervalSeconds: number;
  enabled: boolean;
  deleted: boolean;
  since: string | undefined;
  readonly createdAt: string;
  readonly dedupe: DedupeStrategy;
  readonly repeatable: boolean;
  primed: boolean;
  pollState: string | undefined;
}

/** What rides on one change and is done once. */
export interface Instruction {
  /** JSON text. */
  readonly cursor?: string;
  readonly pollNow?: boolean;
  readonly resume?: 'cursor' | 'now';
}

interface FeedRow {
  readonly seq: number;
  readonly triggerId: string;
  readonly configVersion: number;
  readonly record: Readonly<TriggerRecord>;
  readonly instruction: Instruction;
}

export interface Connection {
  readonly tenantId: string;
  readonly connectionId: string;
  status: 'active' | 'expired' | 'revoked' | 'refresh_failed';
  /** Seconds its credentials last; undefined: they do not expire. */
  readonly lastsSeconds: number | undefined;
}

interface SentResult {
  readonly triggerId: string;
  readonly leaseEpoch: number;
  readonly events: readonly {
    readonly id: string;
    readonly triggerid: string;
    readonly data: { readonly n?: number };
  }[];
  readonly last: boolean;
  readonly pollState?: string;
}

interface StateBody {
  readonly batchId: string;
  readonly results: readonly SentResult[];
  readonly lifecycle: readonly { readonly triggerId: string; readonly at: string; readonly state: string }[];
}

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: unknown;
}

export interface TakenResult {
  readonly result: SentResult;
  readonly status: 'accepted' | 'gone' | 'rejected';
  readonly refused: readonly string[];
}

export class ModelControlPlane {
  readonly triggers = new Map<string, TriggerRecord>();
  readonly connections = new Map<string, Connection>();
  /** How often each event was accepted, by id. */
  readonly accepted = new Map<string, number>();
  /** Triggers nobody wants the events of. */
  readonly gone = new Set<string>();
  /** Ids of events refused for good. */
  readonly poison = new Set<string>();
  private readonly feed: FeedRow[] = [];
  private version = 0;
  private readonly waiting = new Set<() => void>();
  private readonly now: () => number;

  constructor(now: () => number) {
    this.now = now;
  }

  /** Changes a trigger, or only sends an instruction. */
  change(triggerId: string, edit: (record: TriggerRecord) => void, instruction: Instruction = {}): void {
    const record = this.triggers.get(triggerId) as TriggerRecord;
    edit(record);
    // The last state handed in belongs to the time before a rewind.
    if (instruction.cursor !== undefined || instruction.resume === 'now') record.pollState = undefined;
    this.version += 1;
    this.feed.push({
      seq: this.feed.length + 1,
      triggerId,
      configVersion: this.version,
      record: { ...record },
      instruction,
    });
    for (const wake of [...this.waiting]) wake();
  }

  /** Told at the next change; answers how to stop waiting. */
  onChange(wake: () => void): () => void {
    this.waiting.add(wake);
    return () => this.waiting.delete(wake);
  }

  /** A page after a cursor `base.seq`; from the beginning each trigger stands once, as it is. */
  changes(after: string | null, limit: number): { changes: object[]; next: string; more: boolean } {
    const head = this.feed.length;
    const [base = head, seq = 0] = after === null ? [head, 0] : after.split('.').map(Number);
    const latest = new Map(this.feed.map((row) => [row.triggerId, row.seq]));
    const rows = this.feed.filter((row) => row.seq > seq && (row.seq > base || latest.get(row.triggerId) === row.seq));
    const shown = rows.slice(0, limit);
    const end = shown.at(-1)?.seq ?? (after === null ? head : seq);
    return { changes: shown.map((row) => this.printed(row)), next: `${base}.${end}`, more: rows.length > shown.length };
  }

  private printed({ triggerId, configVersion, record, instruction }: FeedRow): object {
    if (record.deleted) return { op: 'delete', triggerId, configVersion };
    const now = this.triggers.get(triggerId) as TriggerRecord;
    return {
      op: 'upsert',
      triggerId,
      configVersion,
      tenantId: record.tenantId,
      toolkit: record.toolkit,
      slug: record.name,
      version: record.version,
      config: JSON.parse(record.config) as unknown,
      connectionId: record.connectionId,
      intervalSeconds: record.intervalSeconds,
      enabled: record.enabled,
      createdAt: record.createdAt,
      poll: { dedupe: record.dedupe, overlapSeconds: 600, repeatable: record.repeatable },
      primed: now.primed,
      ...(record.since === undefined ? {} : { since: record.since }),
      ...(now.pollState === undefined ? {} : { pollState: now.pollState }),
      ...(instruction.pollNow === undefined ? {} : { pollNow: instruction.pollNow }),
      ...(instruction.resume === undefined ? {} : { resume: instruction.resume }),
      ...(instruction.cursor === undefined ? {} : { cursor: JSON.parse(instruction.cursor) as unknown }),
    };
  }

  credentials(asks: readonly { readonly tenantId: string; readonly connectionId: string }[]): Answer {
    const connections = asks.map(({ tenantId, connectionId }) => {
      const found = this.connections.get(JSON.stringify([tenantId, connectionId]));
      if (found === undefined) return { tenantId, connectionId, status: 'not_found', reason: 'no such connection' };
      const { status, lastsSeconds } = found;
      if (status !== 'active') return { tenantId, connectionId, status, reason: status };
      const auth = { tenantId, connectionId, token: `secret of ${tenantId} ${connectionId}` };
      const expiresAt =
        lastsSeconds === undefined ? {} : { expiresAt: new Date(this.now() + lastsSeconds * 1000).toISOString() };
      return { tenantId, connectionId, status, auth, ...expiresAt };
    });
    return { status: 200, body: { connections } };
  }

  take(body: StateBody): { answer: Answer; taken: TakenResult[] } {
    const isGone = body.results.some(({ triggerId }) => this.gone.has(triggerId));
    // Of several triggers one that is gone makes the whole answer a 410: the engine has to ask for each alone.
    if (isGone && body.results.length > 1) return { answer: { status: 410, body: {} }, taken: [] };
    const taken = body.results.map((result): TakenResult => {
      if (this.gone.has(result.triggerId)) return { result, status: 'gone', refused: [] };
      const refused = result.events.map(({ id }) => id).filter((id) => this.poison.has(id));
      if (refused.length > 0) return { result, status: 'rejected', refused };
      for (const { id } of result.events) this.accepted.set(id, (this.accepted.get(id) ?? 0) + 1);
      const record = this.triggers.get(result.triggerId);
      if (record !== undefined && result.last) {
        record.primed = true;
        record.pollState = result.pollState ?? record.pollState;
      }
      return { result, status: 'accepted', refused: [] };
    });
    const results = taken.flatMap(({ result: { triggerId }, status, refused }): object[] =>
      status === 'rejected' ? refused.map((eventId) => ({ triggerId, status, eventId })) : [{ triggerId, status }],
    );
    const lifecycle = body.lifecycle.map(({ triggerId, at }) => ({ triggerId, at }));
    return { answer: isGone ? { status: 410, body: {} } : { status: 200, body: { results, lifecycle } }, taken };
  }
}
