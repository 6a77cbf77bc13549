/**
 * Which connections asked to be left alone, as this process knows: what its own polls were told, at once, and what other
 * workers were told, as soon as they have written it down. A poll that has not started is then not made.
 *
 * It only saves calls: claim takes no trigger of a limited connection, whatever this remembers.
 */
import type { ClaimedTrigger, Clock } from '@milkrun/core';

type Source = Pick<ClaimedTrigger, 'toolkit' | 'tenantId' | 'connectionId'>;

export interface SourceLimit extends Source {
  /** From now on. */
  readonly seconds: number;
}

/** Writes limits down for the other workers, some at a time. Failing loses nothing but a little haste. */
export type LimitWriter = (limits: readonly SourceLimit[]) => Promise<void>;

const keyOf = ({ toolkit, tenantId, connectionId }: Source): string => `${toolkit}\n${tenantId}\n${connectionId}`;
/** Beyond this the soonest to end are forgotten: claim still knows them. */
const LIMITS_MAX = 50_000;

export class SourceHolds {
  private readonly clock: Clock;
  private readonly write: LimitWriter;
  private readonly until = new Map<string, number>();
  private waiting: SourceLimit[] = [];
  private writing: Promise<void> | undefined;

  constructor(clock: Clock, write: LimitWriter) {
    this.clock = clock;
    this.write = write;
  }

  /** Seconds until the connection may be polled again; undefined when it may be now. */
  secondsLeft(source: Source): number | undefined {
    const key = keyOf(source);
    const until = this.until.get(key);
    if (until === undefined) return undefined;
    const left = (until - this.clock.monotonic()) / 1000;
    if (left > 0) return left;
    this.until.delete(key);
    return undefined;
  }

  /** A poll was told to stay away: known here at once, and written down for the others. */
  limited(limit: SourceLimit): void {
    if (!this.learned(limit)) return;
    this.waiting.push(limit);
    this.writing ??= this.flush();
  }

  /** Another worker was told so. False: nothing new. */
  learned(limit: SourceLimit): boolean {
    const key = keyOf(limit);
    const until = this.clock.monotonic() + limit.seconds * 1000;
    if ((this.until.get(key) ?? Number.NEGATIVE_INFINITY) >= until) return false;
    this.until.set(key, until);
    if (this.until.size > LIMITS_MAX) this.until.delete(this.until.keys().next().value as string);
    return true;
  }

  /** Resolves when what was to be written is written, or given up. */
  async settled(): Promise<void> {
    await this.writing;
  }

  private async flush(): Promise<void> {
    while (this.waiting.length > 0) {
      const limits = this.waiting;
      this.waiting = [];
      // The commit of each of these writes the same: nothing is lost.
      await this.write(limits).catch(() => undefined);
    }
    this.writing = undefined;
  }
}
