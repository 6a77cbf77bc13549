/** A real HTTP server on 127.0.0.1 and a handler that may call it. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Clock } from '@milkrun/core';
import { systemClock } from '@milkrun/core';
import { type Connector, createHandler, type PollFailure, type PollResult, type Settings } from '../src/index.ts';

const closers: (() => void)[] = [];

export function closeServers(): void {
  for (const close of closers.splice(0)) close();
}

export async function serve(
  listener: (request: IncomingMessage, response: ServerResponse) => unknown,
): Promise<string> {
  const server = createServer((request, response) => void listener(request, response)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export function clockAt(time: string | number): Clock {
  const ms = typeof time === 'number' ? time : Date.parse(time);
  return { now: () => ms, monotonic: () => ms, sleep: systemClock.sleep };
}

export interface Ask {
  readonly config: unknown;
  readonly auth?: unknown;
  readonly cursor?: unknown;
  readonly since?: string;
  readonly eventsMax?: number;
  readonly deadlineMs?: number;
  readonly settings?: Settings;
  readonly clock?: Clock;
}

/** One poll through the handler and JSON, as the engine does it. Loopback is allowed unless settings are given. */
export async function ask(connector: Connector, input: Ask): Promise<PollResult & PollFailure> {
  const { settings = { OUTBOUND_ALLOW: '127.0.0.0/8' }, clock, config, auth, cursor = null, since } = input;
  const handler = createHandler([connector], { settings, ...(clock === undefined ? {} : { clock }) });
  const request = {
    trigger: { id: 'trigger-1', slug: connector.slug, version: '', config },
    auth,
    cursor,
    since,
    limits: { deadlineMs: input.deadlineMs ?? 20_000, eventsMax: input.eventsMax ?? 100 },
  };
  return JSON.parse(JSON.stringify(await handler(JSON.parse(JSON.stringify(request)))));
}

export const keysOf = ({ events }: PollResult): unknown[] => events.map(({ key }) => key);
