/** A control plane of a few lines for tests of the whole worker: a feed to append to, credentials for everybody, a memory of what came. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

export interface StandIn {
  readonly url: string;
  /** Events accepted so far: id → how often. */
  readonly events: Map<string, number>;
  readonly lifecycle: { triggerId: string; state: string; code: string }[];
  append(change: object): void;
  close(): Promise<void>;
}

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return JSON.parse(Buffer.concat(parts).toString('utf8')) as Record<string, unknown>;
}

export async function startControlPlane(): Promise<StandIn> {
  const feed: object[] = [];
  const waiting = new Set<() => void>();
  const events = new Map<string, number>();
  const lifecycle: { triggerId: string; state: string; code: string }[] = [];
  const send = (response: ServerResponse, body: object): void => {
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  };

  const changes = (request: IncomingMessage, response: ServerResponse): void => {
    const query = new URL(request.url ?? '', 'http://stand-in').searchParams;
    const after = Number(query.get('after') || 0);
    const answer = (): void => {
      waiting.delete(answer);
      clearTimeout(timer);
      send(response, { changes: feed.slice(after), next: String(feed.length), more: false });
    };
    const timer = setTimeout(answer, Number(query.get('wait') || 0) * 1000);
    if (after < feed.length) answer();
    else waiting.add(answer);
  };

  const server = createServer(async (request, response) => {
    if (request.url?.startsWith('/triggers/changes')) return changes(request, response);
    const body = await bodyOf(request);
    if (request.url === '/conn/batch') {
      const asked = body.connections as { connectionId: string; tenantId: string }[];
      return send(response, {
        connections: asked.map(({ connectionId, tenantId }) => ({
          connectionId,
          tenantId,
          status: 'active',
          auth: {},
        })),
      });
    }
    const results = body.results as { triggerId: string; events: { id: string }[] }[];
    for (const { events: sent } of results) for (const { id } of sent) events.set(id, (events.get(id) ?? 0) + 1);
    const records = body.lifecycle as { triggerId: string; state: string; code: string; at: string }[];
    lifecycle.push(...records);
    return send(response, {
      results: results.map(({ triggerId }) => ({ triggerId, status: 'accepted' })),
      lifecycle: records.map(({ triggerId, at }) => ({ triggerId, at })),
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${address.port}`,
    events,
    lifecycle,
    append(change) {
      feed.push(change);
      for (const answer of [...waiting]) answer();
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
