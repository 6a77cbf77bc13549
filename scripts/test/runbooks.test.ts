/**
 * The commands of the runbooks, run: by the real command line against the real operations API over a real workerdb. What
 * goes to the control plane is answered by a stand-in.
 */
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { runCli } from '../../apps/cli/src/program.ts';
import { createEngineApi } from '../../apps/worker/src/engine-api.ts';
import { noLog } from '../../packages/core/src/index.ts';
import { createDatabase } from '../../packages/testkit/src/index.ts';
import { openWorkerDb, type WorkerDb } from '../../packages/workerdb/src/index.ts';

const read = (path: string): string => readFileSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)), 'utf8');
const RUNBOOKS = read('docs/runbooks.md');
const PAGES = RUNBOOKS.split(/^## /m).slice(1);
const commands = PAGES.flatMap((page) => {
  const title = page.slice(0, page.indexOf('\n'));
  const blocks = [...page.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, text = '']) => text);
  return blocks.flatMap((text) => text.trim().split('\n')).map((command) => [title, command] as const);
});

const ID = '0190b5b0-0000-7000-8000-000000000001';
let db: WorkerDb;
let engine: ReturnType<typeof createEngineApi>;
let api: Server;
let env: Record<string, string>;

beforeAll(async () => {
  db = await openWorkerDb({ url: await createDatabase(inject('pgUrl')), connections: 4 });
  await db.ensureTimerShards(1);
  await db.sql`insert into dead_letters (shard, trigger_id, at, stage, code, reason, raw, digest)
    values (0, ${ID}, now(), 'poll', 'poll.item_invalid', 'no key', 'raw', 'digest')`;
  await db.sql`insert into batches (batch_id, timer_shard, planned, started_at) values ('batch-poller:0:1', 0, 0, now())`;
  engine = createEngineApi({
    db,
    // Moving triggers has a runbook of its own, whose commands run in apps/cli.
    migrations: {} as never,
    key: undefined,
    figures: async () => ({ halted: (await db.fleet()).haltedByCode }) as never,
    pushChanges: () => Promise.reject(new Error('no runbook pushes')),
    armAll: async () => undefined,
    inspect: () => db.liveness(),
    repair: () => db.liveness(),
    testTrigger: async () => undefined,
    log: noLog,
    ready: () => true,
    healthy: () => true,
  });
  api = createServer((request, response) => {
    request.resume();
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ id: ID, timeline: [], items: [], next: null }));
  });
  await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve));
  const engineUrl = await engine.listen({ host: '127.0.0.1', port: 0 });
  env = { ENGINE_URL: engineUrl, MILKRUN_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}` };
});
afterAll(async () => {
  await engine?.close();
  await new Promise((resolve) => api.close(resolve));
  await db?.close();
});

test('every page says what it means, what it costs, how to look and what to do, and shows a command', () => {
  expect(PAGES.length).toBeGreaterThan(8);
  for (const page of PAGES) {
    for (const part of ['**Meaning.**', '**Impact.**', '**Diagnosis.**', '**Mitigation.**', '```sh'])
      expect(page).toContain(part);
  }
});

test.each(commands)('A84: %s: %s', async (_, command) => {
  const words = command.replace('BATCH', 'batch-poller:0:1').replace(' ID', ` ${ID}`).split(/\s+/);
  expect(words[0]).toBe('milkrun');
  const [out, err]: [string[], string[]] = [[], []];
  const io = {
    env,
    out: (text: string) => void out.push(text),
    err: (text: string) => void err.push(text),
    readStdin: async () => '',
  };
  const code = await runCli(words.slice(1), io as never);
  expect([code, err.join('')]).toEqual([0, '']);
  expect(out.join('')).not.toBe('');
});
