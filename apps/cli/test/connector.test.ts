/** The scaffold of a connector, checked by the kit and polled by the poll function, by the command line itself. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { onCleanup, run, temporaryFolder } from './helpers.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const env = { ...process.env, TEMPORAL_CONFIG_FILE: '' };

const milkrun = (...args: string[]) => spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8', env });

async function scaffold(): Promise<string> {
  const folder = temporaryFolder();
  const { code, out } = await run(['connector', 'new', 'mail-letters', '--into', folder, '--json']);
  expect([code, JSON.parse(out)]).toEqual([0, { name: 'mail-letters', toolkit: 'mail', files: expect.any(Array) }]);
  return join(folder, 'mail-letters', 'connector.ts');
}

test('a new connector lies outside of this repository and passes the kit; a broken one fails it by name', async () => {
  const file = await scaffold();
  const good = milkrun('connector', 'test', file, '--json');
  expect([good.status, good.stderr]).toEqual([0, '']);
  const checks = JSON.parse(good.stdout) as { connector: string; ok: boolean }[];
  expect(checks.length).toBeGreaterThanOrEqual(6);
  for (const check of checks) expect(check).toMatchObject({ connector: 'mail-letters', ok: true });

  writeFileSync(file, readFileSync(file, 'utf8').replace('key: order.id', 'key: order.id + Math.random()'));
  const broken = milkrun('connector', 'test', file);
  expect(broken.status).toBe(1);
  expect(broken.stdout).toMatch(/FAILED +gives an item the same key every time/);
  expect(broken.stderr).toContain('1 of 6 checks failed');
});

test('CONNECTORS are served by the poll function, and known to the client commands', async () => {
  const file = await scaffold();
  const settings = { ...env, CONNECTORS: file, POLL_FUNCTION_PORT: '0', METRICS_PORT: '0' };
  const child = spawn(process.execPath, [MAIN, 'poll-function'], {
    env: settings,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onCleanup(() => child.kill('SIGKILL'));
  const endpoint = await endpointOf(child);
  const answer = await fetch(`${endpoint}/2015-03-31/functions/milkrun-poll/invocations`, {
    method: 'POST',
    body: JSON.stringify({
      ...{ trigger: { id: 't', slug: 'mail-letters', version: '1', config: { url: 'ftp://x', shop: 's' } }, auth: {} },
      ...{ cursor: null, limits: { deadlineMs: 5_000, eventsMax: 10 } },
    }),
  });
  expect(await answer.json()).toMatchObject({ error: { class: 'permanent', message: expect.stringContaining('url') } });

  const line = {
    trigger: { deduplicationKey: 'k', toolkit: 'mail', slug: 'mail-letters', connectionId: 'c', config: {} },
  };
  const dry = spawnSync(process.execPath, [MAIN, 'import', '-', '--dry-run'], {
    ...{ encoding: 'utf8', env: settings, input: JSON.stringify(line) },
  });
  expect([dry.status, dry.stderr]).toEqual([2, expect.stringContaining('line 1: trigger.config: url')]);
});

test.each([
  [['new', 'Bad Name'], 'is no name'],
  [['test', 'no-such.ts'], 'can not be loaded'],
])('connector %j is refused with a sentence', (args, message) => {
  const { status, stderr } = milkrun('connector', ...args);
  expect([status, stderr]).toEqual([2, expect.stringContaining(message)]);
});

test('a scaffold never writes over a folder', async () => {
  const file = await scaffold();
  const folder = join(file, '../..');
  expect(await run(['connector', 'new', 'mail-letters', '--into', folder])).toMatchObject({ code: 2 });
});

/** The address of its start-up line. */
async function endpointOf(child: ChildProcess): Promise<string> {
  let text = '';
  for await (const chunk of child.stdout as NodeJS.ReadableStream) {
    text += String(chunk);
    const [, found] = /"poll-function":"(http:[^"]+)"/.exec(text) ?? [];
    if (found !== undefined) return found;
  }
  throw new Error(`the poll function ended: ${text}`);
}
