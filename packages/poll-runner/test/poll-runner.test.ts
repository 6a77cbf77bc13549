/** The runner over real HTTP: a server whose misbehaviour the test scripts, byte by byte where needed. */
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { createPollRunner, type LambdaPollRunner, LOCAL_CREDENTIALS, type PollRunnerOptions } from '../src/index.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function httpServer(listener: RequestListener): Promise<string> {
  const server = createHttpServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A server that answers every request on a connection with raw bytes, or does with the socket as it likes. */
async function rawServer(onRequest: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('data', () => onRequest(socket));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function runnerAt(endpoint: string, options: Partial<PollRunnerOptions> = {}): LambdaPollRunner {
  const runner = createPollRunner({
    functionName: 'poll',
    region: 'us-east-1',
    endpoint,
    credentials: async () => LOCAL_CREDENTIALS,
    width: 4,
    ...options,
  });
  closers.push(() => runner.close());
  return runner;
}

const request = { toolkit: 'npm', body: '{"trigger":{}}', deadlineMs: 20_000 };
const EMPTY = '{"events":[],"cursor":null}';
const answering =
  (status: number, headers: Record<string, string>, body: string | Buffer): RequestListener =>
  (_request, response) => {
    response.writeHead(status, headers).end(body);
  };

describe('an answer', () => {
  it('that is a page is read, and the call went out as the Invoke API wants it', async () => {
    const seen: unknown[] = [];
    const endpoint = await httpServer(async (incoming, response) => {
      const body = (await incoming.toArray()).join('');
      seen.push(incoming.method, incoming.url, body, incoming.headers.authorization?.split(' ')[0]);
      response.end(EMPTY);
    });
    const runner = runnerAt(endpoint, { functionName: 'poll-{toolkit}:live' });
    expect(await runner.poll(request)).toEqual({
      code: 'ok',
      page: { items: [], cursor: null, more: false },
      bytes: EMPTY.length,
    });
    expect(seen).toEqual([
      'POST',
      '/2015-03-31/functions/poll-npm%3Alive/invocations',
      request.body,
      'AWS4-HMAC-SHA256',
    ]);
  });

  it.each([
    [
      'function error',
      200,
      { 'X-Amz-Function-Error': 'Unhandled' },
      '{"errorType":"E","errorMessage":"m"}',
      {
        code: 'poll.connector_error',
        message: 'E: m',
      },
    ],
    [
      'function error of no shape',
      200,
      { 'X-Amz-Function-Error': 'Handled' },
      'oops',
      { code: 'poll.connector_error' },
    ],
    [
      'function’s own time-out',
      200,
      { 'X-Amz-Function-Error': 'Unhandled' },
      '{"errorMessage":"1 Task timed out after 3.00 seconds"}',
      { code: 'poll.timeout' },
    ],
    [
      'throttle',
      429,
      { 'Retry-After': '7' },
      '{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded"}',
      {
        code: 'poll.throttled',
        throttle: 'ReservedFunctionConcurrentInvocationLimitExceeded',
        retryAfterSeconds: 7,
      },
    ],
    [
      'throttle until a date',
      429,
      { 'Retry-After': 'Wed, 25 Nov 2026 05:01:30 GMT', Date: 'Wed, 25 Nov 2026 05:00:00 GMT' },
      '',
      {
        code: 'poll.throttled',
        retryAfterSeconds: 90,
      },
    ],
    [
      'throttle by type',
      400,
      { 'X-Amzn-ErrorType': 'ThrottlingException:http://x/' },
      '{}',
      { code: 'poll.throttled' },
    ],
    ['500', 500, {}, '{"message":"boom"}', { code: 'poll.unavailable' }],
    ['502 with a page in it', 502, {}, EMPTY, { code: 'poll.unavailable' }],
    ['redirect', 307, { Location: 'http://127.0.0.1:1/' }, '', { code: 'poll.unavailable' }],
    [
      'missing permission',
      403,
      { 'X-Amzn-ErrorType': 'AccessDeniedException' },
      '{"Message":"no"}',
      { code: 'poll.unavailable' },
    ],
    ['missing function', 404, { 'X-Amzn-ErrorType': 'ResourceNotFoundException' }, '{}', { code: 'poll.unavailable' }],
    ['request too large', 413, {}, '{}', { code: 'poll.permanent' }],
    [
      'request not JSON',
      400,
      { 'X-Amzn-ErrorType': 'InvalidRequestContentException' },
      '{}',
      { code: 'poll.permanent' },
    ],
    ['invalid JSON', 200, {}, '{"events":', { code: 'poll.response_invalid' }],
    ['wrong types', 200, {}, '{"events":5,"cursor":null}', { code: 'poll.response_invalid' }],
    ['nothing', 200, {}, '', { code: 'poll.response_invalid' }],
    [
      'compressed bytes nobody asked for',
      200,
      { 'Content-Encoding': 'gzip' },
      Buffer.from([31, 139, 8]),
      { code: 'poll.response_invalid' },
    ],
    [
      'of announced size too large',
      200,
      { 'Content-Length': '6000000' },
      Buffer.alloc(6_000_000),
      { code: 'poll.too_large' },
    ],
    [
      'of unannounced size too large',
      200,
      { 'Transfer-Encoding': 'chunked' },
      Buffer.alloc(6_000_000),
      { code: 'poll.too_large' },
    ],
  ])('%s', async (_name, status, headers, body, expected) => {
    const runner = runnerAt(await httpServer(answering(status, headers as unknown as Record<string, string>, body)));
    expect(await runner.poll(request)).toMatchObject(expected);
    expect(runner.inFlight()).toBe(0);
  });

  it('of exactly the limit is read', async () => {
    const body = EMPTY.padEnd(1024 * 1024, ' ');
    const runner = runnerAt(await httpServer(answering(200, {}, body)));
    expect(await runner.poll(request)).toMatchObject({ code: 'ok', bytes: 1024 * 1024 });
  });
});

describe('a connection', () => {
  const head = 'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n';
  it.each<[string, (socket: Socket) => void]>([
    ['reset before the answer', (socket) => socket.resetAndDestroy()],
    ['closed before the answer', (socket) => socket.end()],
    ['reset amid the body', (socket) => socket.write(`${head}\r\n{"events"`, () => socket.resetAndDestroy())],
    ['closed amid the body', (socket) => socket.end(`${head}\r\n{"events"`)],
    ['with two lengths', (socket) => socket.end(`${head}Content-Length: 5\r\n\r\n${EMPTY}`)],
    ['with length and chunks', (socket) => socket.end(`${head}Transfer-Encoding: chunked\r\n\r\n${EMPTY}`)],
    ['that is not HTTP', (socket) => socket.end('SSH-2.0-OpenSSH\r\n\r\n')],
    ['with endless headers', (socket) => socket.end(`${head}X: ${'x'.repeat(200_000)}\r\n\r\n`)],
  ])('%s is the platform’s failure', async (_name, misbehave) => {
    const runner = runnerAt(await rawServer(misbehave));
    expect((await runner.poll(request)).code).toBe('poll.unavailable');
  });

  it('refused is the platform’s failure', async () => {
    const endpoint = await httpServer(() => {});
    await closers.pop()?.();
    expect((await runnerAt(endpoint).poll(request)).code).toBe('poll.unavailable');
  });

  it('is kept for the next call', async () => {
    const ports = new Set<number | undefined>();
    const endpoint = await httpServer((incoming, response) => {
      ports.add(incoming.socket.remotePort);
      response.end(EMPTY);
    });
    const runner = runnerAt(endpoint, { width: 1 });
    for (let i = 0; i < 5; i += 1) await runner.poll(request);
    expect(ports.size).toBe(1);
  });
});

describe('the deadline', () => {
  it('ends a call that hangs, and one that drips', async () => {
    const hanging = runnerAt(await httpServer(() => {}));
    expect((await hanging.poll({ ...request, deadlineMs: 50 })).code).toBe('poll.timeout');
    const dripping = runnerAt(
      await httpServer((_incoming, response) => {
        response.writeHead(200);
        const drip = setInterval(() => response.write(' '), 5);
        response.on('close', () => clearInterval(drip));
      }),
    );
    expect((await dripping.poll({ ...request, deadlineMs: 100 })).code).toBe('poll.timeout');
    expect([hanging.inFlight(), dripping.inFlight()]).toEqual([0, 0]);
  });

  it('is the platform’s failure while there is no connection to be had', async () => {
    let calls = 0;
    const arrived = Promise.withResolvers<void>();
    const endpoint = await httpServer(() => {
      calls += 1;
      arrived.resolve();
    });
    const runner = runnerAt(endpoint, { width: 1 });
    const stop = new AbortController();
    const first = runner.poll({ ...request, signal: stop.signal });
    await arrived.promise;
    expect((await runner.poll({ ...request, deadlineMs: 30 })).code).toBe('poll.unavailable');
    stop.abort();
    expect([(await first).code, calls]).toEqual(['aborted', 1]);
  });

  it('that has passed lets no call out', async () => {
    let calls = 0;
    const runner = runnerAt(
      await httpServer(() => {
        calls += 1;
      }),
    );
    for (const deadlineMs of [0, -5, Number.NaN]) {
      expect((await runner.poll({ ...request, deadlineMs })).code).toBe('poll.unavailable');
    }
    expect(calls).toBe(0);
  });
});

describe('abort', () => {
  it('ends calls on their way and those that have not begun, with one signal for all', async () => {
    const stop = new AbortController();
    let calls = 0;
    const arrived = Promise.withResolvers<void>();
    const endpoint = await httpServer(() => {
      calls += 1;
      if (calls === 2) arrived.resolve();
    });
    const runner = runnerAt(endpoint, { width: 2 });
    const replies = Array.from({ length: 5 }, () => runner.poll({ ...request, signal: stop.signal }));
    await arrived.promise;
    stop.abort();
    expect(new Set((await Promise.all(replies)).map(({ code }) => code))).toEqual(new Set(['aborted']));
    expect(await runner.poll({ ...request, signal: stop.signal })).toEqual({ code: 'aborted' });
    expect([calls, runner.inFlight()]).toEqual([2, 0]);
  });
});

describe('the breaker', () => {
  it('stops calling a platform that only fails, and resumes with one probe', async () => {
    let calls = 0;
    let healthy = false;
    const endpoint = await httpServer((_incoming, response) => {
      calls += 1;
      response.writeHead(healthy ? 200 : 503).end(EMPTY);
    });
    let now = 0;
    const clock = { now: () => Date.now(), monotonic: () => now, sleep: () => Promise.resolve() };
    const runner = runnerAt(endpoint, { clock, breaker: { failures: 3, spanMs: 0, pauseMs: 1_000 } });
    for (let i = 0; i < 5; i += 1) expect((await runner.poll(request)).code).toBe('poll.unavailable');
    expect([runner.available(), calls]).toEqual([false, 3]);
    now += 1_000;
    healthy = true;
    const replies = await Promise.all(Array.from({ length: 4 }, () => runner.poll(request)));
    expect([replies.map(({ code }) => code), runner.available()]).toEqual([['ok', 'ok', 'ok', 'ok'], true]);
  });

  it('is not opened by refusals, throttles or failing connectors', async () => {
    const statuses = [403, 404, 429, 200];
    let calls = 0;
    const endpoint = await httpServer((_incoming, response) => {
      response.writeHead(statuses[calls++ % 4] ?? 200, { 'X-Amz-Function-Error': 'Unhandled' }).end('{}');
    });
    const runner = runnerAt(endpoint, { breaker: { failures: 1, spanMs: 0 } });
    for (let i = 0; i < 8; i += 1) await runner.poll(request);
    expect([runner.available(), calls]).toEqual([true, 8]);
  });
});

describe('credentials', () => {
  it('that cannot be had are the platform’s failure and no call', async () => {
    let calls = 0;
    const endpoint = await httpServer(() => {
      calls += 1;
    });
    const runner = runnerAt(endpoint, { credentials: () => Promise.reject(new Error('expired sso')) });
    expect([(await runner.poll(request)).code, calls]).toEqual(['poll.unavailable', 0]);
  });

  it('are signed by the server’s clock once it has refused ours', async () => {
    const dates: string[] = [];
    const endpoint = await httpServer((incoming, response) => {
      dates.push(String(incoming.headers['x-amz-date']).slice(0, 8));
      response.writeHead(403, { Date: 'Mon, 03 Jan 2000 00:00:00 GMT' }).end('{}');
    });
    const runner = runnerAt(endpoint);
    await runner.poll(request);
    await runner.poll(request);
    expect(dates[1]).toBe('20000103');
    expect(dates[0]).not.toBe('20000103');
  });
});

describe('settings', () => {
  const MIB = 1024 * 1024;
  it.each<[string, Partial<PollRunnerOptions>]>([
    ['a budget below width × limit', { width: 100, byteBudget: 99 * MIB }],
    ['an answer limit above Lambda’s', { answerBytesMax: 6 * MIB + 1 }],
    ['no width', { width: 0 }],
    ['a name that is no function', { functionName: 'a/b' }],
  ])('refuse %s', (_name, options) => {
    expect(() => runnerAt('http://127.0.0.1:1', options)).toThrow(RangeError);
  });

  it('refuse a toolkit that is no part of a function name, and a request Lambda never takes, without a call', async () => {
    let calls = 0;
    const runner = runnerAt(
      await httpServer(() => {
        calls += 1;
      }),
      { functionName: 'poll-{toolkit}' },
    );
    expect((await runner.poll({ ...request, toolkit: '../x' })).code).toBe('poll.permanent');
    expect((await runner.poll({ ...request, body: 'x'.repeat(6 * MIB + 1) })).code).toBe('poll.permanent');
    expect(calls).toBe(0);
  });
});
