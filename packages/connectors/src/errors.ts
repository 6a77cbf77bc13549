/** A connector's failure as the poll contract names it; throw it from `poll`, the handler answers it. */
export type ErrorClass = 'transient' | 'rate_limited' | 'auth' | 'permanent' | 'connector';

export class PollError extends Error {
  override readonly name = 'PollError';
  readonly class: ErrorClass;
  /** Seconds. */
  readonly retryAfter: number | undefined;

  constructor(
    errorClass: ErrorClass,
    message: string,
    options: { retryAfter?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.class = errorClass;
    this.retryAfter = options.retryAfter;
  }
}
