/** readChanges: one page of the feed, long poll included; a page too large for the read bound is asked for in halves. */
import type { Clock, FeedAnswer, Log, Metrics } from '@milkrun/core';
import { parseChanges } from './feed.ts';
import { type Http, pauseOf } from './http.ts';
import { parseRecords } from './json.ts';
import { feedPageSchema, printable } from './schemas.ts';
import { saysTooLarge } from './wire.ts';

export interface ChangesDeps {
  readonly http: Http;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  /** On top of the wait. */
  readonly timeoutMs: number;
  readonly bytesMax: number;
}

export interface ChangesInput {
  readonly after: string | null;
  readonly limit: number;
  readonly waitSeconds: number;
  readonly signal?: AbortSignal;
}

export function createReadChanges({ http, clock, metrics, log, timeoutMs, bytesMax }: ChangesDeps) {
  return async function readChanges(input: ChangesInput): Promise<FeedAnswer> {
    const { after, limit, waitSeconds, signal } = input;
    const query = new URLSearchParams({ limit: String(limit), wait: String(waitSeconds) });
    if (after !== null) query.set('after', after);
    const exchange = await http.exchange({
      method: 'GET',
      path: `/triggers/changes?${query}`,
      timeoutMs: timeoutMs + waitSeconds * 1000,
      bytesMax,
      signal,
    });
    const retryAfter = pauseOf(exchange, clock);
    const unavailable = (reason: string): FeedAnswer => ({
      kind: 'unavailable',
      reason,
      ...(retryAfter === undefined ? {} : { retryAfterSeconds: retryAfter }),
    });
    if (exchange.kind === 'unreachable') return unavailable(exchange.reason);
    const tooLarge =
      exchange.kind === 'over_bound' ||
      (exchange.status >= 300 && saysTooLarge(exchange.status, exchange.headers, exchange.body));
    if (tooLarge) {
      if (limit > 1) return readChanges({ ...input, limit: Math.floor(limit / 2) });
      log.error({}, 'control_plane.feed_record_too_large');
      return unavailable('a single record of the feed is larger than the read bound');
    }
    if (exchange.status === 410) return { kind: 'expired' };
    if (exchange.status < 200 || exchange.status >= 300) {
      if (exchange.status < 500 && exchange.status !== 429) {
        log.error({ status: exchange.status, answer: printable(exchange.body, 200) }, 'control_plane.feed_refused');
      }
      return unavailable(`status ${exchange.status}`);
    }
    const page = pageOf(exchange.body);
    if (page === undefined) return unavailable('the answer is not usable');
    const { changes, refused } = parseChanges(page.changes);
    if (refused.length > 0) {
      metrics.count('polling.feed.refused', refused.length);
      log.error({ refused: refused.length, first: refused[0] }, 'control_plane.feed_changes_refused');
    }
    return { kind: 'page', changes, next: page.next, more: page.more };
  };
}

function pageOf(body: string) {
  try {
    const parsed = feedPageSchema.safeParse(parseRecords(body));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}
