/** One HTTP exchange with the control plane: pooled per origin, bounded in bytes and time, never a redirect. */
import type { Clock } from '@milkrun/core';
import { Pool } from 'undici';
import type { Breaker } from './breaker.ts';
import { printable } from './schemas.ts';
import { type HeaderValues, retryAfterSeconds, saysTooLarge } from './wire.ts';

/** What an exchange came to; exactly one of these, never an exception (but for the caller's own abort). */
export type Exchange =
  | { readonly kind: 'answer'; readonly status: number; readonly headers: HeaderValues; readonly body: string }
  /** The answer was longer than the bound; what it said is unknown. */
  | { readonly kind: 'over_bound'; readonly status: number }
  /** Time-out, reset, refused, DNS, or an open breaker. */
  | { readonly kind: 'unreachable'; readonly reason: string; readonly retryAfterSeconds?: number };

interface ExchangeRequest {
  readonly method: 'GET' | 'POST';
  /** Path below the base URL, with its query. */
  readonly path: string;
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly bytesMax: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Http {
  exchange(request: ExchangeRequest): Promise<Exchange>;
  close(): Promise<void>;
}

export interface HttpOptions {
  readonly url: string;
  readonly key: string;
  readonly breaker: Breaker;
  readonly connectTimeoutMs: number;
  readonly connections: number;
}

const decoder = new TextDecoder('utf-8', { fatal: true });

/** Opens a pool to the base URL's origin. Throws TypeError for a URL that is not http(s) or carries credentials. */
export function createHttp({ url, key, breaker, connectTimeoutMs, connections }: HttpOptions): Http {
  const base = new URL(url);
  if (!['http:', 'https:'].includes(base.protocol) || base.username !== '' || base.password !== '') {
    throw new TypeError('the control plane URL must be http or https and carry no credentials');
  }
  const prefix = base.pathname.replace(/\/+$/, '');
  const pool = new Pool(base.origin, {
    connections,
    pipelining: 1,
    keepAliveTimeout: 60_000,
    connect: { timeout: connectTimeoutMs },
  });

  return {
    async exchange(request) {
      request.signal?.throwIfAborted();
      const wait = breaker.admit();
      if (wait > 0) return { kind: 'unreachable', reason: 'circuit breaker open', retryAfterSeconds: wait / 1000 };
      const timeout = AbortSignal.timeout(request.timeoutMs);
      const signal = request.signal === undefined ? timeout : AbortSignal.any([request.signal, timeout]);
      try {
        const answer = await pool.request({
          method: request.method,
          path: prefix + request.path,
          headers: {
            authorization: `Bearer ${key}`,
            accept: 'application/json',
            ...(request.body === undefined ? {} : { 'content-type': 'application/json' }),
            ...request.headers,
          },
          body: request.body ?? null,
          headersTimeout: request.timeoutMs,
          bodyTimeout: request.timeoutMs,
          signal,
        });
        const body = await readBounded(answer.body, request.bytesMax);
        // A platform that calls an answer too large with status 500 is alive: halving is the cure, not a pause.
        const tooLarge = body === undefined || saysTooLarge(answer.statusCode, answer.headers, body);
        if (answer.statusCode >= 500 && !tooLarge) breaker.failed();
        else breaker.succeeded();
        if (body === undefined) return { kind: 'over_bound', status: answer.statusCode };
        return { kind: 'answer', status: answer.statusCode, headers: answer.headers, body };
      } catch (error) {
        if (request.signal?.aborted === true) {
          breaker.cancelled();
          throw request.signal.reason;
        }
        breaker.failed();
        return {
          kind: 'unreachable',
          reason: timeout.aborted ? `no answer within ${request.timeoutMs} ms` : nameOf(error),
        };
      }
    },
    close: () => pool.destroy(),
  };

  /** The body as text, or undefined past the bound. Bytes that are no UTF-8 become an unusable text, not an exception. */
  async function readBounded(body: AsyncIterable<Uint8Array> & { destroy(): unknown }, bytesMax: number) {
    const parts: Uint8Array[] = [];
    let bytes = 0;
    for await (const part of body) {
      bytes += part.byteLength;
      if (bytes > bytesMax) return undefined;
      parts.push(part);
    }
    try {
      return decoder.decode(Buffer.concat(parts));
    } catch {
      return '';
    }
  }
}

/** A network error's code, such as ECONNRESET; never its message, which may hold the address. */
function nameOf(error: unknown): string {
  const { code, name } = error as { code?: unknown; name?: unknown };
  return printable(String(code ?? name ?? 'network error'), 64);
}

/** Seconds named by an answer with Retry-After. */
export function pauseOf(exchange: Exchange, clock: Clock): number | undefined {
  if (exchange.kind === 'answer') return retryAfterSeconds(exchange.headers, clock.now());
  return exchange.kind === 'unreachable' ? exchange.retryAfterSeconds : undefined;
}
