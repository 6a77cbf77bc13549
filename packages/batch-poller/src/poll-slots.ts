/**
 * The poll slots of the process, shared by every batch it runs: no barrier between batches, none between polls.
 *
 * A free slot goes to the next waiting (toolkit, tenant) in turn; a toolkit or a tenant that holds a quarter of the width
 * is passed over while others wait. Throttles halve the width at most once a second, good answers win it back one slot
 * per width answers (additive increase, multiplicative decrease).
 */
import type { Clock } from '@milkrun/core';

export interface SlotJob {
  readonly toolkit: string;
  readonly tenantId: string;
  /** Starts the poll; the slot is held until the promise settles. Must not throw synchronously. */
  run(): Promise<unknown>;
}

interface Group {
  readonly toolkit: string;
  readonly tenantId: string;
  readonly jobs: SlotJob[];
  head: number;
}

const WIDTH_MIN = 4;
const THROTTLE_GAP_MS = 1_000;

export class PollSlots {
  private readonly clock: Clock;
  private ceiling: number;
  private current: number;
  private good = 0;
  private lastThrottle = Number.NEGATIVE_INFINITY;
  private busy = 0;
  private readonly groups = new Map<string, Group>();
  /** Groups in turn; a group is in the ring exactly while it has jobs. */
  private ring: Group[] = [];
  private at = 0;
  private waiting = 0;
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

  /** Queues jobs; each runs when it wins a slot. */
  push(jobs: readonly SlotJob[]): void {
    for (const job of jobs) {
      const key = `${job.toolkit}\n${job.tenantId}`;
      let group = this.groups.get(key);
      if (group === undefined) {
        group = { toolkit: job.toolkit, tenantId: job.tenantId, jobs: [], head: 0 };
        this.groups.set(key, group);
        this.ring.push(group);
      }
      group.jobs.push(job);
      this.waiting += 1;
    }
    this.fill();
  }

  /** Takes back what has not started and belongs to `owns`; answers how many. */
  withdraw(owns: (job: SlotJob) => boolean): number {
    let taken = 0;
    for (const group of this.groups.values()) {
      const kept = group.jobs.slice(group.head).filter((job) => !owns(job));
      taken += group.jobs.length - group.head - kept.length;
      group.jobs.splice(0, group.jobs.length, ...kept);
      group.head = 0;
    }
    this.waiting -= taken;
    for (const [key, group] of this.groups) if (group.jobs.length === 0) this.groups.delete(key);
    this.ring = this.ring.filter((group) => group.jobs.length > 0);
    this.at = 0;
    return taken;
  }

  private fill(): void {
    while (this.busy < this.width && this.waiting > 0) this.start(this.next());
  }

  private next(): SlotJob {
    const quarter = Math.max(1, Math.floor(this.width / 4));
    let chosen: number | undefined;
    for (let step = 0; step < this.ring.length; step += 1) {
      const index = (this.at + step) % this.ring.length;
      const group = this.ring[index] as Group;
      if ((this.byToolkit.get(group.toolkit) ?? 0) >= quarter) continue;
      if ((this.byTenant.get(group.tenantId) ?? 0) >= quarter) continue;
      chosen = index;
      break;
    }
    // Everybody who waits is above a quarter: the share binds only while others wait.
    const index = chosen ?? this.at % this.ring.length;
    const group = this.ring[index] as Group;
    const job = group.jobs[group.head] as SlotJob;
    group.head += 1;
    this.waiting -= 1;
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
