/**
 * Virtual time and the order of everything: a queue of moments, each run alone, with all it leads to settled before the
 * next. Which moment comes when is drawn from the seed, so the seed is the schedule.
 */
import { createHash, type Hash } from 'node:crypto';

/** The instant at which every run begins, milliseconds since the epoch. */
export const EPOCH_MS = Date.UTC(2026, 0, 5, 12);

/** A call of the hash costs more than what it hashes: lines are handed over together. */
const HASHED_CHARS = 64 * 1024;

interface Moment {
  readonly at: number;
  readonly seq: number;
  run: (() => void) | undefined;
}

export interface Timer {
  cancel(): void;
}

export class World {
  /** Milliseconds since the run began. */
  time = 0;
  /** Moments run so far. */
  steps = 0;
  private seq = 0;
  private readonly heap: Moment[] = [];
  private readonly hash: Hash = createHash('sha256');
  private readonly lines: string[] | undefined;
  private unhashed = '';
  private settled = false;

  /** `keepLines`: the trace is kept as text too, for a person to read. */
  constructor(keepLines = false) {
    this.lines = keepLines ? [] : undefined;
  }

  /** Milliseconds since the epoch. */
  now(): number {
    return EPOCH_MS + this.time;
  }

  after(ms: number, run: () => void): Timer {
    this.seq += 1;
    const moment: Moment = { at: this.time + Math.max(0, ms), seq: this.seq, run };
    push(this.heap, moment);
    return {
      cancel: () => {
        moment.run = undefined;
      },
    };
  }

  /** Said by whoever settles a promise: what waits for it runs before the next moment. */
  touched(): void {
    this.settled = true;
  }

  /** One line of the trace. */
  trace(line: string): void {
    const stamped = `${this.time.toFixed(3)} ${line}\n`;
    this.unhashed += stamped;
    if (this.unhashed.length > HASHED_CHARS) this.flush();
    this.lines?.push(stamped);
  }

  traceLines(): readonly string[] {
    return this.lines ?? [];
  }

  private flush(): void {
    this.hash.update(this.unhashed);
    this.unhashed = '';
  }

  traceHash(): string {
    this.flush();
    return this.hash.copy().digest('hex');
  }

  /** Runs moments until the time is reached, nothing is left, or `done` says so. */
  async run(untilMs: number, done: () => boolean = () => false): Promise<void> {
    for (;;) {
      const next = this.heap[0];
      if (next === undefined || next.at > untilMs) break;
      pop(this.heap);
      if (next.run === undefined) continue;
      this.time = Math.max(this.time, next.at);
      this.steps += 1;
      next.run();
      if (this.settled) {
        this.settled = false;
        await new Promise<void>((resolve) => setImmediate(resolve));
        if (done()) return;
      }
    }
    this.time = Math.max(this.time, untilMs);
  }
}

const isBefore = (a: Moment, b: Moment): boolean => a.at < b.at || (a.at === b.at && a.seq < b.seq);

function push(heap: Moment[], moment: Moment): void {
  let at = heap.length;
  heap.push(moment);
  while (at > 0) {
    const up = (at - 1) >> 1;
    if (!isBefore(moment, heap[up] as Moment)) break;
    heap[at] = heap[up] as Moment;
    at = up;
  }
  heap[at] = moment;
}

function pop(heap: Moment[]): void {
  const last = heap.pop() as Moment;
  if (heap.length === 0) return;
  let at = 0;
  for (;;) {
    let down = 2 * at + 1;
    if (down >= heap.length) break;
    if (down + 1 < heap.length && isBefore(heap[down + 1] as Moment, heap[down] as Moment)) down += 1;
    if (!isBefore(heap[down] as Moment, last)) break;
    heap[at] = heap[down] as Moment;
    at = down;
  }
  heap[at] = last;
}
