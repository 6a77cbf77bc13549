/** A control plane made of node:http, scripted per test: real sockets, no mocks. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type ControlPlaneOptions, createControlPlane } from '@milkrun/control-plane';
import { type ConnectionAsk, type Log, type Metrics, noLog, noMetrics, systemClock, systemRng } from '@milkrun/core';

export interface Call {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

export type Script = (call: Call, response: ServerResponse, request: IncomingMessage) => void;

/** Starts the stand-in; `calls` fills up as requests come in. Ends with `await using`. */
export async function standIn(script: Script) {
  const calls: Call[] = [];
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const call = {
        method: request.method ?? '',
        url: request.url ?? '',
        headers: request.headers,
        body: Buffer.concat(parts).toString(),
      };
      calls.push(call);
      script(call, response, request);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const clients: { close(): Promise<void> }[] = [];
  return {
    url,
    calls,
    client(options: Partial<ControlPlaneOptions> = {}) {
      const made = createControlPlane({ url, key: 'k', clock: systemClock, rng: systemRng, ...options });
      clients.push(made);
      return made;
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) await client.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export const json = (
  response: ServerResponse,
  body: unknown,
  status = 200,
  headers: Record<string, string> = {},
): void => {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text);
};

const TRIGGER = '0190b5b0-0000-7000-8000-000000000001';

export const ask = (n: number | string, more: Partial<ConnectionAsk> = {}): ConnectionAsk => ({
  connectionId: `c${n}`,
  tenantId: 't1',
  toolkit: 'npm',
  triggerIds: [TRIGGER],
  ...more,
});

export const asks = (count: number, more: Partial<ConnectionAsk> = {}): ConnectionAsk[] =>
  Array.from({ length: count }, (_, n) => ask(n, more));

/** What an honest control plane answers for one ask. */
export const active = ({ connectionId, tenantId }: { connectionId: string; tenantId: string }, more = {}) => ({
  connectionId,
  tenantId,
  status: 'active',
  auth: { type: 'bearer', token: connectionId },
  ...more,
});

export const asked = (call: Call): ConnectionAsk[] => JSON.parse(call.body).connections;

/** Counts metrics and error lines. */
export function recorder() {
  const counts = new Map<string, number>();
  const errors: string[] = [];
  const metrics: Metrics = {
    ...noMetrics,
    count: (name, value = 1, tags = {}) => {
      const key = `${name}${Object.values(tags)
        .map((tag) => `:${tag}`)
        .join('')}`;
      counts.set(key, (counts.get(key) ?? 0) + value);
    },
  };
  const log: Log = { ...noLog, error: (_fields, event) => void errors.push(event) };
  return { counts, errors, metrics, log };
}
