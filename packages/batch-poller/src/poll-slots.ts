/**
 * The poll slots of the process, shared by every batch it runs: no barrier between batches, none between polls.
 *
 * Each batch stands in a line of its own, and an older line goes first: batches end one after the other, and the next one
 * is claimed while the last ones are polled. Within a line a free slot goes to the next waiting (toolkit, tenant) in turn.
 * A toolkit or a tenant that holds a quarter of the width is passed over while others wait, in whichever line. Polls
 * without a batch take turns with the batches. Throttles halve the width at most once a second, good answers win it back
 * one slot per width answers (additive increase, multiplicative decrease).
 */
import type { Clock } from '@milkrun/core';

export interface SlotJob {
  readonly toolkit: string;
  readonly tenantId: string;
  /** Starts the poll; the slot is held until the promise settles. Must not throw synchronously. */
  run(): Promise<unknown>;
  /** Told instead when its line is withdrawn before it started. */
  drop?(): void;
}

interface Group {
  readonly toolkit: string;
  readonly tenantId: string;
  readonly jobs: SlotJob[];
  head: number;
}

const WIDTH_MIN = 4;
const THROTTLE_GAP_MS = 1_000;

/** The polls of one batch that wait for a slot. */
export class PollLine {
  /** Older lines have lower numbers. */
  readonly number: number;
  private readonly groups = new Map<string, Group>();
  /** Groups in turn; a group is in the ring exactly while it has jobs. */
  private ring: Group[] = [];
  private at = 0;

  constructor(number: number) {
    this.number = number;
  }

  get isEmpty(): boolean {
    return this.ring.length === 0;
  }

  add(job: SlotJob): void {
    const key = `${job.toolkit}\n${job.tenantId}`;
    let group = this.groups.get(key);
    if (group === undefined) {
      group = { toolkit: job.toolkit, tenantId: job.tenantId, jobs: [], head: 0 };
      this.groups.set(key, group);
      this.ring.push(group);
    }
    group.jobs.push(job);
  }

  /** The next job in turn of those whose toolkit and tenant may have a slot. */
  take(may: (group: Pick<Group, 'toolkit' | 'tenantId'>) => boolean): SlotJob | undefined {
    for (let step = 0; step < this.ring.length; step += 1) {
      const index = (this.at + step) % this.ring.length;
      const group = this.ring[index] as Group;
      if (may(group)) return this.takeAt(index, group);
    }
    return undefined;
  }

  clear(): SlotJob[] {
    const jobs = this.ring.flatMap((group) => group.jobs.slice(group.head));
    this.groups.clear();
    this.ring = [];
    this.at = 0;
    return jobs;
  }

  private takeAt(index: number, group: Group): SlotJob {
    const job = group.jobs[group.head] as SlotJob;
    group.head += 1;
    if (group.head === group.jobs.length) {
      this.groups.delete(`${group.toolkit}\n${group.tenantId}`);
      this.ring.splice(index, 1);
      this.at = index;
    } else {
      this.at = index + 1;
    }
    if (this.at >= this.ring.length) this.at = 0;
    return job;
  }
}

export class PollSlots {
  private readonly clock: Clock;
  private ceiling: number;
  private current: number;
  private good = 0;
  private lastThrottle = Number.NEGATIVE_INFINITY;
  private busy = 0;
  private lastLine = 0;
  /** Those with waiting jobs, the oldest first. */
  private lines: PollLine[] = [];
  /** Polls without a batch. */
  private readonly alone = new PollLine(0);
  private isTurnOfAlone = true;
  private readonly byToolkit = new Map<string, number>();
  private readonly byTenant = new Map<string, number>();

  constructor(options: { readonly width: number; readonly clock: Clock }) {
    this.ceiling = options.width;
    this.current = options.width;
    this.clock = options.clock;
  }

  /** Slots usable at present. */
  get width(): number {
    return Math.min(this.current, this.ceiling);
  }

  /** Slots in use. */
  get inUse(): number {
    return this.busy;
  }

  /** The process's share of `POLL_CAP`, from the heartbeat loop. */
  setCeiling(width: number): void {
    this.ceiling = Math.max(1, Math.floor(width));
    this.current = Math.min(this.current, this.ceiling);
    this.fill();
  }

  throttled(): void {
    const now = this.clock.monotonic();
    if (now - this.lastThrottle < THROTTLE_GAP_MS) return;
    this.lastThrottle = now;
    this.good = 0;
    this.current = Math.max(Math.min(WIDTH_MIN, this.ceiling), Math.floor(this.width / 2));
  }

  answered(): void {
    if (this.current >= this.ceiling) return;
    this.good += 1;
    if (this.good < this.current) return;
    this.good = 0;
    this.current += 1;
  }

  /** A line of its own for a batch, behind those there are. */
  createLine(): PollLine {
    this.lastLine += 1;
    return new PollLine(this.lastLine);
  }

  /** Queues jobs, in the line of their batch if they have one; each runs when it wins a slot. */
  push(jobs: readonly SlotJob[], line = this.alone): void {
    if (line !== this.alone && line.isEmpty && jobs.length > 0) {
      this.lines = [...this.lines, line].sort((a, b) => a.number - b.number);
    }
    for (const job of jobs) line.add(job);
    this.fill();
  }

  /** Drops what a line has not started. */
  withdraw(line: PollLine): void {
    this.lines = this.lines.filter((other) => other !== line);
    for (const job of line.clear()) job.drop?.();
  }

  private fill(): void {
    while (this.busy < this.width) {
      const job = this.next();
      if (job === undefined) return;
      this.start(job);
    }
  }

  private next(): SlotJob | undefined {
    const quarter = Math.max(1, Math.floor(this.width / 4));
    const order = this.isTurnOfAlone ? [this.alone, ...this.lines] : [...this.lines, this.alone];
    const inTurn = (may: Parameters<PollLine['take']>[0]): SlotJob | undefined => {
      for (const line of order) {
        const job = line.take(may);
        if (job === undefined) continue;
        this.isTurnOfAlone = line !== this.alone;
        if (line.isEmpty) this.lines = this.lines.filter((other) => other !== line);
        return job;
      }
      return undefined;
    };
    const isBelow = ({ toolkit, tenantId }: Pick<Group, 'toolkit' | 'tenantId'>): boolean =>
      (this.byToolkit.get(toolkit) ?? 0) < quarter && (this.byTenant.get(tenantId) ?? 0) < quarter;
    // Everybody who waits is above a quarter: the share binds only while others wait.
    return inTurn(isBelow) ?? inTurn(() => true);
  }

  private start(job: SlotJob): void {
    this.busy += 1;
    this.byToolkit.set(job.toolkit, (this.byToolkit.get(job.toolkit) ?? 0) + 1);
    this.byTenant.set(job.tenantId, (this.byTenant.get(job.tenantId) ?? 0) + 1);
    const free = (): void => {
      this.busy -= 1;
      release(this.byToolkit, job.toolkit);
      release(this.byTenant, job.tenantId);
      this.fill();
    };
    job.run().then(free, free);
  }
}

function release(counts: Map<string, number>, key: string): void {
  const left = (counts.get(key) ?? 1) - 1;
  if (left === 0) counts.delete(key);
  else counts.set(key, left);
}
