/** npm-package against a registry of one package, served on 127.0.0.1 with ETags as the real one does. */
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { checkConnector, npmPackage } from '../src/index.ts';
import { ask, clockAt, closeServers, keysOf, serve } from './support.ts';

afterEach(closeServers);

type Times = Record<string, string>;

/** A registry whose packument the test changes; counts what it was asked. */
async function registry(times: Times, extra: Record<string, unknown> = {}) {
  const state = { times, extra, etag: '"1"', asked: [] as string[] };
  const url = await serve((request, response) => {
    state.asked.push(`${request.url} ${request.headers['if-none-match'] ?? '-'}`);
    if (request.headers['if-none-match'] === state.etag) return response.writeHead(304, { etag: state.etag }).end();
    const versions = Object.fromEntries(
      Object.keys(state.times).map((version) => [version, { description: 'd', license: 'MIT' }]),
    );
    const packument = {
      name: 'left-pad',
      'dist-tags': { latest: Object.keys(state.times).at(-1) },
      time: { created: '2020-01-01T00:00:00.000Z', modified: '2026-01-01T00:00:00.000Z', ...state.times },
      versions,
      ...state.extra,
    };
    response.writeHead(200, { etag: state.etag, 'content-encoding': 'gzip' });
    return response.end(gzipSync(JSON.stringify(packument)));
  });
  const publish = (more: Times): void => {
    Object.assign(state.times, more);
    state.etag = `"${Number(state.etag.slice(1, -1)) + 1}"`;
  };
  return { state, url, publish, settings: { NPM_REGISTRY: `${url}/` } };
}

const NOW = '2026-11-25T12:00:00.000Z';
const clock = clockAt(NOW);
const config = { package: 'left-pad' };

describe('npm-package', () => {
  it('lists what was published since, oldest first, and afterwards asks by ETag', async () => {
    const { state, settings } = await registry({
      '1.0.0': '2026-01-01T00:00:00Z',
      '1.1.0': '2026-11-20T00:00:00Z',
      '1.0.1': '2026-11-19T00:00:00Z',
    });
    const first = await ask(npmPackage, { config, settings, clock, since: '2026-11-01T00:00:00Z' });
    expect(keysOf(first)).toEqual(['left-pad@1.0.1', 'left-pad@1.1.0']);
    expect(first.events[1]).toEqual({
      key: 'left-pad@1.1.0',
      occurredAt: '2026-11-20T00:00:00.000Z',
      data: {
        package: 'left-pad',
        version: '1.1.0',
        publishedAt: '2026-11-20T00:00:00.000Z',
        tags: [],
        description: 'd',
        license: 'MIT',
      },
    });
    const second = await ask(npmPackage, { config, settings, clock, cursor: first.cursor });
    expect([second.events, second.cursor, second.more]).toEqual([[], first.cursor, undefined]);
    expect(state.asked).toEqual(['/left-pad -', '/left-pad "1"']);
  });

  it('finds a version published out of order within the overlap, and lists nothing it left out before', async () => {
    const { publish, settings } = await registry({ '1.0.0': '2026-10-01T00:00:00Z', '1.1.0': '2026-10-01T06:00:00Z' });
    const first = await ask(npmPackage, { config, settings, clock });
    expect(keysOf(first)).toEqual([]);
    publish({});
    const touched = await ask(npmPackage, { config, settings, clock, cursor: first.cursor });
    expect(keysOf(touched)).toEqual([]);
    publish({ '2.0.0': '2026-11-27T00:00:00Z' });
    const second = await ask(npmPackage, { config, settings, clock, cursor: touched.cursor });
    expect(keysOf(second)).toEqual(['left-pad@2.0.0']);
    publish({ '1.1.1': '2026-11-26T08:00:00Z' });
    const third = await ask(npmPackage, { config, settings, clock, cursor: second.cursor });
    expect(keysOf(third)).toEqual(['left-pad@1.1.1', 'left-pad@2.0.0']);
  });

  it('pages through more versions than asked for, none lost and none twice, and keeps the ETag for the last page', async () => {
    const times = Object.fromEntries(
      Array.from({ length: 25 }, (_, i) => [
        `1.0.${i}`,
        new Date(Date.UTC(2026, 10, 20, 0, Math.floor(i / 4))).toISOString(),
      ]),
    );
    const { state, settings } = await registry(times);
    const keys: unknown[] = [];
    let cursor: unknown = null;
    let pages = 0;
    for (let more = true; more; pages += 1) {
      const page = await ask(npmPackage, {
        config,
        settings,
        clock,
        cursor,
        since: '2026-11-01T00:00:00Z',
        eventsMax: 7,
      });
      keys.push(...keysOf(page));
      ({ cursor } = page);
      more = page.more === true;
    }
    expect([pages, keys.length, new Set(keys).size]).toEqual([4, 25, 25]);
    expect(state.asked.every((line) => line.endsWith(' -'))).toBe(true);
    expect(keysOf(await ask(npmPackage, { config, settings, clock, cursor }))).toEqual([]);
    expect(state.asked.at(-1)).toBe('/left-pad "1"');
  });

  it('needs no more memory of keys with 20,000 versions than with one', async () => {
    const old = Object.fromEntries(
      Array.from({ length: 20_000 }, (_, i) => [`0.0.${i}`, new Date(Date.UTC(2020, 0, 1) + i * 60_000).toISOString()]),
    );
    const { settings } = await registry({ ...old, '1.0.0': '2026-11-25T11:00:00Z' });
    const first = await ask(npmPackage, { config, settings, clock });
    expect(keysOf(first)).toEqual(['left-pad@1.0.0']);
    expect(JSON.stringify(first.cursor).length).toBeLessThan(200);
  });

  it('leaves out unpublished versions, times that are none, and what only a prototype has', async () => {
    const { state, settings } = await registry({ '1.0.0': '2026-11-25T11:00:00Z', '1.0.1': 'yesterday' });
    state.extra = {
      time: JSON.parse(
        '{"1.0.0":"2026-11-25T11:00:00Z","1.0.1":"yesterday","9.9.9":"2026-11-25T11:00:00Z","__proto__":"2026-11-25T11:00:00Z","unpublished":{"time":"x"}}',
      ),
    };
    expect(keysOf(await ask(npmPackage, { config, settings, clock }))).toEqual(['left-pad@1.0.0']);
  });

  it('encodes the slash of a scope and sends a token', async () => {
    const seen: unknown[] = [];
    const url = await serve((request, response) => {
      seen.push(request.url, request.headers.authorization);
      response.end('{"time":{},"versions":{}}');
    });
    const settings = { OUTBOUND_ALLOW: '127.0.0.1' };
    await ask(npmPackage, { config: { package: '@scope/name', registry: url }, settings, auth: { token: 't' } });
    expect(seen).toEqual(['/@scope%2fname', 'Bearer t']);
  });

  it('does not call a registry inside the network that only the user named', async () => {
    const { url } = await registry({});
    const reply = await ask(npmPackage, { config: { ...config, registry: url }, settings: {} });
    expect(reply.error.class).toBe('permanent');
  });

  it('names the setting when nobody said which registry, and does not halt the trigger for it', async () => {
    const { error } = await ask(npmPackage, { config, settings: {} });
    expect(error).toMatchObject({ class: 'connector', message: expect.stringContaining('NPM_REGISTRY is not set') });
  });

  it.each([
    ['no packument', '[]', 'connector'],
    ['no times', '{"versions":{}}', 'connector'],
    ['no JSON', '{', 'connector'],
  ])('says %s is not usable', async (_name, body, errorClass) => {
    const url = await serve((_request, response) => response.end(body));
    expect((await ask(npmPackage, { config, settings: { NPM_REGISTRY: url } })).error.class).toBe(errorClass);
  });

  it('passes the conformance kit', async () => {
    const { settings } = await registry({
      '1.0.0': '2026-11-20T00:00:00Z',
      '1.0.1': '2026-11-20T00:00:00Z',
      '1.1.0': '2026-11-21T00:00:00Z',
    });
    const invalidConfigs = [{}, { package: '../etc' }, { package: 'a', registry: 'file:///x' }, { package: 'a', x: 1 }];
    const checks = await checkConnector(npmPackage, {
      config,
      invalidConfigs,
      settings,
      clock,
      since: '2026-11-01T00:00:00Z',
    });
    expect(checks.flatMap(({ problems }) => problems)).toEqual([]);
    expect(checks).toHaveLength(6);
  });
});
