import { afterEach, describe, expect, it } from 'vitest';
import { AddressRefused, createAddressGuard } from '../src/address-guard.ts';
import { httpJson } from '../src/index.ts';
import { ask, closeServers, serve } from './support.ts';

afterEach(closeServers);

const hostOf = (url: string): string => new URL(url).hostname;

describe('address guard', () => {
  it.each([
    'http://127.0.0.1/',
    'http://127.1/',
    'http://0x7f.1/',
    'http://2130706433/',
    'http://0/',
    'http://10.1.2.3/',
    'http://100.64.0.1/',
    'http://169.254.169.254/latest/meta-data',
    'http://172.31.255.255/',
    'http://192.168.0.1/',
    'http://192.0.0.192/',
    'http://198.18.0.1/',
    'http://224.0.0.1/',
    'http://255.255.255.255/',
    'http://[::]/',
    'http://[::1]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:8.8.8.8]/',
    'http://[::127.0.0.1]/',
    'http://[64:ff9b::7f00:1]/',
    'http://[64:ff9b:1::1]/',
    'http://[2001::1]/',
    'http://[2001:db8::1]/',
    'http://[2002:7f00:1::]/',
    'http://[3fff::1]/',
    'http://[5f00::1]/',
    'http://[fc00::1]/',
    'http://[fe80::1]/',
    'http://[fec0::1]/',
    'http://[ff02::1]/',
  ])('refuses %s', (url) => {
    expect(() => createAddressGuard([]).assertHost(hostOf(url))).toThrow(AddressRefused);
  });

  it.each(['http://8.8.8.8/', 'http://172.32.0.1/', 'http://[2606:4700::1111]/', 'http://example.com/'])(
    'lets %s pass',
    (url) => {
      expect(() => createAddressGuard([]).assertHost(hostOf(url))).not.toThrow();
    },
  );

  it('lets names below a trusted one resolve to any address, and no name that only ends alike', async () => {
    const lookup = (host: string): Promise<unknown> =>
      new Promise((resolve) => {
        createAddressGuard(['*.localhost', '[::1]']).lookup(host, { all: true }, (error, found) =>
          resolve(error ?? found),
        );
      });
    expect(await lookup('api.localhost')).not.toBeInstanceOf(AddressRefused);
    expect(await lookup('localhost')).toBeInstanceOf(AddressRefused);
    expect(() => createAddressGuard(['[::1]']).assertHost('[::1]')).not.toThrow();
  });

  it('checks what a name resolves to', async () => {
    const lookup = (allow: string[]): Promise<unknown> =>
      new Promise((resolve) => {
        createAddressGuard(allow).lookup('localhost', { all: true }, (error, found) => resolve(error ?? found));
      });
    expect(await lookup([])).toBeInstanceOf(AddressRefused);
    expect(await lookup(['localhost'])).toEqual(
      expect.arrayContaining([expect.objectContaining({ address: expect.any(String) })]),
    );
    expect(await lookup(['127.0.0.0/8', '::1'])).toEqual(expect.any(Array));
  });
});

describe('an outgoing call', () => {
  const refused = { error: { class: 'permanent', message: expect.stringContaining('may not be called') } };

  it('never reaches loopback, by literal, by name, or by redirect', async () => {
    let calls = 0;
    const inside = await serve((_request, response) => {
      calls += 1;
      response.end('[]');
    });
    const { port } = new URL(inside);
    for (const host of ['127.0.0.1', 'localhost', '127.1', '[::ffff:127.0.0.1]', '0']) {
      expect(await ask(httpJson, { config: { url: `http://${host}:${port}/` }, settings: {} })).toMatchObject(refused);
    }
    const outside = await serve((_request, response) =>
      response.writeHead(302, { location: inside.replace('127.0.0.1', '127.0.0.2') }).end(),
    );
    const settings = { OUTBOUND_ALLOW: '127.0.0.1' };
    expect(await ask(httpJson, { config: { url: outside }, settings })).toMatchObject(refused);
    expect(calls).toBe(0);
  });

  it('follows a redirect on the same origin with its credentials, to another without', async () => {
    const seen: unknown[] = [];
    const other = await serve((request, response) => {
      seen.push(['other', request.headers['x-key'], request.headers.authorization]);
      response.end('[]');
    });
    const first = await serve((request, response) => {
      seen.push([request.url, request.headers['x-key']]);
      const location = request.url === '/a' ? '/b' : `${other}/c`;
      response.writeHead(307, { location }).end();
    });
    const config = { url: `${first}/a`, auth: { type: 'header', name: 'X-Key' }, headers: { Authorization: 'x' } };
    expect(await ask(httpJson, { config, auth: { apiKey: 'secret' } })).toMatchObject({ events: [] });
    expect(seen).toEqual([
      ['/a', 'secret'],
      ['/b', 'secret'],
      ['other', undefined, undefined],
    ]);
  });

  it('gives up on a chain of redirects', async () => {
    let n = 0;
    const url = await serve((_request, response) => response.writeHead(302, { location: `/${++n}` }).end());
    expect(await ask(httpJson, { config: { url } })).toMatchObject({ error: { class: 'transient' } });
    expect(n).toBeLessThanOrEqual(4);
  });

  it('is bounded after decompression too', async () => {
    const { gzipSync } = await import('node:zlib');
    const bomb = gzipSync(Buffer.alloc(9 * 1024 * 1024, ' '));
    const url = await serve((_request, response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb));
    expect(await ask(httpJson, { config: { url } })).toMatchObject({
      error: { class: 'connector', message: expect.stringContaining('exceeds') },
    });
  });

  it.each([
    [401, {}, { class: 'auth' }],
    [403, {}, { class: 'auth' }],
    [404, {}, { class: 'permanent' }],
    [422, {}, { class: 'permanent' }],
    [429, { 'retry-after': '12' }, { class: 'rate_limited', retryAfter: 12 }],
    [
      429,
      { 'retry-after': 'Wed, 25 Nov 2026 05:01:30 GMT', date: 'Wed, 25 Nov 2026 05:00:00 GMT' },
      { class: 'rate_limited', retryAfter: 90 },
    ],
    [503, { 'retry-after': '9' }, { class: 'rate_limited', retryAfter: 9 }],
    [503, {}, { class: 'transient' }],
    [500, {}, { class: 'transient' }],
    [304, {}, { class: 'transient' }],
  ])('answered %i %j is %j', async (status, headers, error) => {
    const url = await serve((_request, response) => response.writeHead(status, headers).end('{}'));
    const config = { url, paging: { type: 'page', param: 'p' } };
    expect(await ask(httpJson, { config })).toMatchObject({ error });
  });

  it('that breaks off is transient, and what is not JSON the connector’s', async () => {
    const broken = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('[');
      setImmediate(() => response.destroy());
    });
    expect(await ask(httpJson, { config: { url: broken } })).toMatchObject({ error: { class: 'transient' } });
    const page = await serve((_request, response) => response.end('<html>'));
    expect(await ask(httpJson, { config: { url: page } })).toMatchObject({ error: { class: 'connector' } });
  });

  it('that hangs ends before the deadline', async () => {
    const url = await serve(() => {});
    expect(await ask(httpJson, { config: { url }, deadlineMs: 300 })).toEqual({
      error: { class: 'transient', message: 'the provider did not answer within the deadline' },
    });
  });
});
