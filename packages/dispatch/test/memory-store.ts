/**
 * A model of the dispatch side of workerdb in memory: rows with due times, batches in flight, the feed's cursor, turns.
 * It takes its time from a clock and keeps the promises of the port that the code under test relies on.
 */
import type {
  Clock,
  DispatchStore,
  FeedChange,
  FeedPageInput,
  FeedPageResult,
  LifecycleRecord,
  LivenessReport,
  TickInput,
  TickResult,
} from '@milkrun/core';

export interface MemoryRow {
  configVersion: number;
  dueAtMs: number;
  batchId?: string;
  seenBy?: string;
}

export class MemoryDispatchStore implements DispatchStore {
  readonly rows = new Map<string, MemoryRow>();
  readonly batches = new Map<string, { keys: string[]; claimed: boolean }>();
  readonly ticks: TickInput[] = [];
  readonly turns = new Map<string, { workerId: string; untilMs: number }>();
  readonly lifecycle: (LifecycleRecord & { id: string })[] = [];
  readonly workers = new Set<string>();
  cursor: string | null = null;
  recordedWakeMs = Number.POSITIVE_INFINITY;
  placesMax = 16;
  resyncToken: string | undefined;
  resyncs: { token: string; confirmMassDelete: boolean }[] = [];
  massDeleteMax = 50;
  report: Partial<LivenessReport> = {};
  shards: number[] = [0];
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  addDue(count: number, dueInMs = 0): void {
    for (let i = 0; i < count; i += 1) {
      this.rows.set(`t${this.rows.size}`, { configVersion: 1, dueAtMs: this.#clock.now() + dueInMs });
    }
  }

  async tick(input: TickInput): Promise<TickResult> {
    if (this.gone) {
      const nothing = {
        planned: [],
        unclaimed: [],
        due: 0,
        left: 0,
        wakeInMs: 60_000,
        oldestDueSeconds: 0,
        backoffMs: 0,
      };
      return { ...nothing, gone: true };
    }
    this.ticks.push(input);
    const now = this.#clock.now();
    const free = [...this.rows].filter(([, row]) => row.batchId === undefined);
    const due = free.filter(([, row]) => row.dueAtMs <= now).map(([id]) => id);
    const planned = [];
    const unclaimed = [...this.batches].filter(([, batch]) => !batch.claimed).map(([batchId]) => batchId);
    for (const batchId of input.dispatch ? input.batchIds : []) {
      if (due.length === 0 || this.batches.size >= this.placesMax) break;
      const keys = due.splice(0, input.batchSize);
      for (const id of keys) Object.assign(this.rows.get(id) ?? {}, { batchId });
      this.batches.set(batchId, { keys, claimed: false });
      planned.push({ batchId, keys: keys.length });
    }
    const next = Math.min(...free.map(([, row]) => row.dueAtMs).filter((at) => at > now));
    const wakeInMs = due.length > 0 ? 0 : Math.min(3_600_000, next - now);
    this.recordedWakeMs = now + wakeInMs;
    return {
      planned,
      unclaimed,
      due: due.length + planned.reduce((sum, { keys }) => sum + keys, 0),
      left: input.dispatch ? due.length : 0,
      wakeInMs,
      oldestDueSeconds: 0,
      backoffMs: 0,
    };
  }

  async feedCursor(): Promise<string | null> {
    return this.cursor;
  }

  async applyFeedPage({ after, next, changes, source }: FeedPageInput): Promise<FeedPageResult> {
    const nothing = { applied: false, upserted: 0, deleted: 0, fenced: 0, stale: 0, arm: [] };
    if (source === 'pull' && after !== this.cursor) return nothing;
    if (source === 'pull') this.cursor = next;
    let [upserted, deleted, stale] = [0, 0, 0];
    for (const change of changes) {
      const row = this.rows.get(change.triggerId);
      if (row !== undefined && this.resyncToken !== undefined) row.seenBy = this.resyncToken;
      if (row !== undefined && row.configVersion >= change.configVersion) {
        stale += 1;
      } else if (change.op === 'delete') {
        deleted += this.rows.delete(change.triggerId) ? 1 : 0;
      } else {
        upserted += 1;
        const fresh = { configVersion: change.configVersion, dueAtMs: this.#clock.now() };
        this.rows.set(change.triggerId, { ...fresh, ...(this.resyncToken ? { seenBy: this.resyncToken } : {}) });
      }
    }
    return { applied: true, upserted, deleted, fenced: 0, stale, arm: upserted > 0 ? [0] : [] };
  }

  async beginResync(): Promise<string> {
    this.cursor = null;
    this.resyncToken = `resync-${this.resyncs.length}`;
    return this.resyncToken;
  }

  async resyncInProgress(): Promise<string | null> {
    return this.resyncToken ?? null;
  }

  async finishResync(input: { token: string; confirmMassDelete: boolean }) {
    this.resyncs.push(input);
    const unseen = [...this.rows].filter(([, row]) => row.seenBy !== input.token).map(([id]) => id);
    this.resyncToken = undefined;
    if (unseen.length > this.massDeleteMax && !input.confirmMassDelete) return { deleted: 0, refused: unseen.length };
    for (const id of unseen) this.rows.delete(id);
    return { deleted: unseen.length, refused: 0 };
  }

  async heartbeatWorker({ workerId }: { workerId: string }) {
    this.workers.add(workerId);
    return { live: this.workers.size };
  }

  async removeWorker(workerId: string) {
    this.workers.delete(workerId);
    return { othersLive: this.workers.size };
  }

  /** Re-sharding has removed the shard. */
  gone = false;
  readonly repaired: LivenessReport[] = [];

  async timerShards(): Promise<readonly number[]> {
    return this.shards;
  }

  async ensureTimerShards(count: number): Promise<void> {
    this.shards = Array.from({ length: count }, (_, n) => n);
  }

  async liveness(): Promise<LivenessReport> {
    const counts = { checked: this.rows.size, polled: this.rows.size, stale: 0, silent: 0, oldestDueSeconds: 0 };
    const named = { open: {}, violations: [], staleTriggers: [], silentTriggers: [], quietShards: [] };
    return { ...counts, ...named, ...this.report };
  }

  async repairLiveness(report: LivenessReport): Promise<void> {
    this.repaired.push(report);
  }

  async pendingLifecycle(limit: number) {
    return this.lifecycle.slice(0, limit);
  }

  async acknowledgeLifecycle(ids: readonly string[]): Promise<void> {
    for (const id of ids) this.lifecycle.splice(this.lifecycle.findIndex((record) => record.id === id) >>> 0, 1);
  }

  async withTurn<T>(name: string, holdSeconds: number, workerId: string, work: () => Promise<T>) {
    const held = this.turns.get(name);
    if (held !== undefined && held.workerId !== workerId && held.untilMs > this.#clock.now()) return undefined;
    this.turns.set(name, { workerId, untilMs: this.#clock.now() + holdSeconds * 1000 });
    return await work();
  }
}

export function upsert(triggerId: string, configVersion = 1): FeedChange {
  return {
    op: 'upsert',
    triggerId,
    configVersion,
    tenantId: 'tenant',
    toolkit: 'toolkit',
    slug: 'slug',
    version: '1',
    config: '{}',
    connectionId: 'connection',
    intervalSeconds: 300,
    enabled: true,
    createdAt: '2026-01-01T00:00:00Z',
    poll: { dedupe: 'unique', repeatable: true },
    primed: false,
    pollNow: false,
  };
}
