/** One HTTP exchange with the control plane: pooled per origin, bounded in bytes and time, never a redirect. */
import { type Clock, withoutSecrets } from '@milkrun/core';
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

/** One request on the wire. */
export interface WireRequest {
  readonly method: 'GET' | 'POST';
  /** Path from the origin, with its query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
  /** Milliseconds for the head of the answer, and between two parts of its body. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What carries requests to the control plane: undici in production, the model of a control plane in the simulation. */
export interface Wire {
  /** Rejects with a network error, or with the signal's reason. */
  request(request: WireRequest): Promise<{
    readonly statusCode: number;
    readonly headers: HeaderValues;
    readonly body: AsyncIterable<Uint8Array> & { destroy(): unknown };
  }>;
  /** Aborts after so many milliseconds. */
  timeout(ms: number): AbortSignal;
  close(): Promise<void>;
}

export interface HttpOptions {
  readonly url: string;
  readonly key: string;
  readonly breaker: Breaker;
  readonly wire: Wire;
}

/** The wire of production: pooled per origin. */
export function createPooledWire(origin: string, connections: number, connectTimeoutMs: number): Wire {
  const pool = new Pool(origin, {
    connections,
    pipelining: 1,
    keepAliveTimeout: 60_000,
    connect: { timeout: connectTimeoutMs },
  });
  return {
    request: ({ timeoutMs, ...request }) =>
      pool.request({ ...request, headersTimeout: timeoutMs, bodyTimeout: timeoutMs }),
    timeout: (ms) => AbortSignal.timeout(ms),
    close: () => pool.destroy(),
  };
}

const decoder = new TextDecoder('utf-8', { fatal: true });

/** The base URL. Throws TypeError for one that is not http(s) or carries credentials. */
export function baseUrlOf(url: string): URL {
  const base = new URL(url);
  if (!['http:', 'https:'].includes(base.protocol) || base.username !== '' || base.password !== '') {
    throw new TypeError('the control plane URL must be http or https and carry no credentials');
  }
  return base;
}

export function createHttp({ url, key, breaker, wire }: HttpOptions): Http {
  const prefix = baseUrlOf(url).pathname.replace(/\/+$/, '');

  return {
    async exchange(request) {
      request.signal?.throwIfAborted();
      const wait = breaker.admit();
      if (wait > 0) return { kind: 'unreachable', reason: 'circuit breaker open', retryAfterSeconds: wait / 1000 };
      const timeout = wire.timeout(request.timeoutMs);
      const signal = request.signal === undefined ? timeout : AbortSignal.any([request.signal, timeout]);
      try {
        const answer = await wire.request({
          method: request.method,
          path: prefix + request.path,
          headers: {
            authorization: `Bearer ${key}`,
            accept: 'application/json',
            ...(request.body === undefined ? {} : { 'content-type': 'application/json' }),
            ...request.headers,
          },
          body: request.body ?? null,
          timeoutMs: request.timeoutMs,
          signal,
        });
        const body = await readBounded(answer.body, request.bytesMax);
        // A platform that calls an answer too large with status 500 is alive: halving is the cure, not a pause.
        const tooLarge = body === undefined || saysTooLarge(answer.statusCode, answer.headers, body);
        if (answer.statusCode >= 500 && !tooLarge) breaker.failed();
        else breaker.succeeded();
        if (body === undefined) return { kind: 'over_bound', status: answer.statusCode };
        // Whoever refuses a key may say which: what was refused is logged and kept.
        const told = answer.statusCode < 300 ? body : withoutSecrets(body, [key]);
        return { kind: 'answer', status: answer.statusCode, headers: answer.headers, body: told };
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
    close: () => wire.close(),
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
