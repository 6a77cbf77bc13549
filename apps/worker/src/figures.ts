/** What the engine says of itself: rows from workerdb, counts since the process started from its metrics. */
import { quantileOf, type TelemetryMetrics, totalOf } from '@milkrun/telemetry';
import type { WorkerDb } from '@milkrun/workerdb';

export interface Figures {
  readonly now: string;
  readonly feedAtEnd: boolean;
  readonly triggers: number;
  readonly due: number;
  readonly oldestDueSeconds: number;
  readonly leasesHeld: number;
  readonly halted: Readonly<Record<string, number>>;
  readonly batches: Readonly<Record<string, number>>;
  readonly polls: number;
  readonly dueLagP99Seconds: number | null;
  readonly eventsFound: number;
  readonly eventsDelivered: number;
  readonly primed: number;
  readonly undelivered: number;
  readonly pending: number | null;
  readonly workers: number;
  readonly braked: boolean;
  readonly widthInUse: number;
  readonly codes: Readonly<Record<string, number>>;
}

export async function figuresOf(deps: {
  readonly db: WorkerDb;
  readonly metrics: TelemetryMetrics;
  readonly feedAtEnd: () => Promise<boolean>;
  readonly widthInUse: () => number;
  /** When the process started, RFC 3339. */
  readonly startedAt: string;
  readonly since?: string;
}): Promise<Figures> {
  const fleet = await deps.db.fleet(deps.since ?? deps.startedAt);
  const parked = (fleet.codes['broadcast.unavailable'] ?? 0) + (fleet.codes['broadcast.misconfigured'] ?? 0);
  const snapshot = deps.metrics.snapshot();
  const planned = fleet.unclaimedBatches > 0 ? { planned: fleet.unclaimedBatches } : {};
  return {
    now: fleet.now,
    feedAtEnd: await deps.feedAtEnd(),
    triggers: fleet.polled,
    due: fleet.due,
    oldestDueSeconds: fleet.oldestDueSeconds,
    leasesHeld: fleet.leased,
    halted: fleet.haltedByCode,
    batches: { ...fleet.batches, ...planned },
    polls: totalOf(snapshot, 'polling.poll.polls'),
    dueLagP99Seconds: quantileOf(snapshot, 'polling.claim.due_lag', 0.99) ?? null,
    eventsFound: totalOf(snapshot, 'polling.poll.events_found'),
    eventsDelivered: totalOf(snapshot, 'polling.broadcast.events_delivered'),
    primed: totalOf(snapshot, 'polling.poll.primed'),
    undelivered: fleet.held + fleet.deadLetters + parked,
    pending: deps.since === undefined ? null : await deps.db.pending(deps.since),
    workers: fleet.workers,
    braked: fleet.braked,
    widthInUse: deps.widthInUse(),
    codes: fleet.codes,
  };
}
