import { afterEach, describe, expect, it } from 'vitest';
import { parsePath, valueAt } from '../src/http-json/path.ts';
import { checkConnector, httpJson, type PollResult } from '../src/index.ts';
import { ask, closeServers, keysOf, serve } from './support.ts';

afterEach(closeServers);

/** An API that answers by URL; records what it was asked. */
async function api(
  answer: (url: URL, headers: Record<string, unknown>) => unknown,
  headers: Record<string, string> = {},
) {
  const asked: string[] = [];
  const url = await serve((request, response) => {
    asked.push(request.url ?? '');
    const target = new URL(request.url ?? '', `http://${request.headers.host}`);
    response.writeHead(200, headers).end(JSON.stringify(answer(target, request.headers)));
  });
  return { url, asked };
}

async function wholeChain(config: unknown, cursor: unknown = null): Promise<{ keys: unknown[]; last: PollResult }> {
  const keys: unknown[] = [];
  for (let at = cursor; ; ) {
    const page = await ask(httpJson, { config, cursor: at });
    if (page.error !== undefined) throw new Error(page.error.message);
    keys.push(...keysOf(page));
    if (page.more !== true) return { keys, last: page };
    at = page.cursor;
  }
}

describe('path', () => {
  it.each([
    ['$', []],
    ['data.items', ['data', 'items']],
    ['$.a[0].b', ['a', 0, 'b']],
    ['$[\'the items\']["x.y"]', ['the items', 'x.y']],
    ['a-b.c_d', ['a-b', 'c_d']],
  ])('%s is read', (text, path) => {
    expect(parsePath(text)).toEqual(path);
  });

  it.each(['', 'a..b', '.a', 'a[', 'a[x]', '$..a', 'a.*', 'a[?(@.x)]', 'a[-1]', 'a b', '$a b'])(
    '%j is none',
    (text) => {
      expect(parsePath(text)).toBeUndefined();
    },
  );

  it('sees own properties only', () => {
    expect(valueAt({}, ['constructor'])).toBeUndefined();
    expect(valueAt([], ['length'])).toBe(0);
    expect(valueAt(JSON.parse('{"__proto__":7}'), ['__proto__'])).toBe(7);
    expect(valueAt('text', [0])).toBeUndefined();
  });
});

describe('http-json', () => {
  const items = Array.from({ length: 7 }, (_, i) => ({ id: i + 1, at: `2026-11-25T00:00:0${i}Z` }));

  it('lists keys, times and whole items, and asks by ETag afterwards', async () => {
    const seen: unknown[] = [];
    const url = await serve((request, response) => {
      seen.push(request.headers['if-none-match']);
      if (request.headers['if-none-match'] === '"e"') response.writeHead(304).end();
      else response.writeHead(200, { etag: '"e"' }).end(JSON.stringify({ data: { list: items.slice(0, 2) } }));
    });
    const config = { url, items: 'data.list', key: 'id', occurredAt: 'at' };
    const first = await ask(httpJson, { config });
    expect(first.events[0]).toEqual({ key: '1', occurredAt: '2026-11-25T00:00:00.000Z', data: items[0] });
    const second = await ask(httpJson, { config, cursor: first.cursor });
    expect([second.events, second.cursor, seen]).toEqual([[], first.cursor, [undefined, '"e"']]);
  });

  it('follows page numbers to the first empty page', async () => {
    const { url, asked } = await api((at) => items.slice((Number(at.searchParams.get('p')) - 1) * 3).slice(0, 3));
    const { keys, last } = await wholeChain({ url: `${url}/?q=1`, key: 'id', paging: { type: 'page', param: 'p' } });
    expect(keys).toEqual(['1', '2', '3', '4', '5', '6', '7']);
    expect(asked).toEqual(['/?q=1&p=1', '/?q=1&p=2', '/?q=1&p=3', '/?q=1&p=4']);
    expect(last.cursor).toEqual({ v: 1 });
  });

  it('follows tokens, next URLs and Link headers', async () => {
    const tokens = await api((at) => {
      const from = Number(at.searchParams.get('after') ?? 0);
      return { items: items.slice(from, from + 4), next: from + 4 < 7 ? String(from + 4) : null };
    });
    const byToken = {
      url: tokens.url,
      items: 'items',
      key: 'id',
      paging: { type: 'token', param: 'after', path: 'next' },
    };
    expect((await wholeChain(byToken)).keys).toHaveLength(7);
    const nexts = await api((at) =>
      at.pathname === '/2' ? { items: items.slice(4), next: '' } : { items: items.slice(0, 4), next: '/2' },
    );
    const byNext = { url: nexts.url, items: 'items', key: 'id', paging: { type: 'next', path: 'next' } };
    expect((await wholeChain(byNext)).keys).toHaveLength(7);
    const links = await serve((request, response) => {
      const isFirst = request.url === '/';
      const link = isFirst ? '</>; rel="first", </2?a,b>; title="x"; rel="next last"' : '</>; rel="prev"';
      response.writeHead(200, { link }).end(JSON.stringify(isFirst ? items.slice(0, 4) : items.slice(4)));
    });
    expect((await wholeChain({ url: links, key: 'id', paging: { type: 'link' } })).keys).toHaveLength(7);
  });

  it('does not follow a next page to another origin', async () => {
    const { url } = await api(() => ({ items: [], next: 'http://198.51.100.1/steal' }));
    const config = { url, items: 'items', paging: { type: 'next', path: 'next' } };
    expect((await ask(httpJson, { config })).error).toMatchObject({
      class: 'permanent',
      message: expect.stringContaining('origin'),
    });
  });

  it('ends a listing whose server names the same page again', async () => {
    const { url, asked } = await api(() => ({ items: [], next: 'again' }));
    await wholeChain({ url, items: 'items', paging: { type: 'token', param: 't', path: 'next' } });
    expect(asked).toHaveLength(2);
  });

  it('moves the watermark only with the last page, whatever the order, and sends it less the overlap', async () => {
    const { url, asked } = await api((at) => {
      const isSecond = at.searchParams.get('p') === '2';
      return { items: isSecond ? items.slice(0, 2) : items.slice(5).reverse(), next: isSecond ? null : 2 };
    });
    const config = {
      url,
      items: 'items',
      key: 'id',
      paging: { type: 'token', param: 'p', path: 'next' },
      watermark: { path: 'at', param: 'since', overlapSeconds: 2 },
    };
    const first = await ask(httpJson, { config });
    expect(first.cursor).toEqual({ v: 1, open: { mark: Date.parse(items[6]?.at ?? ''), page: '2' } });
    const { last } = await wholeChain(config, first.cursor);
    await ask(httpJson, { config, cursor: last.cursor });
    expect(asked.map((path) => new URL(path, url).searchParams.get('since'))).toEqual([
      null,
      null,
      '2026-11-25T00:00:04.000Z',
    ]);
  });

  it.each([
    ['unix', 1_700_000_000, '1699999700'],
    ['unix_ms', 1_700_000_000_000, '1699999700000'],
    ['number', 42, '42'],
    ['text', 'abc', 'abc'],
  ])('sends a watermark of format %s', async (format, value, expected) => {
    const { url, asked } = await api(() => [{ v: value }]);
    const config = { url, watermark: { path: 'v', param: 'w', format } };
    const { cursor } = await ask(httpJson, { config });
    await ask(httpJson, { config, cursor });
    expect(new URL(asked[1] ?? '', url).searchParams.get('w')).toBe(expected);
  });

  it.each([
    ['bearer', { type: 'bearer' }, { accessToken: 't' }, 'authorization', 'Bearer t'],
    [
      'basic',
      { type: 'basic' },
      { username: 'ü', password: 'p' },
      'authorization',
      `Basic ${Buffer.from('ü:p').toString('base64')}`,
    ],
    ['header', { type: 'header', name: 'X-Api-Key' }, { apiKey: 'k' }, 'x-api-key', 'k'],
  ])('authenticates by %s', async (_name, auth, credentials, header, expected) => {
    const seen: unknown[] = [];
    const { url } = await api((_at, headers) => {
      seen.push(headers[header]);
      return [];
    });
    await ask(httpJson, { config: { url, auth }, auth: credentials });
    expect(seen).toEqual([expected]);
    expect((await ask(httpJson, { config: { url, auth }, auth: {} })).error.class).toBe('auth');
    expect((await ask(httpJson, { config: { url, auth }, auth: { token: 'a\r\nb: c' } })).error.class).toBe('auth');
  });

  it('posts JSON', async () => {
    const seen: unknown[] = [];
    const url = await serve(async (request, response) => {
      seen.push(request.method, request.headers['content-type'], (await request.toArray()).join(''));
      response.end('[]');
    });
    await ask(httpJson, { config: { url, method: 'POST', body: { q: [1] } } });
    expect(seen).toEqual(['POST', 'application/json', '{"q":[1]}']);
  });

  it('leaves out keys and times that are none, so the engine tells such items apart by content', async () => {
    const { url } = await api(() => [{ id: {}, at: 'soon' }, 'text', { id: '', at: 1e300 }, { id: 'x'.repeat(513) }]);
    const { events } = await ask(httpJson, { config: { url, key: 'id', occurredAt: 'at' } });
    expect(events.map((event) => Object.keys(event))).toEqual([['data'], ['data'], ['data'], ['data']]);
  });

  it('says which strategy a configuration needs', () => {
    const url = 'https://example.com/';
    const watermark = { path: 'at', param: 'since' };
    const strategy = (config: unknown): string => httpJson.policyOf(config).dedupe;
    expect([strategy({ url }), strategy({ url, key: 'id' }), strategy({ url, key: 'id', watermark })]).toEqual([
      'hash',
      'unique',
      'watermark',
    ]);
  });

  it('passes the conformance kit', async () => {
    const { url } = await api(() => items);
    const invalidConfigs = [
      {},
      { url: 'ftp://x/' },
      { url, items: 'a..b' },
      { url, headers: { Host: 'x' } },
      { url, headers: { 'a b': 'x' } },
      { url, headers: { a: 'x\r\ny: z' } },
      { url, method: 'DELETE' },
    ];
    const settings = { OUTBOUND_ALLOW: '127.0.0.1' };
    const checks = await checkConnector(httpJson, {
      config: { url, key: 'id', occurredAt: 'at' },
      invalidConfigs,
      settings,
    });
    expect(checks.flatMap(({ problems }) => problems)).toEqual([]);
  });
});
