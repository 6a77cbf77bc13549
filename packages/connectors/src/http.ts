/**
 * HTTP for connectors: GET and POST under the address guard, with bounded answers, and with every failure already
 * classified as the poll contract wants it.
 */
import { createBrotliDecompress, createGunzip } from 'node:zlib';
import type { Clock } from '@milkrun/core';
import { Agent, type Dispatcher, interceptors, request } from 'undici';
import { AddressRefused, createAddressGuard } from './address-guard.ts';
import type { Settings } from './connector.ts';
import { PollError } from './errors.ts';

const MIB = 1024 * 1024;
const REDIRECTS_MAX = 3;

export interface HttpRequest {
  readonly url: string;
  readonly method?: 'GET' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Bytes after decompression. Default 8 MiB. */
  readonly answerBytesMax?: number;
  readonly signal: AbortSignal;
  /** Statuses other than 2xx that are no failure, such as 304. */
  readonly alsoFine?: readonly number[];
}

export interface HttpAnswer {
  readonly status: number;
  /** The first value of a header, by its lower-case name. */
  header(name: string): string | undefined;
  readonly body: Buffer;
  /** Throws PollError `connector` when the body is not JSON. */
  json(): unknown;
}

export interface Http {
  /**
   * Throws PollError: 401 and 403 `auth`, 404, 410 and an address that may not be called `permanent`, 429 (and 503 with
   * Retry-After) `rate_limited`, other 4xx `permanent`, the rest and every broken connection `transient`, an answer
   * above the bound `connector`.
   */
  send(request: HttpRequest): Promise<HttpAnswer>;
}

/** `OUTBOUND_ALLOW`: hosts, addresses and CIDR ranges beside the public ones, separated by commas. */
export function createHttp({ settings, clock }: { readonly settings: Settings; readonly clock: Clock }): Http {
  const dispatcher = guardedDispatcher([...listIn(settings.OUTBOUND_ALLOW), ...hostIn(settings.NPM_REGISTRY)]);
  return {
    async send(input) {
      let response: Dispatcher.ResponseData;
      try {
        response = await request(httpUrl(input.url), {
          dispatcher,
          method: input.method ?? 'GET',
          headers: { 'accept-encoding': 'gzip, br', 'user-agent': 'milkrun', ...input.headers },
          body: input.body ?? null,
          signal: input.signal,
        });
        const body = await readBounded(response, input.answerBytesMax ?? 8 * MIB);
        return checked(response, body, input, clock);
      } catch (error) {
        throw input.signal.aborted || error instanceof PollError ? error : transportError(error);
      }
    },
  };
}

/** A dispatcher that connects to allowed addresses only, over redirects too. */
export function guardedDispatcher(allow: readonly string[]): Dispatcher {
  const guard = createAddressGuard(allow);
  const agent = new Agent({
    allowH2: false,
    keepAliveTimeout: 30_000,
    connections: 64,
    connect: { timeout: 5_000, lookup: guard.lookup },
  });
  const checkHost: Dispatcher.DispatcherComposeInterceptor = (dispatch) => (options, handler) => {
    const { protocol, hostname } = new URL(String(options.origin));
    if (protocol !== 'http:' && protocol !== 'https:') throw new AddressRefused(`${protocol} may not be called`);
    guard.assertHost(hostname);
    return dispatch(options, handler);
  };
  // The redirect stands outside the guard, so each hop passes through it. A secret may travel in any header: none but
  // harmless ones follow to another origin.
  const redirect: Dispatcher.DispatcherComposeInterceptor = (dispatch) => (options, handler) => {
    const names = Object.keys((options.headers ?? {}) as Record<string, string>);
    const secret = names.filter((name) => !/^(accept|accept-encoding|user-agent|if-none-match)$/i.test(name));
    return interceptors.redirect({
      maxRedirections: REDIRECTS_MAX,
      throwOnMaxRedirect: true,
      stripHeadersOnCrossOriginRedirect: secret,
    })(dispatch)(options, handler);
  };
  return agent.compose(checkHost, redirect);
}

async function readBounded(response: Dispatcher.ResponseData, bytesMax: number): Promise<Buffer> {
  const encoding = headerOf(response, 'content-encoding')?.trim().toLowerCase() ?? 'identity';
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of decoded(response.body, encoding)) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw new PollError('connector', `the provider's answer exceeds ${bytesMax} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    // Whatever was left unread must not be read for the sake of the connection.
    response.body.destroy();
    throw error;
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, bytes);
}

function decoded(body: Dispatcher.ResponseData['body'], encoding: string): AsyncIterable<Buffer> {
  if (encoding === 'identity' || encoding === '') return body;
  if (encoding !== 'gzip' && encoding !== 'x-gzip' && encoding !== 'br') {
    throw new PollError('connector', `the provider answered in the unknown encoding "${encoding.slice(0, 40)}"`);
  }
  const decoder = encoding === 'br' ? createBrotliDecompress() : createGunzip();
  body.on('error', (error) => decoder.destroy(error));
  return body.pipe(decoder);
}

function checked(response: Dispatcher.ResponseData, body: Buffer, input: HttpRequest, clock: Clock): HttpAnswer {
  const { statusCode: status } = response;
  const header = (name: string): string | undefined => headerOf(response, name);
  const isFine = (status >= 200 && status < 300) || input.alsoFine?.includes(status) === true;
  if (!isFine) throw statusError(status, header, clock);
  return {
    status,
    header,
    body,
    json() {
      try {
        return JSON.parse(body.toString()) as unknown;
      } catch (cause) {
        throw new PollError('connector', 'the provider answered what is not JSON', { cause });
      }
    },
  };
}

function statusError(status: number, header: (name: string) => string | undefined, clock: Clock): PollError {
  const message = `the provider answered ${status}`;
  const retryAfter = secondsIn(header('retry-after'), header('date'), clock);
  if (status === 429 || (status === 503 && retryAfter !== undefined)) {
    return new PollError('rate_limited', message, { retryAfter });
  }
  if (status === 401 || status === 403) return new PollError('auth', message);
  if (status === 408 || status === 425 || status >= 500 || status < 400) return new PollError('transient', message);
  return new PollError('permanent', message);
}

function transportError(error: unknown): PollError {
  const refused = [error, error instanceof Error ? error.cause : undefined].find((e) => e instanceof AddressRefused);
  if (refused instanceof AddressRefused) return new PollError('permanent', refused.message);
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'connection failed';
  return new PollError('transient', `the provider could not be reached: ${code}`, { cause: error });
}

/** Retry-After in seconds: a number, or a date less the answer's own `Date`. */
function secondsIn(value: string | undefined, date: string | undefined, clock: Clock): number | undefined {
  if (value === undefined) return undefined;
  if (/^\s*\d{1,10}\s*$/.test(value)) return Number(value);
  const until = Date.parse(value);
  const from = date === undefined ? clock.now() : Date.parse(date);
  return Number.isNaN(until - from) ? undefined : Math.max(0, Math.ceil((until - from) / 1000));
}

function headerOf(response: Dispatcher.ResponseData, name: string): string | undefined {
  const value = response.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

function httpUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) throw new PollError('permanent', 'not an http(s) URL');
  if (url.username !== '' || url.password !== '') throw new PollError('permanent', 'a URL must not hold credentials');
  return url;
}

const listIn = (text: string | undefined): string[] =>
  (text ?? '').split(',').flatMap((entry) => (entry.trim() === '' ? [] : [entry.trim()]));

/** The operator's own registry may stand inside the network. */
function hostIn(url: string | undefined): string[] {
  return url !== undefined && URL.canParse(url) ? [new URL(url).hostname.replace(/^\[|\]$/g, '')] : [];
}
