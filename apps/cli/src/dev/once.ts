/** `--once`: polls everything a single time, to the end, and says what came of it. */
import { setTimeout as delay } from 'node:timers/promises';
import type { HttpClient } from '../http-client.ts';
import { type Figures, openBatches, pollAll, readFigures } from './figures.ts';

export interface OnceSummary {
  readonly source: 'real' | 'synthetic';
  /** Events delivered, that is accepted by the control plane, in this run. */
  readonly events: number;
  /** Events the control plane has stored, of all runs. */
  readonly eventsStored: number;
  readonly polled: number;
  readonly primed: number;
  readonly duplicateIds: number;
  readonly leasesHeld: number;
  readonly undelivered: number;
  readonly halted: number;
  readonly seconds: number;
}

export interface OnceInput {
  readonly engine: HttpClient;
  readonly api: HttpClient;
  readonly source: OnceSummary['source'];
  /** Aborts between two looks. */
  readonly signal: AbortSignal;
  readonly onFigures: (figures: Figures) => void;
  readonly everyMs?: number;
}

/** 0 leases, 0 undelivered, 0 double ids: what `--once` exits 0 for. */
export const isClean = (summary: OnceSummary): boolean =>
  summary.leasesHeld === 0 && summary.undelivered === 0 && summary.duplicateIds === 0 && summary.polled > 0;

/**
 * Reads the feed to its end, makes every polled trigger due, and waits until each was polled or has a verdict and no batch
 * is open. Throws the reason of `signal` when it is aborted.
 */
export async function runOnce(input: OnceInput): Promise<OnceSummary> {
  const { engine, api, source, signal, onFigures, everyMs = 250 } = input;
  const startedAt = performance.now();
  const until = async (since: string | undefined, done: (figures: Figures) => boolean): Promise<Figures> => {
    for (;;) {
      const figures = await readFigures(engine, since);
      onFigures(figures);
      if (done(figures)) return figures;
      await delay(everyMs, undefined, { signal });
    }
  };
  await until(undefined, ({ feedAtEnd }) => feedAtEnd);
  const { since, triggers } = await pollAll(engine);
  const end = await until(since, (figures) => figures.pending === 0 && openBatches(figures) === 0);
  const ids = (await api.list('/events')).map(({ id }) => id);
  return {
    source,
    events: end.eventsDelivered,
    eventsStored: ids.length,
    polled: triggers - (end.pending ?? 0),
    primed: end.primed,
    duplicateIds: ids.length - new Set(ids).size,
    leasesHeld: end.leasesHeld,
    undelivered: end.undelivered,
    halted: Object.values(end.halted).reduce((sum, n) => sum + n, 0),
    seconds: Number(((performance.now() - startedAt) / 1000).toFixed(1)),
  };
}
