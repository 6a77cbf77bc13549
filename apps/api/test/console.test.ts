/** What the console stands on: its files with their policy, search, and the engine's answers cut to the caller's tenant. */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startTestApi } from './api.ts';

let files = '';
const SCRIPT = 'console.log(1);\n'.repeat(200);

beforeAll(async () => {
  files = await mkdtemp(join(tmpdir(), 'milkrun-console-'));
  await mkdir(join(files, 'assets'));
  await writeFile(join(files, 'index.html'), '<!doctype html><title>Milkrun</title>');
  await writeFile(join(files, 'assets', 'index-abc_1.js'), SCRIPT);
  await writeFile(join(files, 'assets', 'index-abc_1.js.gz'), gzipSync(SCRIPT));
  await writeFile(join(files, 'secret.js'), 'no');
});
afterAll(() => rm(files, { recursive: true, force: true }));

it('serves the page under a policy without anything inline or foreign', async () => {
  await using test = await startTestApi({}, { consoleFiles: files });
  const page = await test.call('GET', '/', undefined, { key: '' });
  expect(page.status).toBe(200);
  expect(page.headers).toMatchObject({ 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' });
  const policy = String(page.headers['content-security-policy']);
  for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]) {
    expect(policy).toContain(part);
  }
  expect(policy).not.toMatch(/unsafe|https?:|data:|\*/);
});

it('serves scripts compressed and for ever, and nothing beside them', async () => {
  await using test = await startTestApi({}, { consoleFiles: files });
  const gzip = { key: '', headers: { 'accept-encoding': 'gzip' } };
  const script = await test.call('GET', '/assets/index-abc_1.js', undefined, gzip);
  expect(script.headers).toMatchObject({
    'content-encoding': 'gzip',
    'cache-control': 'public, max-age=31536000, immutable',
    'content-type': expect.stringContaining('javascript'),
  });
  expect((await test.call('GET', '/assets/index-abc_1.js', undefined, { key: '' })).text).toBe(SCRIPT);
  for (const other of ['/assets/none.js', '/assets/..%2fsecret.js', '/assets/index-abc_1.js.gz', '/secret.js']) {
    expect((await test.call('GET', other)).status, other).toBeGreaterThanOrEqual(400);
  }
});

it('says how to build the console when it is not built', async () => {
  await using test = await startTestApi({}, { consoleFiles: join(files, 'nowhere') });
  const page = await test.call('GET', '/', undefined, { key: '' });
  expect(page.status).toBe(503);
  expect(page.text).toContain('npm start');
});

it('searches triggers by name, key, tag and the beginning of an id, page by page, as text', async () => {
  await using test = await startTestApi();
  const names = ['Alpha one', 'alpha two', '100% sure', 'a_b'];
  const made = new Map<string, string>();
  for (const name of names) made.set(name, (await test.createTrigger({ name, tags: [`t-${name.length}`] })).id);
  const found = async (search: string, more = ''): Promise<string[]> =>
    (await test.call('GET', `/triggers?search=${encodeURIComponent(search)}${more}`)).body.items
      .map(({ name }: { name: string }) => name)
      .sort();
  expect(await found('ALPHA')).toEqual(['Alpha one', 'alpha two']);
  expect(await found('%')).toEqual(['100% sure']);
  expect(await found('a_')).toEqual(['a_b']);
  expect(await found('t-3')).toEqual(['a_b']);
  expect(await found(made.get('a_b') as string)).toEqual(['a_b']);
  expect(await found('npm')).toHaveLength(4);
  expect(await found("' or 1=1 --")).toEqual([]);
  const page = (await test.call('GET', '/triggers?search=alpha&limit=1')).body;
  expect(page.items).toHaveLength(1);
  expect(await found('alpha', `&cursor=${page.next}`)).toEqual(['Alpha one']);
  const other = await test.otherTenant();
  expect((await test.call('GET', '/triggers?search=alpha', undefined, { key: other })).body.items).toEqual([]);
});

it('finds halted triggers, and loses one when its halt is lifted', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger({ name: 'halted' });
  await test.createTrigger({ name: 'well' });
  const sql = postgres(test.url, { max: 1, onnotice: () => {} });
  await sql`insert into trigger_lifecycle (trigger_id, at, state, code, config_version) values (${id}, now(), 'halted', 'receiver_gone', 1)`;
  await sql.end();
  const halted = async (): Promise<string[]> =>
    (await test.call('GET', '/triggers?state=halted')).body.items.map(({ name }: { name: string }) => name);
  expect(await halted()).toEqual(['halted']);
  await test.call('POST', `/triggers/${id}/resume`, {});
  expect(await halted()).toEqual([]);
});

it('shows of the engine what is everybody’s, and of triggers and connections the caller’s own', async () => {
  const asked: string[] = [];
  let triggerId = '';
  const answers: Record<string, () => object> = {
    '/workers': () => ({ items: [{ workerId: 'w', live: true }] }),
    '/shards': () => ({ items: [{ timerShard: 0 }] }),
    '/batches': () => ({ items: [{ batchId: 'b' }] }),
    '/holds': () => ({
      items: [
        { reason: 'maintenance', toolkit: 'npm', tenantId: null, connectionId: null },
        { reason: 'operator', toolkit: null, tenantId: 'other', connectionId: null },
        { reason: 'rate_limited', toolkit: 'npm', tenantId: null, connectionId: 'conn_of_somebody' },
      ],
    }),
    '/migrations': () => ({
      owners: { v2: 2 },
      items: [{ id: 'm', moved: 1, examples: [{ triggerId: 'x', code: 'no_codec' }] }],
    }),
    '/dead-letters': () => ({ items: [2, 1].map((n) => letterOf(String(n), triggerId)) }),
    '/dead-letters/1': () => ({ ...letterOf('1', triggerId), raw: 'e30=' }),
    '/dead-letters/2': () => ({ ...letterOf('2', '0190b5b0-0000-7000-8000-00000000dead'), raw: 'e30=' }),
  };
  const engine = createServer((request, response) => {
    asked.push(request.url ?? '');
    const answer = answers[(request.url ?? '').split('?')[0] as string];
    response.writeHead(answer === undefined ? 404 : 200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(answer?.() ?? {}));
  });
  await new Promise<void>((resolve) => engine.listen(0, '127.0.0.1', resolve));
  try {
    const engineUrl = `http://127.0.0.1:${(engine.address() as AddressInfo).port}`;
    await using test = await startTestApi({ engineUrl });
    triggerId = (await test.createTrigger()).id;
    const itemsOf = async (path: string): Promise<unknown> => (await test.call('GET', path)).body.items;
    expect(await itemsOf('/fleet/workers')).toEqual([{ workerId: 'w', live: true }]);
    expect(await itemsOf('/fleet/shards')).toEqual([{ timerShard: 0 }]);
    expect(await itemsOf('/fleet/batches?ended=true&limit=7')).toEqual([{ batchId: 'b' }]);
    expect(asked.at(-1)).toBe('/batches?ended=true&limit=7');
    expect(await itemsOf('/fleet/holds')).toMatchObject([{ reason: 'maintenance' }]);
    expect((await test.call('GET', '/fleet/migrations')).body).toEqual({
      owners: { v2: 2 },
      items: [{ id: 'm', moved: 1 }],
    });
    const letters = (await test.call('GET', '/dead-letters?limit=1')).body;
    expect(letters).toMatchObject({ items: [{ id: '2' }] });
    expect(asked.at(-1)).toBe('/dead-letters?tenantId=default&limit=2');
    await test.call('GET', `/dead-letters?limit=1&cursor=${letters.next}`);
    expect(asked.at(-1)).toBe('/dead-letters?tenantId=default&limit=2&before=2');
    expect((await test.call('GET', '/dead-letters/1')).body).toMatchObject({ id: '1', raw: 'e30=' });
    expect((await test.call('GET', '/dead-letters/2')).status).toBe(404);
  } finally {
    engine.close();
  }
});

const letterOf = (id: string, triggerId: string) => ({
  id,
  triggerId,
  at: '2026-01-01',
  stage: 'poll',
  code: 'poll.poison',
  reason: 'r',
  eventId: null,
});

it('a dry run of a retry says what would start and leaves the letter where it is', async () => {
  await using test = await startTestApi();
  const rules = [{ id: 'r', task: { type: 'noop' } }];
  const on = (n: number) => [{ event: { type: 'a.b', filters: { n } } }];
  await test.call('POST', '/activity-definitions', { slug: 'one', rules, on: on(1) });
  await test.call('POST', '/activity-definitions', { slug: 'two', rules, on: on(2) });
  const event = { specversion: '1.0', id: '1', source: '/x', type: 'a.b', data: { n: 1 } };
  const letters = { good: '0190b5b0-0000-7000-8000-000000000a01', bad: '0190b5b0-0000-7000-8000-000000000a02' };
  const sql = postgres(test.url, { max: 1, onnotice: () => {} });
  for (const [id, raw, seq] of [
    [letters.good, JSON.stringify(event), 1],
    [letters.bad, 'no json', 2],
  ] as const) {
    await sql`insert into dead_letters (id, tenant_id, stage, event_key, raw, headers, stream_seq, error, tries)
      values (${id}, 'default', 'start', 'k', ${Buffer.from(raw)}, '{}', ${seq}, 'e', 1)`;
  }
  const retry = (id: string, body: object, more = {}) =>
    test.call('POST', `/activity-dead-letters/${id}/retry`, body, more);
  expect(await retry(letters.good, { dry_run: true })).toMatchObject({
    status: 200,
    body: {
      readable: true,
      activities: expect.arrayContaining([
        { slug: 'one', starts: true, reason: null },
        { slug: 'two', starts: false, reason: 'filters.n: is 1, wanted 2' },
      ]),
    },
  });
  expect((await retry(letters.bad, { dry_run: true })).body).toMatchObject({ readable: false, activities: [] });
  const other = await test.otherTenant();
  expect((await retry(letters.good, { dry_run: true }, { key: other })).status).toBe(404);
  expect((await test.call('GET', '/activity-dead-letters')).body.items).toHaveLength(2);
  expect(await sql`select from activity_outbox`).toHaveLength(0);
  expect((await retry(letters.good, {})).status).toBe(202);
  expect((await test.call('GET', '/activity-dead-letters')).body.items).toMatchObject([{ id: letters.bad }]);
  expect(await sql`select from activity_outbox`).toHaveLength(1);
  await sql.end();
});
