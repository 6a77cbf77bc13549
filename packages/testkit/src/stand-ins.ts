/**
 * The control plane's two endpoints and Lambda's Invoke API over real sockets. Both are honest until a test scripts them
 * otherwise: a script looks at one call and answers it, or returns undefined to leave it to the honest part.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What a script makes of a call: an HTTP answer, a connection reset, or silence until the caller gives up. */
export type Scripted =
  | {
      readonly status?: number;
      readonly headers?: Readonly<Record<string, string>>;
      /** An object is sent as JSON, a text and bytes as they are. */
      readonly body?: unknown;
    }
  | 'reset'
  | 'silence';

type Maybe<T> = T | undefined | Promise<T | undefined>;

export interface AskedConnection {
  readonly connectionId: string;
  readonly tenantId: string;
  readonly toolkit: string;
  readonly triggerIds: readonly string[];
}

export interface SentResult {
  readonly triggerId: string;
  readonly leaseEpoch: number;
  readonly events: readonly { readonly id: string; readonly data: unknown; readonly triggerid: string }[];
  readonly last: boolean;
  readonly pollState?: string;
}

export interface PollCall {
  readonly trigger: { readonly id: string; readonly version: string; readonly config: Record<string, unknown> };
  readonly auth: unknown;
  readonly cursor: unknown;
  readonly since?: string;
}

interface Server {
  readonly url: string;
  close(): Promise<void>;
}

async function listen(serve: (path: string, body: string, response: ServerResponse) => Promise<void>): Promise<Server> {
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      serve(request.url ?? '', Buffer.concat(parts).toString(), response).catch(() => response.destroy());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function send(response: ServerResponse, scripted: Scripted): void {
  if (scripted === 'silence') return;
  if (scripted === 'reset') {
    response.socket?.resetAndDestroy();
    return;
  }
  const { status = 200, headers = {}, body = '' } = scripted;
  const isRaw = typeof body === 'string' || Buffer.isBuffer(body);
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(isRaw ? body : JSON.stringify(body));
}

/** A control plane that keeps what it accepted, by event id. */
export async function startControlPlaneStandIn() {
  const stand = {
    conn: undefined as ((asks: readonly AskedConnection[]) => Maybe<Scripted>) | undefined,
    state: undefined as ((results: readonly SentResult[]) => Maybe<Scripted>) | undefined,
    connCalls: [] as (readonly AskedConnection[])[],
    stateCalls: [] as (readonly SentResult[])[],
    /** How often each event was accepted, in the order of the first time. */
    accepted: new Map<string, number>(),
    /** Event ids accepted for each trigger, in order, repeats included. */
    byTrigger: new Map<string, string[]>(),
    pollStates: new Map<string, string>(),
    /** Takes results as an honest control plane does. */
    accept(results: readonly SentResult[]): Scripted {
      for (const result of results) {
        const own = stand.byTrigger.get(result.triggerId) ?? [];
        stand.byTrigger.set(result.triggerId, own);
        for (const event of result.events) {
          if (event.triggerid !== result.triggerId)
            throw new Error(`an event of ${event.triggerid} in another's result`);
          stand.accepted.set(event.id, (stand.accepted.get(event.id) ?? 0) + 1);
          own.push(event.id);
        }
        if (result.pollState !== undefined) stand.pollStates.set(result.triggerId, result.pollState);
      }
      return {
        body: { results: results.map(({ triggerId }) => ({ triggerId, status: 'accepted' })), lifecycle: [] },
      };
    },
    /** Credentials that name whom they belong to, so that a poll with somebody else's is seen. */
    active(ask: AskedConnection, more: object = {}): object {
      const { connectionId, tenantId } = ask;
      return { connectionId, tenantId, status: 'active', auth: { tenantId, connectionId }, ...more };
    },
  };
  const server = await listen(async (path, body, response) => {
    const parsed = JSON.parse(body);
    if (path === '/conn/batch') {
      const asks = parsed.connections as readonly AskedConnection[];
      stand.connCalls.push(asks);
      const scripted = await stand.conn?.(asks);
      send(response, scripted ?? { body: { connections: asks.map((ask) => stand.active(ask)) } });
    } else {
      const results = parsed.results as readonly SentResult[];
      stand.stateCalls.push(results);
      const scripted = await stand.state?.(results);
      send(response, scripted ?? stand.accept(results));
    }
  });
  return Object.assign(stand, server);
}

/** A poll function over lists of items: the cursor counts the items already given. */
export async function startPollFunctionStandIn() {
  const stand = {
    script: undefined as ((call: PollCall) => Maybe<Scripted>) | undefined,
    calls: [] as PollCall[],
    /** Items of each trigger, in order. */
    items: new Map<string, object[]>(),
    pageItems: 500,
    /** What an honest function answers. */
    page(call: PollCall): { events: object[]; cursor: unknown; more: boolean } {
      const all = stand.items.get(call.trigger.id) ?? [];
      const from = typeof call.cursor === 'number' ? call.cursor : 0;
      const events = all.slice(from, from + stand.pageItems);
      const cursor = from + events.length;
      return { events, cursor, more: cursor < all.length };
    },
    add(triggerId: string, ...keys: string[]): void {
      const all = stand.items.get(triggerId) ?? [];
      stand.items.set(triggerId, all);
      for (const key of keys) all.push({ key, occurredAt: '2026-01-02T00:00:00Z', data: { key } });
    },
  };
  const server = await listen(async (_path, body, response) => {
    const call = JSON.parse(body) as PollCall;
    stand.calls.push(call);
    const scripted = await stand.script?.(call);
    send(response, scripted ?? { body: stand.page(call) });
  });
  return Object.assign(stand, server);
}
