/** The local Invoke API under our runner and under the AWS SDK's own client. */
import { GetFunctionConfigurationCommand, InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { afterEach, describe, expect, it } from 'vitest';
import { createPollRunner, type InvokeServer, type InvokeServerOptions, startInvokeServer } from '../src/index.ts';

const MIB = 1024 * 1024;
const KEYS = { accessKeyId: 'AKIDTEST', secretAccessKey: 'a secret/+=', sessionToken: 'token/+==' };
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function start(options: InvokeServerOptions): Promise<{ server: InvokeServer; sdk: LambdaClient }> {
  const server = await startInvokeServer(options);
  const sdk = new LambdaClient({
    endpoint: server.endpoint,
    region: 'us-east-1',
    credentials: KEYS,
    maxAttempts: 1,
  });
  closers.push(
    () => server.close(),
    () => sdk.destroy(),
  );
  return { server, sdk };
}

function runnerFor(server: InvokeServer, credentials = KEYS) {
  const runner = createPollRunner({
    functionName: 'poll:live',
    region: 'us-east-1',
    endpoint: server.endpoint,
    credentials: async () => credentials,
    width: 20,
  });
  closers.push(() => runner.close());
  return runner;
}

const json = (payload: Uint8Array | undefined): unknown => JSON.parse(Buffer.from(payload ?? []).toString());
const poll = { toolkit: 'npm', body: '{"cursor":"äö"}', deadlineMs: 20_000 };

describe('local Invoke API', () => {
  it('runs the handler for both clients, signed by both', async () => {
    const { server, sdk } = await start({
      credentials: KEYS,
      handler: (event, context) => ({
        events: [{ key: context.invokedFunctionArn, data: context.functionName }],
        cursor: (event as { cursor: string }).cursor,
      }),
    });
    const answer = await sdk.send(new InvokeCommand({ FunctionName: 'poll:live', Payload: poll.body }));
    expect([answer.StatusCode, answer.FunctionError, answer.ExecutedVersion]).toEqual([200, undefined, '$LATEST']);
    const expected = [{ key: 'arn:aws:lambda:us-east-1:000000000000:function:poll:live', data: 'poll' }];
    expect(json(answer.Payload)).toEqual({ events: expected, cursor: 'äö' });
    expect(await runnerFor(server).poll(poll)).toMatchObject({ code: 'ok', page: { items: expected, cursor: '"äö"' } });
  });

  it.each([
    ['another key', { ...KEYS, accessKeyId: 'AKIDOTHER' }],
    ['another secret', { ...KEYS, secretAccessKey: 'wrong' }],
    ['another token', { ...KEYS, sessionToken: 'wrong' }],
  ])('refuses %s', async (_name, credentials) => {
    const { server } = await start({ credentials: KEYS, handler: () => ({}) });
    const reply = await runnerFor(server, credentials).poll(poll);
    expect(reply).toMatchObject({ code: 'poll.unavailable', message: expect.stringContaining('403') });
  });

  it('answers thrown errors, time-outs, unprintable and oversized results as Lambda does', async () => {
    const stuck = Promise.withResolvers<void>();
    closers.push(stuck.resolve);
    const results: Record<string, () => unknown> = {
      throws: () => {
        throw new TypeError('broken');
      },
      rejects: () => Promise.reject(new Error('later')),
      throwsText: () => Promise.reject('text'),
      hangs: () => stuck.promise,
      cyclic: () => {
        const loop: Record<string, unknown> = {};
        loop.loop = loop;
        return loop;
      },
      big: () => 'x'.repeat(6 * MIB + 100),
      nothing: () => undefined,
    };
    const { sdk } = await start({
      handler: (event) => results[String(event)]?.(),
      functions: { poll: { timeoutMs: 60 } },
    });
    const errorOf = async (name: string): Promise<unknown> => {
      const { FunctionError, Payload } = await sdk.send(
        new InvokeCommand({ FunctionName: 'poll', Payload: JSON.stringify(name) }),
      );
      const body = json(Payload) as { errorType?: string } | null;
      return [FunctionError, body?.errorType];
    };
    expect(await errorOf('throws')).toEqual(['Unhandled', 'TypeError']);
    expect(await errorOf('rejects')).toEqual(['Unhandled', 'Error']);
    expect(await errorOf('throwsText')).toEqual(['Unhandled', 'string']);
    expect(await errorOf('hangs')).toEqual(['Unhandled', 'Sandbox.Timedout']);
    expect(await errorOf('cyclic')).toEqual(['Unhandled', 'Runtime.MarshalError']);
    expect(await errorOf('big')).toEqual(['Unhandled', 'Function.ResponseSizeTooLarge']);
    expect(await errorOf('nothing')).toEqual([undefined, undefined]);
  });

  it('refuses unknown functions, large and broken requests by their AWS names', async () => {
    const { server, sdk } = await start({ handler: () => ({}), functions: { poll: {} } });
    const nameOf = (command: InvokeCommand): Promise<unknown> =>
      sdk.send(command).then(
        () => 'answered',
        (error: Error) => error.name,
      );
    expect(await nameOf(new InvokeCommand({ FunctionName: '__proto__' }))).toBe('ResourceNotFoundException');
    expect(await nameOf(new InvokeCommand({ FunctionName: 'other' }))).toBe('ResourceNotFoundException');
    expect(await nameOf(new InvokeCommand({ FunctionName: 'poll', Payload: '{' }))).toBe(
      'InvalidRequestContentException',
    );
    const large = Buffer.alloc(6 * MIB + 1, ' ');
    expect(await nameOf(new InvokeCommand({ FunctionName: 'poll', Payload: large }))).toBe('RequestTooLargeException');
    const stranger = await fetch(`${server.endpoint}/other`);
    expect(stranger.status).toBe(404);
  });

  it('throttles above reserved and account concurrency, each with its reason', async () => {
    const free = Promise.withResolvers<void>();
    const began = Promise.withResolvers<void>();
    let running = 0;
    const { server } = await start({
      concurrency: 2,
      functions: { poll: { concurrency: 1 }, other: {}, third: {} },
      handler: async () => {
        running += 1;
        if (running === 2) began.resolve();
        await free.promise;
        return { events: [], cursor: null };
      },
    });
    const call = (name: string): Promise<Response> =>
      fetch(`${server.endpoint}/2015-03-31/functions/${name}/invocations`, { method: 'POST', body: '{}' });
    const first = call('poll');
    const second = call('other');
    await began.promise;
    const refused = [await call('poll'), await call('third')];
    expect(refused.map(({ status }) => status)).toEqual([429, 429]);
    const reasons = await Promise.all(
      refused.map(async (response) => ((await response.json()) as { Reason: string }).Reason),
    );
    expect(reasons).toEqual(['ReservedFunctionConcurrentInvocationLimitExceeded', 'ConcurrentInvocationLimitExceeded']);
    expect(await runnerFor(server).poll(poll)).toMatchObject({ code: 'poll.throttled', throttle: reasons[0] });
    free.resolve();
    expect([(await first).status, (await second).status, (await call('poll')).status]).toEqual([200, 200, 200]);
    expect(server.running()).toBe(0);
  });

  it('knows DryRun, Event, the log tail and the function’s configuration', async () => {
    const ran = Promise.withResolvers<unknown>();
    const { server, sdk } = await start({
      handler: (event) => ran.resolve(event),
      functions: { poll: { timeoutMs: 33_000 } },
    });
    const dry = await sdk.send(new InvokeCommand({ FunctionName: 'poll', InvocationType: 'DryRun' }));
    expect(dry.StatusCode).toBe(204);
    const event = await sdk.send(new InvokeCommand({ FunctionName: 'poll', InvocationType: 'Event', Payload: '7' }));
    expect([event.StatusCode, await ran.promise]).toEqual([202, 7]);
    const tail = await sdk.send(new InvokeCommand({ FunctionName: 'poll', LogType: 'Tail', Payload: '7' }));
    expect(Buffer.from(tail.LogResult ?? '', 'base64').toString()).toContain('REPORT RequestId');
    const configuration = await sdk.send(new GetFunctionConfigurationCommand({ FunctionName: 'poll' }));
    expect(configuration.Timeout).toBe(33);
    expect(await runnerFor(server).readFunctionTimeout()).toBe(33);
  });

  it('says null for a time-out it may not read', async () => {
    const { server } = await start({ credentials: { ...KEYS, accessKeyId: 'x' }, handler: () => ({}) });
    expect(await runnerFor(server).readFunctionTimeout()).toBeNull();
  });
});
