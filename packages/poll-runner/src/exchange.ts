/**
 * One request and its answer over an undici dispatcher, read with a bound while it comes in, under a deadline and an
 * abort. Never throws; settles once, and leaves neither timer nor listener behind.
 */
import type { Dispatcher } from 'undici';
import type { AbortHub } from './abort-hub.ts';
import type { Answer } from './classify.ts';

export type ExchangeEnd =
  | { readonly end: 'answer'; readonly answer: Answer }
  /** Refused, reset, broken HTTP, or no connection in time. */
  | { readonly end: 'unreachable'; readonly message: string }
  | { readonly end: 'deadline' }
  | { readonly end: 'too_large'; readonly bytes: number }
  | { readonly end: 'aborted' };

export interface ExchangeInput {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly headers: string[];
  readonly body: string | null;
  readonly deadlineMs: number;
  readonly answerBytesMax: number;
  readonly signal: AbortSignal | undefined;
}

/** Why we ended a request ourselves; undici hands it back, and nobody looks at it. */
const ENDED_BY_US = new Error('the exchange has ended');

export function exchange(dispatcher: Dispatcher, hub: AbortHub, input: ExchangeInput): Promise<ExchangeEnd> {
  return new Promise((resolve) => {
    const running = new Exchange(input.answerBytesMax, hub, input.signal, resolve);
    if (!running.begin(input.deadlineMs)) return;
    try {
      // Deadlines are ours: undici's two time-outs per request are off.
      dispatcher.dispatch(
        {
          method: input.method,
          path: input.path,
          headers: input.headers,
          body: input.body,
          headersTimeout: 0,
          bodyTimeout: 0,
        },
        running,
      );
    } catch (error) {
      running.fail(error);
    }
  });
}

class Exchange implements Dispatcher.DispatchHandler {
  readonly #answerBytesMax: number;
  readonly #hub: AbortHub;
  readonly #signal: AbortSignal | undefined;
  readonly #resolve: (end: ExchangeEnd) => void;
  #timer: NodeJS.Timeout | undefined;
  #controller: Dispatcher.DispatchController | undefined;
  #settled = false;
  #status = 0;
  #headers: Answer['headers'] = {};
  #first: Buffer | undefined;
  #rest: Buffer[] | undefined;
  #bytes = 0;

  constructor(
    answerBytesMax: number,
    hub: AbortHub,
    signal: AbortSignal | undefined,
    resolve: (end: ExchangeEnd) => void,
  ) {
    this.#answerBytesMax = answerBytesMax;
    this.#hub = hub;
    this.#signal = signal;
    this.#resolve = resolve;
  }

  /** False when there is nothing to begin any more. */
  begin(deadlineMs: number): boolean {
    if (this.#signal?.aborted) {
      this.#settle({ end: 'aborted' });
      return false;
    }
    if (!(deadlineMs > 0)) {
      this.#settle({ end: 'unreachable', message: 'no time was left to call the poll function' });
      return false;
    }
    this.#timer = setTimeout(onDeadline, deadlineMs, this);
    if (this.#signal !== undefined) this.#hub.add(this.#signal, this);
    return true;
  }

  deadline(): void {
    // Not on a connection yet: nobody has kept us waiting but the platform.
    this.#cut(
      this.#controller === undefined
        ? { end: 'unreachable', message: 'no connection within the deadline' }
        : { end: 'deadline' },
    );
  }

  aborted(): void {
    this.#cut({ end: 'aborted' });
  }

  fail(error: unknown): void {
    this.#settle({ end: 'unreachable', message: reasonOf(error) });
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#settled) controller.abort(ENDED_BY_US);
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: Answer['headers']): void {
    if (status < 200) return;
    this.#status = status;
    this.#headers = headers;
    const announced = Number(headers['content-length']);
    if (announced > this.#answerBytesMax) this.#cut({ end: 'too_large', bytes: announced });
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#settled) return;
    this.#bytes += chunk.length;
    if (this.#bytes > this.#answerBytesMax) this.#cut({ end: 'too_large', bytes: this.#bytes });
    else if (this.#first === undefined) this.#first = chunk;
    else if (this.#rest === undefined) this.#rest = [this.#first, chunk];
    else this.#rest.push(chunk);
  }

  onResponseEnd(): void {
    const body = this.#rest === undefined ? (this.#first ?? Buffer.alloc(0)) : Buffer.concat(this.#rest, this.#bytes);
    this.#settle({ end: 'answer', answer: { status: this.#status, headers: this.#headers, body } });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.fail(error);
  }

  #cut(end: ExchangeEnd): void {
    this.#settle(end);
    this.#controller?.abort(ENDED_BY_US);
  }

  #settle(end: ExchangeEnd): void {
    if (this.#settled) return;
    this.#settled = true;
    clearTimeout(this.#timer);
    if (this.#signal !== undefined) this.#hub.remove(this.#signal, this);
    this.#first = undefined;
    this.#rest = undefined;
    this.#resolve(end);
  }
}

function onDeadline(running: Exchange): void {
  running.deadline();
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return 'the connection failed';
  const code = 'code' in error && typeof error.code === 'string' ? error.code : error.name;
  return `${code}: ${error.message}`.slice(0, 500);
}
