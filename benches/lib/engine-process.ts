/**
 * One engine worker in a process of its own, configured by its environment like `milkrun worker`. Over IPC: says `ready`,
 * answers `figures` (and `figures, reset`, which starts the event-loop delay anew), drains on `stop`.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { loadConfig } from '@milkrun/config';
import { createLog, createMetrics, totalOf } from '@milkrun/telemetry';
import { startWorker } from '@milkrun/worker';

/** Counts since the process started; the delay since the last reset. */
export interface EngineFigures {
  readonly polls: number;
  readonly committed: number;
  readonly fenced: number;
  readonly events: number;
  readonly delivered: number;
  readonly deduplicated: number;
  readonly loopDelayP99Ms: number;
  readonly loopDelayMaxMs: number;
  readonly rssMb: number;
}

export type EngineRequest = { readonly ask: 'figures'; readonly reset?: boolean } | { readonly ask: 'stop' };
export type EngineReply =
  | { readonly reply: 'ready' }
  | { readonly reply: 'figures'; readonly figures: EngineFigures }
  | { readonly reply: 'stopped' };

const config = loadConfig({ env: process.env, process: 'worker' });
const log = createLog({ level: config.logLevel, pretty: false, base: { process: 'worker' } });
const metrics = createMetrics({ prometheus: false });
/** The histogram holds the time between two of its timers: the interval itself is no delay. */
const EVERY_MS = 5;
const delay = monitorEventLoopDelay({ resolution: EVERY_MS });
delay.enable();
const worker = await startWorker({ config, log, metrics, migrate: true });

function figures(): EngineFigures {
  const snapshot = metrics.snapshot();
  return {
    polls: totalOf(snapshot, 'polling.poll.polls'),
    committed: totalOf(snapshot, 'polling.commit.rows', { outcome: 'committed' }),
    fenced: totalOf(snapshot, 'polling.commit.rows', { outcome: 'fenced' }),
    events: totalOf(snapshot, 'polling.poll.events_found'),
    delivered: totalOf(snapshot, 'polling.broadcast.events_delivered'),
    deduplicated: totalOf(snapshot, 'polling.poll.events_deduplicated'),
    loopDelayP99Ms: delay.percentile(99) / 1e6 - EVERY_MS,
    loopDelayMaxMs: delay.max / 1e6 - EVERY_MS,
    rssMb: process.memoryUsage.rss() / 2 ** 20,
  };
}

function say(reply: EngineReply): void {
  process.send?.(reply);
}

async function stop(): Promise<void> {
  await worker.stop();
  await metrics.close();
  say({ reply: 'stopped' });
  process.disconnect();
}

process.on('message', (message: EngineRequest) => {
  if (message.ask === 'stop') {
    void stop();
    return;
  }
  say({ reply: 'figures', figures: figures() });
  if (message.reset === true) delay.reset();
});
// Whoever started it is gone: nobody would read the figures.
process.on('disconnect', () => process.exit());
say({ reply: 'ready' });
