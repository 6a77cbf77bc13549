/** fetchConnections against a control plane that misbehaves: every ask gets exactly one answer, its own. */
import type { ConnectionAnswer } from '@milkrun/core';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { active, ask, asked, asks, json, recorder, standIn } from './stand-in.ts';

const codes = (answers: readonly ConnectionAnswer[]) =>
  Object.fromEntries(answers.map(({ connectionId, code }) => [connectionId, code]));

it('matches by id: a shuffled answer gives each connection its own auth', async () => {
  await using server = await standIn((call, response) =>
    json(response, {
      connections: asked(call)
        .reverse()
        .map((item) => active(item)),
    }),
  );
  const answers = await server.client().fetchConnections(asks(50));
  expect(answers).toHaveLength(50);
  for (const answer of answers) {
    expect(answer.code === 'ok' && JSON.parse(answer.auth).token).toBe(answer.connectionId);
  }
});

it('lets a missing, a double and an unusable id concern only themselves, and ignores extra ones', async () => {
  await using server = await standIn((call, response) => {
    const [first, missing, double, bad, last] = asked(call).map((item) => active(item));
    json(response, {
      connections: [
        last,
        double,
        { ...bad, auth: 7 },
        double,
        active({ connectionId: 'nobody', tenantId: 't1' }),
        first,
        null,
        missing && 3,
      ],
    });
  });
  const answers = await server.client().fetchConnections(asks(5));
  expect(codes(answers)).toEqual({ c0: 'ok', c1: 'auth.missing', c2: 'auth.missing', c3: 'auth.missing', c4: 'ok' });
});

it.each([
  ['5,000 deep', 5_000],
  ['200,000 deep', 200_000],
])('lets auth that nests %s concern only its own connection, whatever stands beside it', async (_how, levels) => {
  const deep = `{"list":${'['.repeat(levels)}"]}"${']'.repeat(levels)}}`;
  const careful = '{"__proto__":{"polluted":1},"digits":123456789012345678901234567890,"text":"[\\"{"}';
  await using server = await standIn((_call, response) =>
    json(
      response,
      `{"connections":[{"connectionId":"c0","tenantId":"t1","status":"active","auth":${careful}},` +
        `{"connectionId":"c1","tenantId":"t1","status":"active","auth":${deep}},` +
        `{"connectionId":"c2","tenantId":"t1","status":"active","auth":{"last":true}}]}`,
    ),
  );
  const answers = await server.client().fetchConnections(asks(3));
  expect(codes(answers)).toEqual({ c0: 'ok', c1: 'auth.missing', c2: 'ok' });
  const [first, , last] = answers.map((answer) => (answer.code === 'ok' ? answer.auth : ''));
  expect([first, last]).toEqual(['{"digits":123456789012345678901234567890,"text":"[\\"{"}', '{"last":true}']);
});

it('answers not_found and alerts when another tenant’s answer comes for a connection', async () => {
  await using server = await standIn((call, response) =>
    json(response, {
      connections: asked(call).map((item) => active(item.connectionId === 'c1' ? { ...item, tenantId: 't2' } : item)),
    }),
  );
  const { metrics, log, counts, errors } = recorder();
  const answers = await server.client({ metrics, log }).fetchConnections(asks(3));
  expect(codes(answers)).toEqual({ c0: 'ok', c1: 'auth.not_found', c2: 'ok' });
  expect(errors).toContain('control_plane.foreign_tenant_answer');
  expect(counts.get('polling.auth.foreign_answers')).toBe(1);
});

it('keeps equal connection ids of two tenants apart', async () => {
  await using server = await standIn((call, response) =>
    json(response, { connections: asked(call).map((item) => active(item, { auth: { of: item.tenantId } })) }),
  );
  const answers = await server.client().fetchConnections([ask(1), ask(1, { tenantId: 't2' })]);
  expect(answers.map((answer) => answer.code === 'ok' && [answer.tenantId, JSON.parse(answer.auth).of])).toEqual([
    ['t1', 't1'],
    ['t2', 't2'],
  ]);
});

it('asks once per connection and tenant, and never mixes toolkits in a call', async () => {
  await using server = await standIn((call, response) =>
    json(response, { connections: asked(call).map((item) => active(item)) }),
  );
  const answers = await server.client().fetchConnections([ask(1), ask(1), ask(2, { toolkit: 'http' }), ask(3)]);
  expect(answers).toHaveLength(3);
  expect(server.calls.map((call) => asked(call).map(({ toolkit }) => toolkit)).sort()).toEqual([
    ['http'],
    ['npm', 'npm'],
  ]);
});

it.each([
  ['413', 413, {}, ''],
  ['500 with a header', 500, { 'x-vercel-error': 'FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE' }, ''],
  ['500 with a body', 500, {}, 'An error: FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE'],
  ['400 with a body', 400, {}, '{"error":{"code":"FUNCTION_PAYLOAD_TOO_LARGE"}}'],
  ['200 with an error text', 200, {}, 'FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE'],
])(
  'halves on too large said as %s, and names the one that is too large alone',
  async (_name, status, headers, body) => {
    await using server = await standIn((call, response) => {
      if (asked(call).some(({ connectionId }) => connectionId === 'c7')) json(response, body, status, headers);
      else json(response, { connections: asked(call).map((item) => active(item)) });
    });
    const { metrics, counts } = recorder();
    const answers = await server.client({ metrics }).fetchConnections(asks(40));
    expect(answers.filter(({ code }) => code === 'ok')).toHaveLength(39);
    expect(answers.find(({ connectionId }) => connectionId === 'c7')?.code).toBe('auth.payload_too_large');
    expect(counts.get('polling.auth.halvings')).toBeGreaterThanOrEqual(4);
  },
);

it('halves when an answer of 6 MB passes the read bound', async () => {
  await using server = await standIn((call, response) =>
    json(response, {
      connections: asked(call).map((item) => active(item, { padding: 'x'.repeat(600_000) })),
    }),
  );
  const answers = await server.client({ answerBytesMax: 1_000_000 }).fetchConnections(asks(10));
  expect(codes(answers)).toEqual(Object.fromEntries(asks(10).map(({ connectionId }) => [connectionId, 'ok'])));
});

it('one giant does not make all later calls small', async () => {
  await using server = await standIn((call, response) => {
    if (asked(call).some(({ connectionId }) => connectionId === 'c0')) json(response, '', 413);
    else json(response, { connections: asked(call).map((item) => active(item)) });
  });
  const client = server.client();
  await client.fetchConnections(asks(100));
  const before = server.calls.length;
  await client.fetchConnections(asks(100).map((item) => ({ ...item, connectionId: `d${item.connectionId}` })));
  expect(server.calls.length - before).toBe(2);
});

it('halving makes at most 4·⌈n/k⌉ + 8·log2 100 calls and answers each ask once, whatever the limit', async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 700 }), fc.integer({ min: 1, max: 120 }), async (n, k) => {
      await using server = await standIn((call, response) => {
        if (asked(call).length > k) json(response, 'FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE', 500);
        else json(response, { connections: asked(call).map((item) => active(item)) });
      });
      const seen: string[] = [];
      const onAnswers = (part: readonly ConnectionAnswer[]): void => {
        seen.push(...part.map(({ connectionId }) => connectionId));
      };
      const answers = await server.client().fetchConnections(asks(n), { onAnswers });
      expect(new Set(answers.map(({ connectionId }) => connectionId)).size).toBe(n);
      expect(answers.every(({ code }) => code === 'ok')).toBe(true);
      expect(seen).toHaveLength(n);
      expect(server.calls.length).toBeLessThanOrEqual(4 * Math.ceil(n / k) + 8 * Math.log2(100));
    }),
    { numRuns: 25 },
  );
});

it('a mixed set of giants never loops and never costs a neighbour its answer', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.integer({ min: 0, max: 299 }), { maxLength: 20 }), async (giants) => {
      const giant = new Set(giants.map((n) => `c${n}`));
      await using server = await standIn((call, response) => {
        if (asked(call).some(({ connectionId }) => giant.has(connectionId))) json(response, '', 413);
        else json(response, { connections: asked(call).map((item) => active(item)) });
      });
      const answers = await server.client().fetchConnections(asks(300));
      expect(answers.filter(({ code }) => code === 'auth.payload_too_large')).toHaveLength(giant.size);
      expect(answers.filter(({ code }) => code === 'ok')).toHaveLength(300 - giant.size);
      expect(server.calls.length).toBeLessThanOrEqual(600);
    }),
    { numRuns: 20 },
  );
});

it('retries what is transient and gives up as auth.unavailable', async () => {
  let calls = 0;
  await using server = await standIn((call, response) => {
    calls += 1;
    if (calls === 1) response.destroy();
    else if (calls === 2) json(response, 'oops', 502);
    else json(response, { connections: asked(call).map((item) => active(item)) });
  });
  expect(codes(await server.client().fetchConnections(asks(1)))).toEqual({ c0: 'ok' });
  await using down = await standIn((_call, response) => json(response, '<html>', 503));
  expect(codes(await down.client().fetchConnections(asks(1)))).toEqual({ c0: 'auth.unavailable' });
  expect(down.calls).toHaveLength(3);
});

it('gives up on a control plane that hangs, within its budget', async () => {
  await using server = await standIn(() => {});
  const client = server.client({ timeouts: { connectionsMs: 100, connectionsBudgetMs: 400 } });
  const [answer] = await client.fetchConnections(asks(1));
  expect(answer).toMatchObject({ code: 'auth.unavailable', reason: expect.stringContaining('no answer within') });
});

it('obeys Retry-After for the whole process: the endpoint is left alone', async () => {
  await using server = await standIn((_call, response) => json(response, '', 429, { 'retry-after': '3600' }));
  const client = server.client();
  expect((await client.fetchConnections(asks(1)))[0]).toMatchObject({ code: 'auth.unavailable' });
  const [again] = await client.fetchConnections(asks(1));
  expect(again).toMatchObject({ code: 'auth.unavailable', retryAfterSeconds: expect.any(Number) });
  expect(again?.code !== 'ok' && again?.retryAfterSeconds).toBeGreaterThan(3000);
  expect(server.calls).toHaveLength(1);
});

it('takes a Retry-After date relative to the answer’s own Date', async () => {
  const headers = { date: 'Mon, 01 Jan 2001 00:00:00 GMT', 'retry-after': 'Mon, 01 Jan 2001 02:00:00 GMT' };
  await using server = await standIn((_call, response) => json(response, '', 429, headers));
  const [answer] = await server.client().fetchConnections(asks(1));
  expect(answer?.code !== 'ok' && Math.round(answer?.retryAfterSeconds ?? 0)).toBe(7200);
});

it('counts how long auth lasts from the answer’s own Date: a worker’s wrong clock makes it neither older nor younger', async () => {
  const headers = { date: 'Mon, 01 Jan 2001 00:00:00 GMT' };
  const active = { connectionId: 'c0', tenantId: 't1', status: 'active', auth: {}, expiresAt: '2001-01-01T00:05:00Z' };
  await using server = await standIn((_call, response) => json(response, { connections: [active] }, 200, headers));
  const [answer] = await server.client().fetchConnections(asks(1));
  expect(answer).toMatchObject({ code: 'ok', lastsMs: 300_000 });
});

it('does not retry a refusal, and says so in the log', async () => {
  await using server = await standIn((_call, response) => json(response, { title: 'who are you' }, 401));
  const { log, errors } = recorder();
  expect(codes(await server.client({ log }).fetchConnections(asks(2)))).toEqual({
    c0: 'auth.unavailable',
    c1: 'auth.unavailable',
  });
  expect(server.calls).toHaveLength(1);
  expect(errors).toEqual(['control_plane.conn_batch_refused']);
});

it.each([
  ['invalid JSON', '{"connections":['],
  ['an array', '[]'],
  ['a wrong type', '{"connections":{"c0":1}}'],
  ['nothing', ''],
  ['bytes that are no UTF-8', Buffer.from([0xff, 0xfe]).toString('latin1')],
])('an answer of %s is auth.unavailable, not an exception', async (_name, body) => {
  await using server = await standIn((_call, response) => json(response, body));
  expect(codes(await server.client().fetchConnections(asks(1)))).toEqual({ c0: 'auth.unavailable' });
});

it('keeps opaque auth as written: digits stay, __proto__ goes', async () => {
  const auth = '{"big":12345678901234567890,"__proto__":{"admin":true},"text":"\\u0000"}';
  await using server = await standIn((_call, response) =>
    json(response, `{"connections":[{"connectionId":"c0","tenantId":"t1","status":"active","auth":${auth}}]}`),
  );
  const [answer] = await server.client().fetchConnections(asks(1));
  expect(answer?.code === 'ok' && answer.auth).toBe('{"big":12345678901234567890,"text":"\\u0000"}');
});

it('opens the breaker after failures in a row and closes it with one good probe', async () => {
  let ok = false;
  await using server = await standIn((call, response) =>
    ok ? json(response, { changes: [], next: call.url, more: false }) : json(response, '', 500),
  );
  let now = 0;
  const sleep = async (ms: number): Promise<void> => {
    now += ms;
  };
  const clock = { now: () => 0, monotonic: () => now, sleep };
  const client = server.client({ clock });
  await client.fetchConnections(asks(1));
  await client.fetchConnections(asks(1));
  expect(client.available()).toBe(false);
  const calls = server.calls.length;
  expect(await client.readChanges({ after: null, limit: 1, waitSeconds: 0 })).toMatchObject({ kind: 'unavailable' });
  expect(server.calls).toHaveLength(calls);
  ok = true;
  now += 60_000;
  await client.readChanges({ after: null, limit: 1, waitSeconds: 0 });
  expect(client.available()).toBe(true);
});

it('ends with the caller’s reason when the caller aborts', async () => {
  const controller = new AbortController();
  await using server = await standIn(() => controller.abort(new Error('draining')));
  await expect(server.client().fetchConnections(asks(1), { signal: controller.signal })).rejects.toThrow('draining');
});
