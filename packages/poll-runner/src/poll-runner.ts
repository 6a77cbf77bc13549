/**
 * PollRunner over AWS Lambda's Invoke API: signed by hand and sent by undici, one connection a slot.
 *
 * Promises: one call, one try (the step owns retries); an answer is bounded while it is read and paid for from the
 * process's byte budget before the call starts; every end has one named code; the platform's trouble is told from the
 * connector's before anybody counts it. Measured against bare undici and the AWS SDK by `npm run bench -- invoke`.
 */
import type { Clock, Log, Metrics, PollReply, PollRequest, PollRunner } from '@milkrun/core';
import { noLog, noMetrics, systemClock } from '@milkrun/core';
import { Pool } from 'undici';
import { createAbortHub } from './abort-hub.ts';
import { type BreakerOptions, createBreaker } from './breaker.ts';
import { type ByteBudget, createByteBudget } from './byte-budget.ts';
import { areCredentialsRefused, isPlatformFailure, replyOf } from './classify.ts';
import { type Credentials, type CredentialsProvider, createCredentialsCache } from './credentials.ts';
import { type ExchangeEnd, exchange } from './exchange.ts';
import { functionPathsOf } from './function-name.ts';
import { createSigner } from './signer.ts';

const MIB = 1024 * 1024;
/** Lambda's limits of a synchronous call. */
const REQUEST_BYTES_MAX = 6 * MIB;
const ANSWER_BYTES_LIMIT = 6 * MIB;
const KEEP_ALIVE_MS_MAX = 600_000;
const CONFIGURATION_DEADLINE_MS = 5_000;
/** Lambda refuses signatures more than five minutes off. */
const SKEW_MS_TOLERATED = 4 * 60_000;

export interface PollRunnerOptions {
  /** Name or ARN, with alias if wanted; may hold `{toolkit}`. */
  readonly functionName: string;
  readonly region: string;
  /** Origin of the Invoke API. Default: Lambda's own in the region. */
  readonly endpoint?: string;
  readonly credentials: CredentialsProvider;
  /** Connections, and so calls at once. Default 500. */
  readonly width?: number;
  /** Default 1 MiB, at most 6 MiB. */
  readonly answerBytesMax?: number;
  /** Bytes, or a budget shared with other runners of the process. Default 512 MiB. */
  readonly byteBudget?: number | ByteBudget;
  /** Milliseconds an idle connection is kept; well above the gap between batches. Default 120,000. */
  readonly keepAliveMs?: number;
  /** Milliseconds. Default 5,000. */
  readonly connectTimeoutMs?: number;
  readonly breaker?: BreakerOptions;
  readonly clock?: Clock;
  readonly metrics?: Metrics;
  readonly log?: Log;
}

export interface LambdaPollRunner extends PollRunner {
  /**
   * The function's own time-out in seconds, or null where it may not or cannot be read. Lambda does not stop when we
   * do: start-up refuses a time-out above the poll deadline + 5 s.
   */
  readFunctionTimeout(toolkit?: string): Promise<number | null>;
  /** Calls now on their way. */
  inFlight(): number;
}

/** How a call ended: an exchange's end, or why there was none. */
type CallEnd = ExchangeEnd | { readonly end: 'not_called'; readonly reply: PollReply };

/** Throws RangeError for settings that contradict each other. */
export function createPollRunner(options: PollRunnerOptions): LambdaPollRunner {
  const { region, width = 500, answerBytesMax = MIB } = options;
  const { clock = systemClock, metrics = noMetrics, log = noLog } = options;
  const { origin, host } = new URL(options.endpoint ?? lambdaEndpoint(region));
  const budget =
    typeof options.byteBudget === 'object' ? options.byteBudget : createByteBudget(options.byteBudget ?? 512 * MIB);
  assertSettings(width, answerBytesMax, budget.total);
  const paths = functionPathsOf(options.functionName);
  const signer = createSigner({ region, service: 'lambda', host });
  const credentials = createCredentialsCache(options.credentials, clock);
  const breaker = createBreaker(clock, options.breaker);
  const hub = createAbortHub();
  const pool = new Pool(origin, {
    connections: width,
    pipelining: 1,
    allowH2: false,
    keepAliveTimeout: options.keepAliveMs ?? 120_000,
    keepAliveMaxTimeout: KEEP_ALIVE_MS_MAX,
    connect: { timeout: options.connectTimeoutMs ?? 5_000 },
  });
  let inFlight = 0;
  let skewMs = 0;

  async function poll(request: PollRequest): Promise<PollReply> {
    const path = paths.invocations(request.toolkit);
    if (path === undefined) return { code: 'poll.permanent', message: 'the toolkit cannot be part of a function name' };
    if (request.body.length > REQUEST_BYTES_MAX) {
      return { code: 'poll.permanent', message: `the request is ${request.body.length} bytes, 6 MiB are allowed` };
    }
    const started = clock.monotonic();
    let admission = breaker.admit();
    while (typeof admission === 'object') {
      await admission;
      admission = breaker.admit();
    }
    if (admission === 'refuse') return unavailable('the platform is failing and gets a pause');
    const end = await call(request, path, started);
    record(end, admission === 'probe', started);
    const reply = replyToEnd(end, answerBytesMax);
    if (reply.code === 'poll.throttled') metrics.count('polling.poll.throttles');
    return reply;
  }

  async function call(request: PollRequest, path: string, started: number): Promise<CallEnd> {
    if (!budget.tryTake(answerBytesMax)) {
      const wait = await budget.take(answerBytesMax, request.deadlineMs, request.signal);
      if (wait === 'aborted') return { end: 'aborted' };
      if (wait === 'late') return { end: 'not_called', reply: unavailable('no place in the byte budget in time') };
    }
    inFlight += 1;
    try {
      let keys = credentials.get();
      if (keys instanceof Promise) keys = await keys;
      return await send('POST', path, request.body, keys, request.deadlineMs + started - clock.monotonic(), request);
    } catch (error) {
      log.error({ reason: error instanceof Error ? error.message : 'unknown' }, 'poll_function.credentials_failed');
      return { end: 'not_called', reply: unavailable('no credentials for the poll function') };
    } finally {
      inFlight -= 1;
      budget.giveBack(answerBytesMax);
    }
  }

  async function send(
    method: 'GET' | 'POST',
    path: string,
    body: string,
    keys: Credentials,
    deadlineMs: number,
    { signal }: Pick<PollRequest, 'signal'>,
  ): Promise<ExchangeEnd> {
    const headers = signer.sign({ method, path, body }, keys, clock.now() + skewMs);
    const end = await exchange(pool, hub, { method, path, headers, body, deadlineMs, answerBytesMax, signal });
    if (end.end === 'answer' && areCredentialsRefused(end.answer)) {
      credentials.refuse(keys);
      skewMs = skewOf(end.answer.headers.date, clock.now(), skewMs);
    }
    return end;
  }

  function record(end: CallEnd, wasProbe: boolean, started: number): void {
    const wasOpen = breaker.isOpen();
    if (end.end === 'answer') {
      if (isPlatformFailure(end.answer)) breaker.failed(wasProbe);
      else breaker.answered();
      metrics.observe('polling.poll.answer_bytes', end.answer.body.length);
    } else if (end.end === 'unreachable') breaker.failed(wasProbe);
    else breaker.undecided(wasProbe);
    metrics.observe('polling.poll.duration', (clock.monotonic() - started) / 1000);
    const isOpen = breaker.isOpen();
    if (isOpen !== wasOpen) {
      metrics.gauge('polling.breaker.open', isOpen ? 1 : 0, { dependency: 'poll_function' });
      log.warn({ open: isOpen }, 'poll_function.breaker');
    }
  }

  return {
    poll,
    available: () => breaker.available(),
    inFlight: () => inFlight,
    async readFunctionTimeout(toolkit = 'toolkit') {
      const path = paths.configuration(toolkit);
      if (path === undefined) return null;
      try {
        const end = await send('GET', path, '', await credentials.get(), CONFIGURATION_DEADLINE_MS, {});
        return end.end === 'answer' && end.answer.status === 200 ? timeoutIn(end.answer.body) : null;
      } catch {
        return null;
      }
    },
    close: () => pool.destroy(),
  };
}

function replyToEnd(end: CallEnd, answerBytesMax: number): PollReply {
  switch (end.end) {
    case 'answer':
      return replyOf(end.answer);
    case 'unreachable':
      return unavailable(end.message);
    case 'deadline':
      return { code: 'poll.timeout', message: 'no whole answer within the deadline' };
    case 'too_large':
      return { code: 'poll.too_large', message: `the answer exceeds ${answerBytesMax} bytes (${end.bytes} or more)` };
    case 'aborted':
      return { code: 'aborted' };
    case 'not_called':
      return end.reply;
  }
}

function unavailable(message: string): PollReply {
  return { code: 'poll.unavailable', message };
}

function lambdaEndpoint(region: string): string {
  return `https://lambda.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`;
}

function assertSettings(width: number, answerBytesMax: number, budgetBytes: number): void {
  if (!Number.isInteger(width) || width < 1) throw new RangeError(`the width must be a whole number, not ${width}`);
  if (!(answerBytesMax >= 1024 && answerBytesMax <= ANSWER_BYTES_LIMIT)) {
    throw new RangeError(`the answer limit must lie between 1 KiB and 6 MiB, not at ${answerBytesMax} bytes`);
  }
  if (budgetBytes < width * answerBytesMax) {
    throw new RangeError(
      `a byte budget of ${budgetBytes} is below width × answer limit = ${width * answerBytesMax}: lower the width or raise the budget`,
    );
  }
}

/** The server refused us: when our clock is minutes off its own, sign by its clock from now on. */
function skewOf(date: string | string[] | undefined, nowMs: number, known: number): number {
  const server = typeof date === 'string' ? Date.parse(date) : Number.NaN;
  if (Number.isNaN(server) || Math.abs(server - nowMs - known) < SKEW_MS_TOLERATED) return known;
  return server - nowMs;
}

function timeoutIn(body: Buffer): number | null {
  const { Timeout } = JSON.parse(body.toString()) as { Timeout?: unknown };
  return typeof Timeout === 'number' && Number.isFinite(Timeout) ? Timeout : null;
}
