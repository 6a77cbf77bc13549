/** A hub that lists repositories and a receiver of tasks, over real sockets: who was asked, with which key, how many at once. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { systemClock } from '@milkrun/core';

/** So long a task is at work, that many are at once. */
const WORK_MS = 250;

export interface TaskReceiver {
  readonly origin: string;
  /** How often each `Idempotency-Key` came to `/jobs/{name}`. */
  jobs(name: string): ReadonlyMap<string, number>;
  /** The most requests to `/jobs/{name}` at one moment. */
  atOnce(name: string): number;
  close(): Promise<void>;
}

/** `GET /list/{n}/{stale}` lists n repositories of which the last `stale` are older than a month. */
export async function startTaskReceiver(): Promise<TaskReceiver> {
  const received = new Map<string, { keys: Map<string, number>; open: number; most: number }>();
  const server = createServer(async (request, response) => {
    const [, what, name = '', other = ''] = (request.url ?? '').split('/');
    if (what === 'list') {
      const [n, stale] = [Number(name), Number(other)];
      const repos = Array.from({ length: n }, (_, at) => ({
        slug: `repo-${at}`,
        sbomAgeDays: at < n - stale ? 3 : 31,
      }));
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(repos));
      return;
    }
    const job = received.get(name) ?? { keys: new Map<string, number>(), open: 0, most: 0 };
    received.set(name, job);
    const key = String(request.headers['idempotency-key']);
    job.keys.set(key, (job.keys.get(key) ?? 0) + 1);
    job.open += 1;
    job.most = Math.max(job.most, job.open);
    for await (const _ of request);
    await systemClock.sleep(WORK_MS);
    job.open -= 1;
    response.writeHead(201, { 'content-type': 'application/json' }).end('{}');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    jobs: (name) => received.get(name)?.keys ?? new Map(),
    atOnce: (name) => received.get(name)?.most ?? 0,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
