/**
 * The one retry owner of calls to a bucket: the SDK's retries are off, and what calls the store repeats nothing.
 *
 * Every operation of the port can be repeated: reads and removals as they are, the conditional write because it knows
 * its own earlier write again.
 */
import { type Clock, ObjectStoreUnavailable, ObjectTooLarge, type Rng } from '@milkrun/core';

const ATTEMPTS = 4;
const BACKOFF_FIRST_MS = 100;
const BACKOFF_MAX_MS = 2_000;

/** The answer's body was shorter than announced. */
export class TruncatedBody extends Error {
  override readonly name = 'TruncatedBody';
}

interface ServiceFault {
  readonly name?: string;
  readonly message?: string;
  readonly $metadata?: { readonly httpStatusCode?: number };
}

export const statusOf = (error: unknown): number | undefined => (error as ServiceFault).$metadata?.httpStatusCode;
export const nameOfFault = (error: unknown): string => (error as ServiceFault).name ?? 'Error';

/** No answer at all, an answer cut short, throttling, a server's fault, or two conditional writes that met (409). */
function isTransient(error: unknown): boolean {
  const status = statusOf(error);
  const name = nameOfFault(error);
  if (name === 'CredentialsProviderError') return false;
  if (error instanceof TruncatedBody || name === 'RequestTimeout') return true;
  return status === undefined || status < 300 || status === 409 || status === 429 || status >= 500;
}

export interface Attempt {
  /** 1 for the first. */
  readonly number: number;
  /** Ends the attempt, its body included. */
  readonly signal: AbortSignal;
}

export interface RetryOptions {
  readonly clock: Clock;
  readonly rng: Rng;
  /** Milliseconds one attempt may take. */
  readonly attemptMs: number;
}

/**
 * Runs a call at most four times, with full-jitter back-off (100 ms doubling to 2 s) in between.
 * Throws ObjectStoreUnavailable with the last fault as its cause; ObjectTooLarge as it comes.
 */
export async function withRetries<T>(
  what: string,
  { clock, rng, attemptMs }: RetryOptions,
  call: (attempt: Attempt) => Promise<T>,
): Promise<T> {
  for (let number = 1; ; number += 1) {
    try {
      return await call({ number, signal: AbortSignal.timeout(attemptMs) });
    } catch (error) {
      if (error instanceof ObjectTooLarge) throw error;
      if (number === ATTEMPTS || !isTransient(error)) throw unavailable(what, number, error);
      await clock.sleep(rng.next() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (number - 1)));
    }
  }
}

function unavailable(what: string, attempts: number, error: unknown): ObjectStoreUnavailable {
  const status = statusOf(error);
  const answer = status === undefined ? '' : `, HTTP ${status}`;
  const message = `${what} failed after ${attempts} ${attempts === 1 ? 'attempt' : 'attempts'}`;
  return new ObjectStoreUnavailable(
    `${message}: ${nameOfFault(error)}${answer}: ${(error as ServiceFault).message ?? ''}`,
    { cause: error },
  );
}
