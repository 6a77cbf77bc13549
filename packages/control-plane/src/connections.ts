/**
 * fetchConnections: one ask per (tenant, connection), in chunks by toolkit, 8 calls at once.
 *
 * In: asks. Out: one answer per ask, in any order; what could not be had is an answer too, with its code. Throws only
 * the caller's own abort reason. Halves on too large, retries transient failures within one budget, obeys Retry-After.
 */
import type { Clock, ConnectionAnswer, ConnectionAsk, Log, Metrics, Rng } from '@milkrun/core';
import type { ChunkSize } from './chunk-sizes.ts';
import { type Exchange, type Http, pauseOf } from './http.ts';
import { parseRecords } from './json.ts';
import { failed, keyOf, type Matched, matchAnswers } from './match.ts';
import { connectionEnvelopeSchema, printable } from './schemas.ts';
import { answeredAt, connectionsBody, saysTooLarge } from './wire.ts';

const LANES = 8;
const ATTEMPTS = 3;
const BACKOFF_MS = 250;
const PAUSE_WITHOUT_HEADER_S = 1;

export interface ConnectionsDeps {
  readonly http: Http;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly size: ChunkSize;
  readonly timeoutMs: number;
  /** Milliseconds all calls and pauses of one fetch may take together. */
  readonly budgetMs: number;
  readonly bytesMax: number;
}

/** Pieces cut from one chunk; when all are done, the largest that went through is proved. */
interface Family {
  open: number;
  provedCount: number;
}

interface Piece {
  readonly asks: readonly ConnectionAsk[];
  readonly family: Family;
}

type Options = { readonly signal?: AbortSignal; readonly onAnswers?: (answers: readonly ConnectionAnswer[]) => void };
type CallResult = { readonly kind: 'matched'; readonly matched: Matched } | { readonly kind: 'too_large' } | Gave;
type Gave = { readonly kind: 'gave_up'; readonly reason: string; readonly retryAfterSeconds?: number };

export function createFetchConnections(deps: ConnectionsDeps) {
  const { http, clock, rng, metrics, log, size } = deps;
  /** Monotonic milliseconds until which the endpoint asked this process to stay away. */
  let pausedUntil = 0;

  return async function fetchConnections(
    asks: readonly ConnectionAsk[],
    options: Options = {},
  ): Promise<readonly ConnectionAnswer[]> {
    const deadline = clock.monotonic() + deps.budgetMs;
    const queue = [...Map.groupBy(merge(asks), ({ toolkit }) => toolkit).values()];
    const cut: Piece[] = [];
    const all: ConnectionAnswer[] = [];

    /** The next call's asks: what was cut smaller first, then a fresh chunk of one toolkit. */
    const next = (): Piece | undefined => {
      const piece = cut.pop();
      if (piece !== undefined) return trim(piece);
      const toolkit = queue[0];
      if (toolkit === undefined) return undefined;
      const taken = toolkit.splice(0, size.current);
      if (toolkit.length === 0) queue.shift();
      return { asks: taken, family: { open: taken.length, provedCount: 0 } };
    };
    const trim = (piece: Piece): Piece => {
      if (piece.asks.length <= size.current) return piece;
      cut.push({ asks: piece.asks.slice(size.current), family: piece.family });
      return { asks: piece.asks.slice(0, size.current), family: piece.family };
    };
    const finish = ({ asks: done, family }: Piece, answers: readonly ConnectionAnswer[], fits: boolean): void => {
      if (fits) {
        size.good();
        family.provedCount = Math.max(family.provedCount, done.length);
      }
      family.open -= done.length;
      if (family.open === 0) size.proved(family.provedCount);
      count(done, answers);
      all.push(...answers);
      options.onAnswers?.(answers);
    };
    const run = async (piece: Piece): Promise<void> => {
      const result = await call(piece.asks, deadline, options.signal);
      if (result.kind === 'matched') return finish(piece, result.matched.answers, true);
      if (result.kind === 'gave_up') {
        const { reason, retryAfterSeconds } = result;
        const answers = piece.asks.map((ask) => failed(ask, 'auth.unavailable', reason, retryAfterSeconds));
        return finish(piece, answers, false);
      }
      if (piece.asks.length === 1) {
        const reason = 'too large even when asked for alone';
        const answers = piece.asks.map((ask) => failed(ask, 'auth.payload_too_large', reason));
        return finish(piece, answers, false);
      }
      metrics.count('polling.auth.halvings');
      size.tooLarge(piece.asks.length);
      const half = Math.ceil(piece.asks.length / 2);
      cut.push({ asks: piece.asks.slice(half), family: piece.family });
      cut.push({ asks: piece.asks.slice(0, half), family: piece.family });
    };
    await inLanes(next, run);
    return all;
  };

  /** One chunk with its retries: this layer is the only one that retries. */
  async function call(asks: readonly ConnectionAsk[], deadline: number, signal?: AbortSignal): Promise<CallResult> {
    const body = connectionsBody(asks);
    let last: Gave = { kind: 'gave_up', reason: 'the budget of the call is used up' };
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const wait = Math.max(0, pausedUntil - clock.monotonic());
      if (wait > deadline - clock.monotonic()) {
        return { kind: 'gave_up', reason: 'asked to stay away', retryAfterSeconds: wait / 1000 };
      }
      if (wait > 0) await clock.sleep(wait, signal);
      const timeoutMs = Math.min(deps.timeoutMs, Math.floor(deadline - clock.monotonic()));
      if (timeoutMs <= 0) return last;
      const started = clock.monotonic();
      const exchange = await http.exchange({
        method: 'POST',
        path: '/conn/batch',
        body,
        timeoutMs,
        bytesMax: deps.bytesMax,
        signal,
      });
      metrics.observe('polling.auth.duration', (clock.monotonic() - started) / 1000);
      const result = judge(exchange, asks);
      if ('final' in result) return result.final;
      last = result.again;
      const pause = backOffMs(attempt, last.retryAfterSeconds);
      if (attempt === ATTEMPTS || pause > deadline - clock.monotonic()) return last;
      await clock.sleep(pause, signal);
    }
    return last;
  }

  function judge(exchange: Exchange, asks: readonly ConnectionAsk[]): { final: CallResult } | { again: Gave } {
    const retryAfter = pauseOf(exchange, clock);
    const gaveUp = (reason: string): Gave => ({
      kind: 'gave_up',
      reason,
      ...(retryAfter === undefined ? {} : { retryAfterSeconds: retryAfter }),
    });
    if (exchange.kind === 'over_bound') return { final: { kind: 'too_large' } };
    if (exchange.kind === 'unreachable') return { again: gaveUp(exchange.reason) };
    const { status, headers, body } = exchange;
    if (status >= 200 && status < 300) {
      const records = envelopeOf(body);
      if (records !== undefined)
        return {
          final: { kind: 'matched', matched: report(matchAnswers(asks, records, answeredAt(headers, clock.now()))) },
        };
      if (saysTooLarge(status, headers, body)) return { final: { kind: 'too_large' } };
      return { again: gaveUp('the answer is not usable') };
    }
    if (saysTooLarge(status, headers, body)) return { final: { kind: 'too_large' } };
    if (status === 429) {
      const seconds = retryAfter ?? PAUSE_WITHOUT_HEADER_S;
      pausedUntil = Math.max(pausedUntil, clock.monotonic() + seconds * 1000);
      return { again: { kind: 'gave_up', reason: 'asked to stay away', retryAfterSeconds: seconds } };
    }
    if (status >= 500 || status === 408) return { again: gaveUp(`status ${status}`) };
    log.error({ status, connections: asks.length, answer: printable(body, 200) }, 'control_plane.conn_batch_refused');
    return { final: gaveUp(`refused with status ${status}`) };
  }

  /** Connections by status, and triggers that go without auth by reason. */
  function count(asks: readonly ConnectionAsk[], answers: readonly ConnectionAnswer[]): void {
    const triggers = new Map(asks.map((ask) => [keyOf(ask), ask.triggerIds.length]));
    for (const answer of answers) {
      const status = answer.code === 'ok' ? 'active' : answer.code.slice('auth.'.length);
      metrics.count('polling.auth.connections', 1, { status });
      if (answer.code !== 'ok') {
        metrics.count('polling.trigger.fetch_auth_error', triggers.get(keyOf(answer)) ?? 0, { reason: status });
      }
    }
  }

  function report(matched: Matched): Matched {
    if (matched.foreign > 0) {
      log.error({ answers: matched.foreign }, 'control_plane.foreign_tenant_answer');
      metrics.count('polling.auth.foreign_answers', matched.foreign);
    }
    if (matched.extra > 0) log.warn({ answers: matched.extra }, 'control_plane.extra_answers');
    return matched;
  }

  /** Full-jitter back-off, or the pause the answer named when that is longer. */
  function backOffMs(attempt: number, seconds = 0): number {
    return Math.max(rng.next() * BACKOFF_MS * 2 ** attempt, seconds * 1000);
  }
}

/** One ask per (tenant, connection), with the triggers of all asks for it. */
function merge(asks: readonly ConnectionAsk[]): ConnectionAsk[] {
  const groups = Map.groupBy(asks, keyOf);
  return [...groups.values()].map((group) => {
    const first = group[0] as ConnectionAsk;
    return group.length === 1 ? first : { ...first, triggerIds: [...new Set(group.flatMap((ask) => ask.triggerIds))] };
  });
}

function envelopeOf(body: string): readonly unknown[] | undefined {
  try {
    const parsed = connectionEnvelopeSchema.safeParse(parseRecords(body));
    return parsed.success ? parsed.data.connections : undefined;
  } catch {
    return undefined;
  }
}

/** Runs what `next` hands out, `LANES` at a time, until nothing is left; work may hand out more. First failure ends it. */
function inLanes<T>(next: () => T | undefined, run: (item: T) => Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    let active = 0;
    const pump = (): void => {
      while (active < LANES) {
        const item = next();
        if (item === undefined) break;
        active += 1;
        run(item).then(() => {
          active -= 1;
          pump();
        }, reject);
      }
      if (active === 0) resolve();
    };
    pump();
  });
}
