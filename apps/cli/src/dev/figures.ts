/** What the engine says of itself, `GET /fleet` of its operations API: for live progress and for the end of `--once`. */
import { z } from 'zod';
import { CommandFailed } from '../exit-codes.ts';
import type { HttpClient } from '../http-client.ts';

const count = z.int().nonnegative();

const figures = z.object({
  /** RFC 3339, the database's time. */
  now: z.string(),
  /** True when the feed has been read to its end and nothing is being applied. */
  feedAtEnd: z.boolean(),
  /** Triggers that are enabled, not halted and owned by this pipeline. */
  triggers: count,
  due: count,
  oldestDueSeconds: z.number().nonnegative(),
  leasesHeld: count,
  /** Triggers halted, by code. */
  halted: z.record(z.string(), count),
  /** Open batches by step, `planned` among them. */
  batches: z.record(z.string(), count),
  /** Since the process started. */
  polls: count,
  dueLagP99Seconds: z.number().nonnegative().nullable(),
  eventsFound: count,
  eventsDelivered: count,
  primed: count,
  /** Events parked, held or in dead letters now. */
  undelivered: count,
  /** After `POST /poll-all`: of the triggers it made due, those neither polled nor given a verdict since. */
  pending: count.nullable(),
});

export type Figures = z.output<typeof figures>;

export async function readFigures(engine: HttpClient, since?: string): Promise<Figures> {
  const parsed = figures.safeParse(await engine.get('/fleet', { since }));
  if (parsed.success) return parsed.data;
  throw new CommandFailed(`the engine answered GET /fleet with something else: ${z.prettifyError(parsed.error)}`);
}

/** Makes every polled trigger due now; answers the time from which `readFigures` counts what is pending. */
export async function pollAll(engine: HttpClient): Promise<{ since: string; triggers: number }> {
  const parsed = z.object({ since: z.string(), triggers: count }).safeParse(await engine.send('POST', '/poll-all', {}));
  if (parsed.success) return parsed.data;
  throw new CommandFailed('the engine answered POST /poll-all without since and triggers');
}

export const openBatches = ({ batches }: Figures): number =>
  Object.values(batches).reduce((sum, open) => sum + open, 0);
