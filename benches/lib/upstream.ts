/**
 * Stand-in for everything upstream, in a process of its own: the Invoke API with a chosen latency, `/conn/batch`, `/state`
 * and an empty change feed. Every contestant of a bench calls the same one.
 *
 * The path of an invocation names the profile: `fast` 20 ms, `slow` 200 ms, `tail` 95 % 20 ms, 4 % 200 ms, 1 % 1 s. With
 * `-events` in the name one poll in ten has a new item, and the others give the cursor back as it came; with `-seen` each
 * answer lists the same hundred items, and one in ten a new one besides.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

const EMPTY = Buffer.from(
  JSON.stringify({ events: [], cursor: { after: '2026-01-01T00:00:00Z', page: 'x'.repeat(280) } }),
);
let polls = 0;

function latencyOf(path: string): number {
  if (path.includes('slow')) return 200;
  if (!path.includes('tail')) return 20;
  const draw = (polls * 7919) % 100;
  return draw === 0 ? 1_000 : draw <= 4 ? 200 : 20;
}

function answer(response: ServerResponse, body: Buffer): void {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
  response.end(body);
}

function invoke(path: string, request: string, response: ServerResponse): void {
  polls += 1;
  const body = path.includes('-events') ? withEvents(polls, request) : path.includes('-seen') ? listing(polls) : EMPTY;
  setTimeout(() => answer(response, body), latencyOf(path));
}

function withEvents(number: number, request: string): Buffer {
  const items = number % 10 === 0 ? [{ key: `item-${number}`, data: { number } }] : [];
  const cursor = items.length === 0 ? json(request).cursor : { after: number, page: 'x'.repeat(280) };
  return Buffer.from(JSON.stringify({ events: items, cursor }));
}

function listing(number: number): Buffer {
  const items = Array.from({ length: 100 }, (_, n) => ({ key: `item-${n}`, data: { n } }));
  if (number % 10 === 0) items.push({ key: `new-${number}`, data: { n: number } });
  return Buffer.from(
    JSON.stringify({ events: items, cursor: { after: '2026-01-01T00:00:00Z', page: 'x'.repeat(280) } }),
  );
}

function json(body: string): Record<string, never> {
  return JSON.parse(body) as Record<string, never>;
}

function connBatch(body: string, response: ServerResponse): void {
  const { connections } = json(body) as unknown as { connections: { connectionId: string; tenantId: string }[] };
  const answers = connections.map(({ connectionId, tenantId }) => ({
    connectionId,
    tenantId,
    status: 'active',
    auth: { token: 'bench' },
  }));
  answer(response, Buffer.from(JSON.stringify({ connections: answers })));
}

function state(body: string, response: ServerResponse): void {
  const { results, lifecycle } = json(body) as unknown as {
    results: { triggerId: string }[];
    lifecycle: { triggerId: string; at: string }[];
  };
  answer(
    response,
    Buffer.from(
      JSON.stringify({
        results: results.map(({ triggerId }) => ({ triggerId, status: 'accepted' })),
        lifecycle: lifecycle.map(({ triggerId, at }) => ({ triggerId, at })),
      }),
    ),
  );
}

function collect(request: IncomingMessage, then: (body: string) => void): void {
  const parts: Buffer[] = [];
  request.on('data', (part: Buffer) => parts.push(part));
  request.on('end', () => then(Buffer.concat(parts).toString('utf8')));
}

const server = createServer((request, response) => {
  const path = request.url ?? '';
  if (path.endsWith('/invocations')) {
    if (path.includes('-events')) collect(request, (body) => invoke(path, body, response));
    else {
      request.resume();
      request.on('end', () => invoke(path, '', response));
    }
  } else if (path === '/conn/batch') collect(request, (body) => connBatch(body, response));
  else if (path === '/state') collect(request, (body) => state(body, response));
  else if (path.startsWith('/triggers/changes')) {
    const after = new URL(path, 'http://upstream').searchParams.get('after') ?? 'start';
    const timer = setTimeout(
      () => answer(response, Buffer.from(JSON.stringify({ changes: [], next: after, more: false }))),
      20_000,
    );
    request.on('close', () => clearTimeout(timer));
  } else {
    response.writeHead(404).end();
  }
});
server.keepAliveTimeout = 120_000;
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (address !== null && typeof address === 'object')
    process.stdout.write(`${JSON.stringify({ port: address.port })}\n`);
});
process.on('SIGTERM', () => process.exit(0));
process.on('disconnect', () => process.exit(0));
