/** What the steps of runs and tasks need, as ports. */
import type { ActivityStore, Clock, Log, Metrics, Rng } from '@milkrun/core';
import type { Client } from '@temporalio/client';

export interface OutboundRequest {
  readonly url: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
  /** Milliseconds for the whole exchange. */
  readonly timeoutMs: number;
  readonly answerBytesMax: number;
  readonly signal: AbortSignal;
}

export interface OutboundAnswer {
  readonly status: number;
  header(name: string): string | undefined;
  readonly body: Buffer;
}

/** HTTP to addresses that people name: guarded against addresses inside, with bounded answers. */
export interface OutboundHttp {
  /** Throws OutboundFailed; any status is an answer. */
  send(request: OutboundRequest): Promise<OutboundAnswer>;
}

export class OutboundFailed extends Error {
  override readonly name = 'OutboundFailed';
  /** False: trying again can not help, such as an address that may not be called. */
  readonly retryable: boolean;

  constructor(message: string, retryable: boolean, options?: ErrorOptions) {
    super(message, options);
    this.retryable = retryable;
  }
}

/** Named connections of the operator, read-only. */
export interface SqlReader {
  /** Rows as JSON data, at most `rowsMax`. Throws an Error; `unknown` connections are not retried. */
  query(input: {
    readonly connection: string;
    readonly query: string;
    readonly params: readonly unknown[];
    readonly rowsMax: number;
    readonly timeoutMs: number;
  }): Promise<readonly unknown[]>;
  has(connection: string): boolean;
}

export interface RunDeps {
  readonly store: ActivityStore;
  readonly client: Client;
  readonly http: OutboundHttp;
  readonly sql: SqlReader;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Queue of tasks; the product's own by default. */
  readonly taskQueue?: string;
}
