/** Live progress: one line redrawn in place on a terminal, a plain line every ten seconds elsewhere. */
import type { Io } from '../io.ts';
import type { Figures } from './figures.ts';
import { openBatches } from './figures.ts';

export interface Live {
  /** `waiting`: tasks that wait for a person, where they are known. */
  show(figures: Figures, atMs: number, waiting?: number): void;
  /** On a terminal, says what is being waited for, until something else is shown. */
  note(text: string): void;
  /** Prints a lasting line above the redrawn one. */
  say(line: string): void;
  /** Leaves the terminal on a fresh line. */
  end(): void;
}

/** Of the tasks that wait no more are counted. */
export const TASKS_LOOKED_AT = 500;
const PLAIN_EVERY_MS = 10_000;
const STEPS = ['planned', 'claim', 'auth', 'poll', 'broadcast', 'commit'];

export function createLive(io: Io): Live {
  let drawn = false;
  let last: { polls: number; atMs: number } | undefined;
  let plainAt = Number.NEGATIVE_INFINITY;
  const clear = (): void => {
    if (drawn) io.err('\r\u001b[K');
    drawn = false;
  };
  return {
    show(figures, atMs, waiting) {
      const rate = last === undefined ? 0 : Math.max(0, ((figures.polls - last.polls) * 1000) / (atMs - last.atMs));
      if (io.isTty) {
        clear();
        io.err(liveLine(figures, rate, waiting));
        drawn = true;
        last = { polls: figures.polls, atMs };
      } else if (atMs - plainAt >= PLAIN_EVERY_MS) {
        io.err(`${liveLine(figures, rate, waiting)}\n`);
        plainAt = atMs;
        last = { polls: figures.polls, atMs };
      }
    },
    note(text) {
      if (!io.isTty) return;
      clear();
      io.err(text);
      drawn = true;
    },
    say(line) {
      clear();
      io.err(`${line}\n`);
    },
    end() {
      if (drawn) io.err('\n');
      drawn = false;
    },
  };
}

/** `12 triggers · 3.0 polls/s · due lag p99 0.4 s · 41 events · 40 tasks wait · batches poll 1 · 2 halted`. */
export function liveLine(figures: Figures, pollsPerSecond: number, waiting?: number): string {
  const steps = STEPS.filter((step) => (figures.batches[step] ?? 0) > 0).map(
    (step) => `${step} ${figures.batches[step]}`,
  );
  const halted = Object.values(figures.halted).reduce((sum, n) => sum + n, 0);
  return [
    `${figures.triggers} triggers`,
    `${pollsPerSecond.toFixed(1)} polls/s`,
    `due lag p99 ${figures.dueLagP99Seconds === null ? '-' : `${figures.dueLagP99Seconds.toFixed(1)} s`}`,
    `${figures.due} due`,
    `${figures.eventsDelivered} events`,
    ...(waiting === undefined ? [] : [`${waiting === TASKS_LOOKED_AT ? 'over ' : ''}${waiting} tasks wait`]),
    openBatches(figures) === 0 ? 'no batch' : `batches ${steps.join(' ')}`,
    ...(halted > 0 ? [`${halted} halted`] : []),
    ...(figures.undelivered > 0 ? [`${figures.undelivered} undelivered`] : []),
  ].join(' · ');
}
