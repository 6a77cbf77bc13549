/**
 * Stand-in for everything upstream, in the drill's own process: the poll function's Invoke API, `/conn/batch`, `/state` and
 * a change feed that can be appended to. What it answers is the drill's to decide, call by call; what came is counted.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

interface PollCall {
  readonly triggerId: string;
  readonly toolkit: string;
  readonly cursor: unknown;
  /** Milliseconds since the epoch at which the call came in. */
  readonly at: number;
}

interface PollAnswer {
  /** Milliseconds before it is sent. */
  readonly delayMs?: number;
  /** HTTP status of the function's platform; 200 when absent. */
  readonly status?: number;
  readonly body?: object;
}

/** `dead`: the connection is closed without a word. */
type Part = 'poll_function' | 'control_plane';

export interface Upstream {
  readonly url: string;
  readonly down: Set<Part>;
  /** Answers a poll; an empty listing with its cursor unchanged by default. */
  onPoll: (call: PollCall) => PollAnswer;
  /** Whether `/conn/batch` names the connection; true by default. */
  knows: (connection: { readonly connectionId: string; readonly tenantId: string }) => boolean;
  /** Status of a trigger's result at `/state`; `accepted` by default. */
  onResult: (triggerId: string) => 'accepted' | 'gone';
  /** Event id → how often it was accepted. */
  readonly events: Map<string, number>;
  readonly counts: { polls: number; connectionCalls: number; stateCalls: number; refused: number };
  append(changes: readonly object[]): void;
  close(): Promise<void>;
}

const EMPTY: PollAnswer = { body: { events: [], cursor: null } };
const WAIT_MS_MAX = 20_000;

export async function startUpstream(): Promise<Upstream> {
  const feed: object[] = [];
  const waiting = new Set<() => void>();
  const sockets = new Set<Socket>();

  function changes(request: IncomingMessage, response: ServerResponse): void {
    const query = new URL(request.url ?? '', 'http://upstream').searchParams;
    const after = Number(query.get('after') || 0);
    const limit = Number(query.get('limit') || 1000);
    const answer = (): void => {
      waiting.delete(answer);
      clearTimeout(timer);
      const page = feed.slice(after, after + limit);
      const next = after + page.length;
      send(response, { changes: page, next: String(next), more: next < feed.length });
    };
    const timer = setTimeout(answer, Math.min(WAIT_MS_MAX, Number(query.get('wait') || 0) * 1000));
    request.on('close', () => {
      if (!response.writableEnded) {
        waiting.delete(answer);
        clearTimeout(timer);
      }
    });
    if (after < feed.length) answer();
    else waiting.add(answer);
  }

  const upstream: Upstream & { url: string } = {
    url: '',
    down: new Set(),
    onPoll: ({ cursor }) => ({ body: { events: [], cursor } }),
    knows: () => true,
    onResult: () => 'accepted',
    events: new Map(),
    counts: { polls: 0, connectionCalls: 0, stateCalls: 0, refused: 0 },
    append(added) {
      feed.push(...added);
      for (const answer of [...waiting]) answer();
    },
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      if (server.listening) await once(server, 'close');
    },
  };

  function invoke(path: string, body: string, response: ServerResponse): void {
    const { trigger, cursor } = JSON.parse(body) as { trigger: { id: string }; cursor: unknown };
    const toolkit = /functions\/([^/]+)\/invocations/.exec(path)?.[1] ?? '';
    upstream.counts.polls += 1;
    const answer = upstream.onPoll({
      triggerId: trigger.id,
      toolkit: decodeURIComponent(toolkit),
      cursor,
      at: Date.now(),
    });
    const say = (): void => send(response, answer.body ?? (EMPTY.body as object), answer.status ?? 200);
    if (answer.delayMs === undefined) say();
    else setTimeout(say, answer.delayMs);
  }

  function connections(body: string, response: ServerResponse): void {
    upstream.counts.connectionCalls += 1;
    const asked = (JSON.parse(body) as { connections: { connectionId: string; tenantId: string }[] }).connections;
    const known = asked.filter((one) => upstream.knows(one));
    const answers = known.map(({ connectionId, tenantId }) => ({ connectionId, tenantId, status: 'active', auth: {} }));
    send(response, { connections: answers });
  }

  function state(body: string, response: ServerResponse): void {
    upstream.counts.stateCalls += 1;
    const { results, lifecycle } = JSON.parse(body) as {
      results: { triggerId: string; events: { id: string }[] }[];
      lifecycle: { triggerId: string; at: string }[];
    };
    const answers = results.map(({ triggerId, events }) => {
      const status = upstream.onResult(triggerId);
      if (status === 'accepted')
        for (const { id } of events) upstream.events.set(id, (upstream.events.get(id) ?? 0) + 1);
      return { triggerId, status };
    });
    send(response, { results: answers, lifecycle: lifecycle.map(({ triggerId, at }) => ({ triggerId, at })) });
  }

  const server = createServer(async (request, response) => {
    const path = request.url ?? '';
    const part: Part = path.endsWith('/invocations') ? 'poll_function' : 'control_plane';
    if (upstream.down.has(part)) {
      upstream.counts.refused += 1;
      request.socket.destroy();
      return;
    }
    if (path.startsWith('/triggers/changes')) return changes(request, response);
    const body = await bodyOf(request).catch(() => undefined);
    if (body === undefined) return;
    if (part === 'poll_function') invoke(path, body, response);
    else if (path === '/conn/batch') connections(body, response);
    else if (path === '/state') state(body, response);
    else response.writeHead(404).end();
  });
  server.keepAliveTimeout = 120_000;
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  upstream.url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  return upstream;
}

function send(response: ServerResponse, body: object, status = 200): void {
  if (response.destroyed) return;
  const text = JSON.stringify(body);
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text);
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts).toString('utf8');
}
