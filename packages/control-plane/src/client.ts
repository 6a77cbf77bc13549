/** createControlPlane: the port of core over HTTP. One pool, one breaker, one learned chunk size per origin. */
import { type Clock, type ControlPlane, type Log, type Metrics, noLog, noMetrics, type Rng } from '@milkrun/core';
import { createBreaker } from './breaker.ts';
import { createReadChanges } from './changes.ts';
import { ChunkSize, chunkSizeOf } from './chunk-sizes.ts';
import { createFetchConnections } from './connections.ts';
import { baseUrlOf, createHttp, createPooledWire, type Wire } from './http.ts';
import { createPostState } from './state.ts';

export interface ControlPlaneTimeouts {
  /** TCP and TLS; default 5,000 ms. */
  readonly connectMs?: number;
  /** One `/conn/batch` call; default 15,000 ms. */
  readonly connectionsMs?: number;
  /** All calls, retries and pauses of one fetchConnections; default 50,000 ms (the step has 60 s). */
  readonly connectionsBudgetMs?: number;
  /** One `/state` call; default 20,000 ms. */
  readonly stateMs?: number;
  /** One feed call on top of its wait; default 10,000 ms. */
  readonly changesMs?: number;
}

export interface ControlPlaneOptions {
  /** Base URL, http or https, may have a path. */
  readonly url: string;
  /** Sent as `Authorization: Bearer`. */
  readonly key: string;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly metrics?: Metrics;
  readonly log?: Log;
  readonly timeouts?: ControlPlaneTimeouts;
  /** Bytes read of one answer at the most; default 16 MiB. */
  readonly answerBytesMax?: number;
  /** What carries the requests; a pool of connections by default. The learned chunk size is then this client's own. */
  readonly wire?: Wire;
}

const ANSWER_BYTES_MAX = 16 * 1024 * 1024;
const CONNECTIONS = 32;
const BREAKER = { failuresMax: 5, pauseMs: 2_000, pauseMsMax: 60_000 };

/** Opens the client; nothing is called yet. Throws TypeError for an unusable URL. */
export function createControlPlane(options: ControlPlaneOptions): ControlPlane {
  const { url, key, clock, rng, metrics = noMetrics, log = noLog, timeouts = {} } = options;
  const bytesMax = options.answerBytesMax ?? ANSWER_BYTES_MAX;
  const breaker = createBreaker(clock, BREAKER, (open) => {
    metrics.gauge('polling.breaker.open', open ? 1 : 0, { dependency: 'control_plane' });
    log.warn({ open }, 'control_plane.breaker_changed');
  });
  const connectTimeoutMs = timeouts.connectMs ?? 5_000;
  const { origin } = baseUrlOf(url);
  const wire = options.wire ?? createPooledWire(origin, CONNECTIONS, connectTimeoutMs);
  const http = createHttp({ url, key, breaker, wire });
  const shared = { http, clock, metrics, log, bytesMax };
  return {
    fetchConnections: createFetchConnections({
      ...shared,
      rng,
      size: options.wire === undefined ? chunkSizeOf(origin) : new ChunkSize(),
      timeoutMs: timeouts.connectionsMs ?? 15_000,
      budgetMs: timeouts.connectionsBudgetMs ?? 50_000,
    }),
    postState: createPostState({ ...shared, timeoutMs: timeouts.stateMs ?? 20_000 }),
    readChanges: createReadChanges({ ...shared, timeoutMs: timeouts.changesMs ?? 10_000 }),
    available: () => breaker.closed(),
    close: () => http.close(),
  };
}
