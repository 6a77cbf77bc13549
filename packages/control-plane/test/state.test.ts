/** postState and readChanges: one exchange, classified once. */

import { idempotencyKeyOf, parseChanges } from '@milkrun/control-plane';
import { noLog } from '@milkrun/core';
import { expect, it } from 'vitest';
import { json, recorder, standIn } from './stand-in.ts';

const A = '0190b5b0-0000-7000-8000-00000000000a';
const B = '0190b5b0-0000-7000-8000-00000000000b';

const result = (triggerId: string) => ({
  triggerId,
  leaseEpoch: 3,
  configVersion: 1,
  triggerVersion: '1',
  events: ['{"id":"evt_1","n":12345678901234567890}'],
  last: true,
  pollState: 'opaque "text"',
});
const lifecycle = {
  triggerId: B,
  configVersion: 2,
  state: 'halted',
  code: 'auth.expired',
  at: '2026-01-01T00:00:00Z',
} as const;
const input = { batchId: 'batch-poller:0:x', results: [result(A), result(B)], lifecycle: [lifecycle] };

it('splices events as text and sends the body’s hash as Idempotency-Key', async () => {
  await using server = await standIn((_call, response) => json(response, { results: [] }));
  await server.client().postState(input);
  const [call] = server.calls;
  expect(call?.headers['idempotency-key']).toBe(idempotencyKeyOf(call?.body ?? ''));
  expect(call?.headers.authorization).toBe('Bearer k');
  expect(call?.body).toContain('{"id":"evt_1","n":12345678901234567890}');
  expect(JSON.parse(call?.body ?? '')).toMatchObject({
    batchId: input.batchId,
    results: [{ triggerId: A, leaseEpoch: 3, last: true, pollState: 'opaque "text"' }, { triggerId: B }],
    lifecycle: [lifecycle],
  });
});

it('matches statuses and echoes by id and drops what was not sent or contradicts itself', async () => {
  await using server = await standIn((_call, response) =>
    json(response, {
      results: [
        { triggerId: B.toUpperCase(), status: 'rejected', eventId: 'evt_1', reason: 'too\u0000odd' },
        { triggerId: B, status: 'rejected', eventId: 'evt_2' },
        { triggerId: '0190b5b0-0000-7000-8000-00000000000c', status: 'accepted' },
        { triggerId: A, status: 'accepted' },
        { triggerId: A, status: 'gone' },
        { triggerId: A, status: 'replayed' },
        17,
      ],
      lifecycle: [
        { triggerId: B, at: '2026-01-01T00:00:00.000+00:00' },
        { triggerId: A, at: '2026-01-01T00:00:00Z' },
      ],
    }),
  );
  expect(await server.client().postState(input)).toEqual({
    kind: 'answered',
    statuses: [
      { triggerId: B, status: 'rejected', eventId: 'evt_1', reason: 'too odd' },
      { triggerId: B, status: 'rejected', eventId: 'evt_2' },
    ],
    lifecycle: [{ triggerId: B, at: lifecycle.at }],
  });
});

it.each([
  [410, {}, '', { kind: 'gone' }],
  [400, {}, 'bad', { kind: 'refused', status: 400 }],
  [413, {}, '', { kind: 'refused', status: 413 }],
  [422, {}, '', { kind: 'refused', status: 422 }],
  [500, { 'x-vercel-error': 'FUNCTION_PAYLOAD_TOO_LARGE' }, '', { kind: 'refused' }],
  [401, {}, '', { kind: 'misconfigured', status: 401 }],
  [403, {}, '', { kind: 'misconfigured', status: 403 }],
  [404, {}, '', { kind: 'misconfigured', status: 404 }],
  [302, { location: 'http://127.0.0.1:1/' }, '', { kind: 'misconfigured', status: 302 }],
  [429, { 'retry-after': '7' }, '', { kind: 'unavailable', retryAfterSeconds: 7 }],
  [503, {}, '', { kind: 'unavailable' }],
  [200, {}, 'not json', { kind: 'unavailable' }],
  [204, {}, '', { kind: 'unavailable' }],
])('a status of %s means one thing', async (status, headers, body, expected) => {
  await using server = await standIn((_call, response) => json(response, body, status, headers));
  expect(await server.client().postState(input)).toMatchObject(expected);
});

it('a reset and a hang are unavailable', async () => {
  await using server = await standIn((_call, response) => response.destroy());
  expect(await server.client().postState(input)).toMatchObject({ kind: 'unavailable' });
  await using slow = await standIn(() => {});
  expect(await slow.client({ timeouts: { stateMs: 100 } }).postState(input)).toMatchObject({ kind: 'unavailable' });
});

const change = {
  op: 'upsert',
  triggerId: A,
  configVersion: 1,
  tenantId: 't1',
  toolkit: 'npm',
  slug: 'new-version',
  version: '1',
  config: { package: 'zod' },
  connectionId: 'c1',
  intervalSeconds: 300,
  enabled: true,
  createdAt: '2026-01-01T00:00:00Z',
};

it('reads a page of the feed with its defaults, and 410 as expired', async () => {
  await using server = await standIn((call, response) =>
    call.url.includes('after=old')
      ? json(response, {}, 410)
      : json(response, {
          changes: [change, { op: 'delete', triggerId: B, configVersion: 9, extra: 1 }],
          next: 'n1',
          more: false,
        }),
  );
  const client = server.client();
  expect(await client.readChanges({ after: null, limit: 5, waitSeconds: 2 })).toEqual({
    kind: 'page',
    changes: [
      {
        ...change,
        config: '{"package":"zod"}',
        poll: { dedupe: 'unique', repeatable: true },
        primed: false,
        pollNow: false,
      },
      { op: 'delete', triggerId: B, configVersion: 9 },
    ],
    next: 'n1',
    more: false,
  });
  expect(server.calls[0]?.url).toBe('/triggers/changes?limit=5&wait=2');
  expect(await client.readChanges({ after: 'old', limit: 5, waitSeconds: 0 })).toEqual({ kind: 'expired' });
});

it('asks for a smaller page when one is too large, and leaves a bad record out with an alert', async () => {
  await using server = await standIn((call, response) => {
    const limit = Number(new URL(call.url, 'http://x').searchParams.get('limit'));
    const changes = [change, { ...change, triggerId: 'x' }, { ...change, config: 'text' }];
    json(response, { changes, next: 'n', more: true, padding: 'x'.repeat(limit * 1000) });
  });
  const { log, errors, metrics, counts } = recorder();
  const client = server.client({ answerBytesMax: 300_000, log, metrics });
  const page = await client.readChanges({ after: null, limit: 1000, waitSeconds: 0 });
  expect(page.kind === 'page' && page.changes).toHaveLength(1);
  expect(errors).toEqual(['control_plane.feed_changes_refused']);
  expect(counts.get('polling.feed.refused')).toBe(2);
});

it('leaves out a record that nests too deeply for the parser, and reads the rest of the page', async () => {
  const deep = JSON.stringify({ ...change, config: 0 }).replace(
    '"config":0',
    `"config":{"__proto__":1,"a":${'['.repeat(9_000)}${']'.repeat(9_000)}}`,
  );
  await using server = await standIn((_call, response) =>
    json(response, `{"changes":[${deep},${JSON.stringify(change)}],"next":"n","more":false}`),
  );
  const { metrics, counts } = recorder();
  const page = await server.client({ metrics }).readChanges({ after: null, limit: 1000, waitSeconds: 0 });
  expect(page.kind === 'page' && page.changes).toMatchObject([{ triggerId: change.triggerId }]);
  expect(counts.get('polling.feed.refused')).toBe(1);
});

it.each([
  ['a cursor over 16 KiB', { cursor: 'x'.repeat(16_400) }],
  ['a cursor with NUL', { cursor: { a: '\u0000' } }],
  ['a cursor with a lone surrogate', { cursor: '\ud800' }],
  ['a config that is no object', { config: [] }],
  ['a config 100 levels deep', { config: JSON.parse(`${'{"a":'.repeat(100)}1${'}'.repeat(100)}`) }],
  ['an id of 129 characters', { tenantId: 'x'.repeat(129) }],
  ['an id with a control character', { slug: 'a\nb' }],
  ['a trigger id that is no UUID', { triggerId: 'trigger-1' }],
  ['a version as text', { configVersion: '1' }],
  ['a fractional interval', { intervalSeconds: 0.5 }],
  ['an unknown resume', { resume: 'later' }],
  ['a time without zone', { createdAt: '2026-01-01T00:00:00' }],
])('refuses %s, that record alone', (_name, bad) => {
  const { changes, refused } = parseChanges([{ ...change, ...bad }, change]);
  expect(changes).toHaveLength(1);
  expect(refused).toMatchObject([{ index: 0, reason: expect.stringContaining(Object.keys(bad)[0] ?? '') }]);
});

it('takes an explicit null cursor as a rewind to the start and an absent one as none', () => {
  const { changes } = parseChanges([{ ...change, cursor: null }, change]);
  expect(changes.map((item) => 'cursor' in item && item.cursor)).toEqual(['null', false]);
});

it('keeps its key out of what it logs and answers, however a refusal repeats it', async () => {
  const key = 'mk_engine_0123456789';
  const repeats = [key, `Bearer ${key}`, JSON.stringify({ key }), Buffer.from(`engine:${key}`).toString('base64')];
  for (const [at, said] of repeats.entries()) {
    await using server = await standIn((_call, response) =>
      json(response, `no such key: ${said}`, at % 2 === 0 ? 403 : 422),
    );
    const lines: string[] = [];
    const error = (fields: object): void => void lines.push(JSON.stringify(fields));
    const client = server.client({ key, log: { ...noLog, error } });
    const answers = [
      await client.postState(input),
      await client.fetchConnections([{ connectionId: 'c', tenantId: 't', toolkit: 'x', triggerIds: [A] }]),
      await client.readChanges({ after: null, limit: 1, waitSeconds: 0 }),
    ];
    const seen = JSON.stringify([answers, lines]);
    expect(lines.length).toBeGreaterThan(0);
    expect(seen).toContain('no such key: ');
    for (const part of [key, repeats[3]]) expect(seen).not.toContain(part);
  }
});
