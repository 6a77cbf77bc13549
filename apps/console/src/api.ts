/**
 * Asks the API with the key a person gave. The key is kept for this tab alone (sessionStorage), so that a reload does not ask
 * for it again, and goes nowhere but into the Authorization header of our own origin.
 */
import { signal } from '@preact/signals';

const STORED = 'milkrun-key';

/** The key; undefined until one is given, or after the API refused it. */
export const key = signal<string | undefined>(sessionStorage.getItem(STORED) ?? undefined);
/** Why the key was given up. */
export const refusal = signal<string | undefined>(undefined);

/** An answer that is no 2xx, in the API's own words. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export function signIn(given: string): void {
  sessionStorage.setItem(STORED, given);
  refusal.value = undefined;
  key.value = given;
}

export function signOut(why?: string): void {
  sessionStorage.removeItem(STORED);
  refusal.value = why;
  key.value = undefined;
}

/** `#key=…` of the start-up line; taken out of the address at once, so that it is in no history. */
export function takeKeyFromAddress(): void {
  const given = new URLSearchParams(location.hash.slice(1)).get('key');
  if (given === null) return;
  history.replaceState(null, '', location.pathname);
  signIn(given);
}

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export function pathWith(path: string, query: Query): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    if (value !== undefined && value !== '') search.set(name, String(value));
  return search.size === 0 ? path : `${path}?${search}`;
}

/** Throws ApiError, or the abort. */
export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await exchange('GET', path, undefined, signal)) as T;
}

/** POST; the answer's JSON, null when it has none. */
export async function send<T = unknown>(path: string, body: object = {}): Promise<T> {
  return (await exchange('POST', path, body)) as T;
}

async function exchange(method: string, path: string, body?: object, signal?: AbortSignal): Promise<unknown> {
  const given = key.value;
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers: {
        authorization: `Bearer ${given}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      body: body === undefined ? null : JSON.stringify(body),
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: signal ?? null,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 'The API does not answer. Is Milkrun running?');
  }
  const text = await answer.text();
  if (answer.ok) return text === '' ? null : JSON.parse(text);
  if (answer.status === 401 && given === key.value) signOut('The key is not valid, or no longer.');
  throw new ApiError(answer.status, detailOf(text) ?? `The API answered with status ${answer.status}.`);
}

function detailOf(text: string): string | undefined {
  try {
    const { detail } = JSON.parse(text) as { detail?: unknown };
    return typeof detail === 'string' ? detail : undefined;
  } catch {
    return undefined;
  }
}
