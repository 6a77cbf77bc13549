/**
 * http-json: a listing of any JSON API, declared instead of programmed.
 *
 * Without a watermark the whole listing is read at every poll (page after page) and compared by key; with one, what the
 * API calls newer than the greatest value seen less the overlap. That value moves on only with the last page of a
 * listing, so pages may come in any order. Further pages stay on the origin the user named: credentials go nowhere
 * else.
 */
import { z } from 'zod';
import { defineConnector, type PollContext, type PollItem, type PollResult } from '../connector.ts';
import { PollError } from '../errors.ts';
import type { HttpAnswer } from '../http.ts';
import { authHeaders } from './auth.ts';
import { configSchema, type HttpJsonConfig } from './config.ts';
import { greaterMark, type Mark, markParam, markSchema, timeOf } from './mark.ts';
import { valueAt } from './path.ts';

const OVERLAP_SECONDS = 300;
const ANSWER_BYTES_MAX = 8 * 1024 * 1024;
const ETAG_LENGTH_MAX = 256;
const KEY_BYTES_MAX = 512;
const NEXT_LENGTH_MAX = 4_096;

const cursorSchema = z.object({
  v: z.literal(1),
  etag: z.string().optional(),
  /** Greatest value of the last whole listing. */
  mark: markSchema.optional(),
  /** Amid a listing: greatest value so far, and what asks for the next page (number, token or URL). */
  open: z.object({ mark: markSchema.optional(), page: z.union([z.int(), z.string()]) }).optional(),
});
type Cursor = z.output<typeof cursorSchema>;

export const httpJson = defineConnector({
  toolkit: 'http',
  slug: 'http-json',
  title: 'New items of a JSON API',
  version: '1',
  configSchema,
  eventSchema: z.unknown(),
  dedupe: ({ watermark, key }) => (watermark !== undefined ? 'watermark' : key === undefined ? 'hash' : 'unique'),
  overlapSeconds: OVERLAP_SECONDS,
  defaultIntervalSeconds: 300,
  minimumIntervalSeconds: 30,
  repeatable: true,
  poll,
});

async function poll(context: PollContext<HttpJsonConfig>): Promise<PollResult> {
  const { config, http, signal } = context;
  const cursor = cursorOf(context.cursor);
  const canAskByEtag = config.paging.type === 'none' && config.watermark === undefined;
  const answer = await http.send({
    url: urlOf(config, cursor, context.since),
    method: config.method,
    headers: {
      accept: 'application/json',
      ...config.headers,
      ...(config.body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(canAskByEtag && cursor.etag !== undefined ? { 'if-none-match': cursor.etag } : {}),
      ...authHeaders(config.auth, context.auth),
    },
    ...(config.method === 'POST' && config.body !== undefined ? { body: JSON.stringify(config.body) } : {}),
    answerBytesMax: ANSWER_BYTES_MAX,
    alsoFine: canAskByEtag ? [304] : [],
    signal,
  });
  if (answer.status === 304) return { events: [], cursor };
  const listing = answer.json();
  const items = valueAt(listing, config.items);
  if (!Array.isArray(items)) throw new PollError('permanent', 'the path "items" leads to no list in the answer');
  const events = items.map((item) => itemOf(item, config));
  const mark = greatestMark(items, config, cursor);
  const page = nextPageOf(config, cursor, listing, items.length, answer);
  if (page !== undefined) {
    return { events, cursor: withMark(cursor, { ...(mark === undefined ? {} : { mark }), page }), more: true };
  }
  const etag = answer.header('etag');
  return {
    events,
    cursor: {
      v: 1,
      ...(canAskByEtag && etag !== undefined && etag.length <= ETAG_LENGTH_MAX ? { etag } : {}),
      ...(mark === undefined ? {} : { mark }),
    } satisfies Cursor,
  };
}

function cursorOf(cursor: unknown): Cursor {
  if (cursor === null) return { v: 1 };
  const parsed = cursorSchema.safeParse(cursor);
  if (!parsed.success) throw new PollError('permanent', 'the cursor is not one of this connector');
  return parsed.data;
}

const withMark = ({ mark }: Cursor, open: NonNullable<Cursor['open']>): Cursor => ({
  v: 1,
  ...(mark === undefined ? {} : { mark }),
  open,
});

function urlOf({ url: text, paging, watermark }: HttpJsonConfig, cursor: Cursor, since: string | undefined): string {
  const page = cursor.open?.page;
  if ((paging.type === 'next' || paging.type === 'link') && typeof page === 'string') return sameOrigin(page, text);
  const url = new URL(text);
  if (watermark !== undefined) {
    const value = markParam(cursor.mark, since, watermark);
    if (value !== undefined) url.searchParams.set(watermark.param, value);
  }
  if (paging.type === 'page') url.searchParams.set(paging.param, String(page ?? paging.start));
  if (paging.type === 'token' && page !== undefined) url.searchParams.set(paging.param, String(page));
  return url.href;
}

/** What asks for the next page, or undefined at the listing's end. */
function nextPageOf(
  { paging, url }: HttpJsonConfig,
  { open }: Cursor,
  listing: unknown,
  itemCount: number,
  answer: HttpAnswer,
): number | string | undefined {
  const at = open?.page;
  switch (paging.type) {
    case 'none':
      return undefined;
    case 'page':
      return itemCount === 0 ? undefined : (typeof at === 'number' ? at : paging.start) + 1;
    case 'token': {
      const token = valueAt(listing, paging.path);
      if (typeof token === 'number') return String(token);
      // A server that names the page it has just sent would be asked for ever.
      return typeof token === 'string' && token !== '' && token !== at ? bounded(token) : undefined;
    }
    case 'next':
    case 'link': {
      const next = paging.type === 'next' ? valueAt(listing, paging.path) : linkedNext(answer.header('link'));
      if (typeof next !== 'string' || next === '') return undefined;
      const target = sameOrigin(bounded(next), typeof at === 'string' ? at : url);
      return target === at ? undefined : target;
    }
  }
}

function bounded(text: string): string {
  if (text.length > NEXT_LENGTH_MAX) throw new PollError('connector', 'what asks for the next page is too long');
  return text;
}

function sameOrigin(next: string, base: string): string {
  const target = URL.canParse(next, base) ? new URL(next, base) : undefined;
  if (target === undefined || target.origin !== new URL(base).origin) {
    throw new PollError('permanent', 'the next page lies on another origin than the configured URL');
  }
  return target.href;
}

function linkedNext(header: string | undefined): string | undefined {
  for (const link of (header ?? '').slice(0, NEXT_LENGTH_MAX).split(/,(?=\s*<)/)) {
    const found = /^\s*<([^>]*)>(.*)$/.exec(link);
    if (found !== null && /;\s*rel\s*=\s*"?(?:[^";]* )?next(?: [^";]*)?"?\s*(?:;|$)/i.test(found[2] ?? ''))
      return found[1];
  }
  return undefined;
}

function itemOf(item: unknown, config: HttpJsonConfig): PollItem {
  const key = config.key === undefined ? undefined : keyOf(valueAt(item, config.key));
  const occurredAt = config.occurredAt === undefined ? undefined : timeOf(valueAt(item, config.occurredAt));
  return {
    ...(key === undefined ? {} : { key }),
    ...(occurredAt === undefined ? {} : { occurredAt }),
    data: item,
  };
}

/** An item without a usable key is told apart by its content. */
function keyOf(value: unknown): string | undefined {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return String(value);
  return typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= KEY_BYTES_MAX ? value : undefined;
}

function greatestMark(items: readonly unknown[], { watermark }: HttpJsonConfig, cursor: Cursor): Mark | undefined {
  let mark = cursor.open?.mark ?? cursor.mark;
  if (watermark === undefined) return mark;
  for (const item of items) mark = greaterMark(mark, valueAt(item, watermark.path), watermark.format);
  return mark;
}
