/** Calls the API and the engine for client commands: bounded answers, readable failures, the key never in a message. */
import type { Secret } from '@milkrun/core';
import { request } from 'undici';
import { CommandFailed, EXIT } from './exit-codes.ts';

export interface HttpClient {
  readonly origin: string;
  get(path: string, query?: Query): Promise<unknown>;
  send(method: 'POST' | 'PATCH' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<unknown>;
  /** Every item of a list that pages by `cursor`, as far as `limit`. */
  list(path: string, query?: Query & { readonly limit?: number }): Promise<Record<string, unknown>[]>;
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export interface HttpClientOptions {
  readonly origin: string;
  /** What answers there, for messages: "the API", "the engine". */
  readonly name: string;
  readonly key: Secret | undefined;
  readonly timeoutMs?: number;
  /** Called after each page of a list, and with undefined at its end. */
  readonly onItems?: (read: number | undefined, limit: number) => void;
}

const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
const PAGE = 500;

/** Every call throws `CommandFailed`, with exit code 5 when nobody answers there or the key is refused. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { origin, name, key, timeoutMs = 60_000, onItems = () => {} } = options;
  async function call(method: string, path: string, query: Query = {}, body?: unknown): Promise<unknown> {
    const url = new URL(origin + path);
    for (const [field, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(field, String(value));
    }
    let status: number;
    let text: string;
    try {
      const answer = await request(url, {
        method: method as 'GET',
        headers: {
          accept: 'application/json, application/problem+json',
          ...(key === undefined ? {} : { authorization: `Bearer ${key.reveal()}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        headersTimeout: timeoutMs,
        bodyTimeout: timeoutMs,
      });
      status = answer.statusCode;
      text = await boundedText(answer.body);
    } catch (error) {
      if (error instanceof CommandFailed) throw error;
      const code = (error as { code?: string }).code ?? (error as Error).message;
      throw new CommandFailed(
        `${name} does not answer at ${origin} (${code}). Is \`milkrun dev\` running?`,
        EXIT.unreachable,
        { cause: error },
      );
    }
    const parsed = parse(text);
    if (status >= 200 && status < 300) {
      if (parsed === undefined && text !== '')
        throw new CommandFailed(`${name} answered ${method} ${path} with something that is no JSON`);
      return parsed;
    }
    throw new CommandFailed(refusalText(name, method, path, status, parsed), exitCodeOf(status));
  }

  return {
    origin,
    get: (path, query) => call('GET', path, query),
    send: (method, path, body) => call(method, path, {}, body),
    async list(path, { limit = Number.POSITIVE_INFINITY, ...query } = {}) {
      const items: Record<string, unknown>[] = [];
      let cursor: string | undefined;
      do {
        const size = Math.min(PAGE, limit - items.length);
        const page = asRecord(await call('GET', path, { ...query, cursor, limit: size }));
        if (!Array.isArray(page.items)) throw new CommandFailed(`${name} answered GET ${path} without a list of items`);
        items.push(...(page.items as Record<string, unknown>[]));
        const next = typeof page.next === 'string' && page.next !== '' ? page.next : undefined;
        // A server that repeats itself must not keep us for ever.
        cursor = next === cursor || page.items.length === 0 ? undefined : next;
        if (cursor !== undefined) onItems(items.length, limit);
      } while (cursor !== undefined && items.length < limit);
      onItems(undefined, limit);
      return items;
    },
  };
}

export function asRecord(value: unknown): Record<string, unknown> {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new CommandFailed('the answer is not a JSON object');
  }
  return value as Record<string, unknown>;
}

async function boundedText(body: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > ANSWER_BYTES_MAX) throw new CommandFailed(`the answer is larger than ${ANSWER_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parse(text: string): unknown {
  try {
    return text === '' ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

const exitCodeOf = (status: number): 1 | 5 => (status === 401 || status === 403 ? EXIT.unreachable : EXIT.failure);

/** RFC 9457: `title`, `detail`, and the fields that are wrong. */
function refusalText(name: string, method: string, path: string, status: number, problem: unknown): string {
  const record = problem !== null && typeof problem === 'object' ? (problem as Record<string, unknown>) : {};
  const parts = [record.title, record.detail].filter((part) => typeof part === 'string' && part !== '');
  const errors = Array.isArray(record.errors)
    ? record.errors.map(
        (error) => `\n  ${typeof error === 'string' ? error : `${asText(error, 'path')}: ${asText(error, 'message')}`}`,
      )
    : [];
  const hint = status === 401 ? '. Set MILKRUN_KEY to a valid API key' : '';
  return `${name} answered ${method} ${path} with ${status}${parts.length > 0 ? `: ${parts.join(': ')}` : ''}${errors.join('')}${hint}`;
}

const asText = (value: unknown, field: string): string =>
  value !== null && typeof value === 'object' ? String((value as Record<string, unknown>)[field] ?? '') : '';
