/** From the engine's runner over HTTP through the real connectors and back. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { createPollRunner, LOCAL_CREDENTIALS } from '@milkrun/poll-runner';
import { afterEach, describe, expect, it } from 'vitest';
import { settingsFrom, startPollFunction } from '../src/index.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function runnerAt(endpoint: string) {
  const runner = createPollRunner({
    functionName: 'milkrun-poll',
    region: 'us-east-1',
    endpoint,
    credentials: async () => LOCAL_CREDENTIALS,
    width: 10,
  });
  closers.push(() => runner.close());
  return runner;
}

function poll(config: unknown, cursor: unknown = null) {
  const body = JSON.stringify({
    trigger: { id: '01890000-0000-7000-8000-000000000001', slug: 'synthetic', version: '', config },
    auth: null,
    cursor,
    limits: { deadlineMs: 10_000, eventsMax: 100 },
  });
  return { toolkit: 'synthetic', body, deadlineMs: 10_000 };
}

describe('poll function', () => {
  it('answers pages whose cursor leads on', async () => {
    const running = await startPollFunction();
    closers.push(() => running.stop());
    const runner = runnerAt(running.endpoint);
    const first = await runner.poll(poll({ ratePerMinute: 5 }));
    expect(first).toMatchObject({ code: 'ok', page: { more: false, version: '1' } });
    const cursor = first.code === 'ok' ? JSON.parse(first.page.cursor ?? 'null') : undefined;
    const second = await runner.poll(poll({ ratePerMinute: 5 }, cursor));
    expect(second.code === 'ok' && second.page.items.length).toBeLessThanOrEqual(1);
  });

  it.each([
    ['transient', 'poll.connector_error'],
    ['connector', 'poll.connector_error'],
    ['crash', 'poll.connector_error'],
    ['rate_limited', 'poll.rate_limited'],
    ['auth', 'poll.auth_rejected'],
    ['permanent', 'poll.permanent'],
  ])('carries the failure %s home as %s', async (name, code) => {
    const running = await startPollFunction();
    closers.push(() => running.stop());
    expect(await runnerAt(running.endpoint).poll(poll({ failures: { [name]: 1 } }))).toMatchObject({ code });
  });

  it.each([
    ['not_an_object', 'poll.response_invalid'],
    ['events_no_list', 'poll.response_invalid'],
    ['cursor_too_large', 'poll.response_invalid'],
    ['cursor_with_nul', 'poll.response_invalid'],
    ['cursor_lone_surrogate', 'poll.response_invalid'],
    ['no_cursor', 'poll.response_invalid'],
    ['unknown_class', 'poll.response_invalid'],
    ['answer_too_large', 'poll.too_large'],
    ['answer_over_limit', 'poll.too_large'],
    ['bad_item', 'ok'],
    ['proto', 'ok'],
  ])('lets the engine see the hostile answer %s as %s', async (mode, code) => {
    const running = await startPollFunction();
    closers.push(() => running.stop());
    expect(await runnerAt(running.endpoint).poll(poll({ hostile: { mode } }))).toMatchObject({ code });
  });

  it('runs as a process, says where it is, and ends with status 0 on SIGTERM', async () => {
    const main = fileURLToPath(new URL('../src/main.ts', import.meta.url));
    const env = { ...process.env, POLL_FUNCTION_PORT: '0', LOG_FORMAT: 'json' };
    const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    closers.push(() => child.kill('SIGKILL'));
    let endpoint: string | undefined;
    for await (const line of createInterface({ input: child.stdout })) {
      endpoint = (JSON.parse(line) as Record<string, string>)['poll-function'];
      if (endpoint !== undefined) break;
    }
    expect(await runnerAt(endpoint ?? '').poll(poll({}))).toMatchObject({ code: 'ok' });
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });
});

describe('settings', () => {
  it('are the known names alone, npm’s own registry among them', () => {
    const secret = { AWS_SECRET_ACCESS_KEY: 's' };
    expect(settingsFrom({ ...secret, npm_config_registry: 'http://a/' })).toEqual({ NPM_REGISTRY: 'http://a/' });
    expect(
      settingsFrom({ ...secret, NPM_REGISTRY: 'http://b/', npm_config_registry: 'http://a/', OUTBOUND_ALLOW: 'c' }),
    ).toEqual({
      NPM_REGISTRY: 'http://b/',
      OUTBOUND_ALLOW: 'c',
    });
  });
});
