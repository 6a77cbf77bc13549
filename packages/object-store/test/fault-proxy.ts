/** A proxy in front of a real bucket that misbehaves as it is told: what networks and odd stores do to a call. */
import { once } from 'node:events';
import { type ClientRequest, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';

export type Fault =
  /** Nothing wrong. */
  | 'none'
  /** The bucket does what is asked, its answer is lost. */
  | 'lose_answer'
  /** The call does not reach the bucket. */
  | 'reset'
  /** The answer announces its whole length and ends in the middle. */
  | 'cut_body'
  /** The answer comes to a halt in the middle. */
  | 'stall_body'
  /** The bucket never hears of the condition, so it overwrites. */
  | 'drop_condition'
  /** 409 ConditionalRequestConflict, as when two writers meet. */
  | 'conflict'
  /** 503 SlowDown. */
  | 'slow_down'
  /** 403 AccessDenied. */
  | 'denied';

export interface FaultProxy {
  readonly endpoint: string;
  /** Faults of the next calls, one each; further calls have none. */
  plan(...faults: Fault[]): void;
  /** The same fault for every call until the next plan. */
  always(fault: Fault): void;
  /** Calls seen since the last plan. */
  calls(): number;
  stop(): Promise<void>;
}

const STATUS: Partial<Record<Fault, readonly [number, string]>> = {
  conflict: [409, 'ConditionalRequestConflict'],
  slow_down: [503, 'SlowDown'],
  denied: [403, 'AccessDenied'],
};

export async function startFaultProxy(target: string): Promise<FaultProxy> {
  let planned: Fault[] = [];
  let otherwise: Fault = 'none';
  let seen = 0;
  const server = createServer((incoming, answer) => {
    seen += 1;
    serve(target, planned.shift() ?? otherwise, incoming, answer);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const reset = (faults: Fault[], fault: Fault): void => {
    planned = faults;
    otherwise = fault;
    seen = 0;
  };
  return {
    endpoint: `http://127.0.0.1:${port}`,
    plan: (...faults) => reset(faults, 'none'),
    always: (fault) => reset([], fault),
    calls: () => seen,
    async stop() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function serve(target: string, fault: Fault, incoming: IncomingMessage, answer: ServerResponse): void {
  if (fault === 'reset') {
    incoming.socket.resetAndDestroy();
    return;
  }
  const refused = STATUS[fault];
  if (refused !== undefined) {
    const [status, code] = refused;
    incoming.resume().on('end', () => {
      answer.writeHead(status, { 'content-type': 'application/xml' });
      answer.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`);
    });
    return;
  }
  const headers = { ...incoming.headers };
  if (fault === 'drop_condition') delete headers['if-none-match'];
  const forwarded: ClientRequest = request(`${target}${incoming.url}`, { method: incoming.method ?? 'GET', headers });
  forwarded.on('error', () => incoming.socket.destroy());
  forwarded.on('response', (reply) => relay(fault, reply, answer));
  incoming.pipe(forwarded);
}

function relay(fault: Fault, reply: IncomingMessage, answer: ServerResponse): void {
  if (fault === 'lose_answer') {
    reply.resume().on('end', () => answer.socket?.resetAndDestroy());
    return;
  }
  const chunks: Buffer[] = [];
  reply.on('data', (chunk: Buffer) => chunks.push(chunk));
  reply.on('end', () => {
    const body = Buffer.concat(chunks);
    answer.writeHead(reply.statusCode ?? 500, reply.headers);
    if (fault !== 'cut_body' && fault !== 'stall_body') {
      answer.end(body);
      return;
    }
    answer.write(body.subarray(0, body.byteLength / 2), () => {
      if (fault === 'cut_body') answer.socket?.destroySoon();
    });
  });
}
