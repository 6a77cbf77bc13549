/**
 * Lambda's Invoke API on this machine: runs a handler in this process behind the same HTTP that AWS answers with, so
 * the engine calls it with the same client and the same signatures.
 *
 * Kept of Lambda: the 6 MB limits both ways, unknown functions, concurrency throttles with their Reason, thrown errors
 * and time-outs as 200 with X-Amz-Function-Error, DryRun, Event, LogType=Tail, GetFunctionConfiguration. Not kept: a
 * handler that ran out of time cannot be stopped; only its slot is free again.
 */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Clock } from '@milkrun/core';
import { systemClock } from '@milkrun/core';
import type { Credentials } from './credentials.ts';
import { type Invocation, invoke, marshalError } from './invocation.ts';
import { refusalOf } from './verify-signature.ts';

const REQUEST_BYTES_MAX = 6 * 1024 * 1024;
/** Lambda leaves a little room above 6 MiB on the way back. */
const ANSWER_BYTES_MAX = REQUEST_BYTES_MAX + 100;
const ROUTE = /^\/2015-03-31\/functions\/([^/?]+)\/(invocations|configuration)(?:\?.*)?$/;
/** Longer than the client keeps an idle connection, so that the client, which knows what it sends next, closes first. */
const KEEP_ALIVE_MS = 180_000;

/** What a Lambda handler is given beside its event. */
export interface InvokeContext {
  readonly awsRequestId: string;
  readonly functionName: string;
  readonly functionVersion: string;
  readonly invokedFunctionArn: string;
  readonly memoryLimitInMB: string;
  getRemainingTimeInMillis(): number;
}

export type InvokeHandler = (event: unknown, context: InvokeContext) => unknown;

export interface LocalFunction {
  /** Default: the server's handler. */
  readonly handler?: InvokeHandler;
  readonly timeoutMs?: number;
  /** Reserved concurrency. */
  readonly concurrency?: number;
}

export interface InvokeServerOptions {
  readonly handler: InvokeHandler;
  /** Default 0: any free port. */
  readonly port?: number;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** The functions there are, by name; others answer 404. Default: every name is the handler. */
  readonly functions?: Readonly<Record<string, LocalFunction>>;
  /** Invocations at once over all functions; more answer 429. Default 1,000, Lambda's own default. */
  readonly concurrency?: number;
  /** Default 35,000: poll deadline + 5 s. */
  readonly timeoutMs?: number;
  /** When given, every call must be signed with them. */
  readonly credentials?: Credentials;
  /** Default us-east-1; part of ARNs and signatures. */
  readonly region?: string;
  readonly clock?: Clock;
}

export interface InvokeServer {
  /** Origin for POLL_FUNCTION_ENDPOINT. */
  readonly endpoint: string;
  readonly port: number;
  /** Invocations running now. */
  running(): number;
  close(): Promise<void>;
}

interface ResolvedFunction extends LocalFunction {
  readonly name: string;
  readonly qualifier: string;
}

/** Rejects when the port cannot be had. */
export async function startInvokeServer(options: InvokeServerOptions): Promise<InvokeServer> {
  const { handler, host = '127.0.0.1', functions, region = 'us-east-1', clock = systemClock } = options;
  const { concurrency = 1_000, timeoutMs = 35_000, credentials } = options;
  const runningOf = new Map<string, number>();
  let runningTotal = 0;

  function resolveFunction(encoded: string, search: string): ResolvedFunction | undefined {
    const [name = '', qualifier] = nameParts(encoded);
    const known = functions === undefined ? {} : Object.hasOwn(functions, name) ? functions[name] : undefined;
    if (known === undefined) return undefined;
    return { ...known, name, qualifier: qualifier ?? new URLSearchParams(search).get('Qualifier') ?? '$LATEST' };
  }

  function throttleOf(target: ResolvedFunction): string | undefined {
    if ((runningOf.get(target.name) ?? 0) >= (target.concurrency ?? Number.POSITIVE_INFINITY)) {
      return 'ReservedFunctionConcurrentInvocationLimitExceeded';
    }
    return runningTotal >= concurrency ? 'ConcurrentInvocationLimitExceeded' : undefined;
  }

  async function run(target: ResolvedFunction, event: unknown, requestId: string): Promise<Invocation> {
    runningTotal += 1;
    runningOf.set(target.name, (runningOf.get(target.name) ?? 0) + 1);
    const limitMs = target.timeoutMs ?? timeoutMs;
    const endsAt = clock.monotonic() + limitMs;
    try {
      return await invoke(target.handler ?? handler, event, limitMs, {
        awsRequestId: requestId,
        functionName: target.name,
        functionVersion: '$LATEST',
        invokedFunctionArn: `${arnOf(target.name)}${target.qualifier === '$LATEST' ? '' : `:${target.qualifier}`}`,
        memoryLimitInMB: '256',
        getRemainingTimeInMillis: () => Math.max(0, endsAt - clock.monotonic()),
      });
    } finally {
      runningTotal -= 1;
      runningOf.set(target.name, (runningOf.get(target.name) ?? 1) - 1);
    }
  }

  const arnOf = (name: string): string => `arn:aws:lambda:${region}:000000000000:function:${name}`;

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const requestId = randomUUID();
    const body = await bodyOf(request);
    const refuse = (status: number, type: string, fields: Readonly<Record<string, unknown>>): void =>
      answer(response, status, { 'x-amzn-requestid': requestId, 'x-amzn-errortype': type }, JSON.stringify(fields));
    if (body === undefined) {
      const message = `Request must be smaller than ${REQUEST_BYTES_MAX} bytes for the InvokeFunction operation`;
      return refuse(413, 'RequestTooLargeException', { Type: 'User', message });
    }
    const refusal = credentials && refusalOf(request, body, credentials, { region, nowMs: clock.now() });
    if (refusal !== undefined) return refuse(403, refusal.type, { message: refusal.message });
    const url = request.url ?? '';
    const [, encoded = '', action] = ROUTE.exec(url) ?? [];
    const target = resolveFunction(encoded, url.split('?')[1] ?? '');
    if (action === undefined) return refuse(404, 'UnknownOperationException', { message: null });
    if (target === undefined) {
      const message = `Function not found: ${arnOf(nameParts(encoded)[0] ?? '')}`;
      return refuse(404, 'ResourceNotFoundException', { Type: 'User', Message: message });
    }
    if (action === 'configuration') {
      if (request.method !== 'GET') return refuse(404, 'UnknownOperationException', { message: null });
      return answer(response, 200, { 'x-amzn-requestid': requestId }, configurationOf(target));
    }
    if (request.method !== 'POST') return refuse(404, 'UnknownOperationException', { message: null });
    const type = header(request, 'x-amz-invocation-type') ?? 'RequestResponse';
    if (type === 'DryRun') return answer(response, 204, { 'x-amzn-requestid': requestId }, '');
    let event: unknown;
    try {
      event = JSON.parse(body.length === 0 ? 'null' : body.toString());
    } catch {
      const message = 'Could not parse request body into json';
      return refuse(400, 'InvalidRequestContentException', { Type: 'User', message });
    }
    const reason = throttleOf(target);
    if (reason !== undefined) {
      return refuse(429, 'TooManyRequestsException', { Reason: reason, Type: 'User', message: 'Rate Exceeded.' });
    }
    if (type === 'Event') {
      void run(target, event, requestId);
      return answer(response, 202, { 'x-amzn-requestid': requestId }, '');
    }
    const started = clock.monotonic();
    const invocation = bounded(await run(target, event, requestId));
    const headers: Record<string, string> = { 'x-amzn-requestid': requestId, 'x-amz-executed-version': '$LATEST' };
    if (invocation.failed) headers['x-amz-function-error'] = 'Unhandled';
    if (header(request, 'x-amz-log-type') === 'Tail') {
      headers['x-amz-log-result'] = logTail(requestId, clock.monotonic() - started);
    }
    answer(response, 200, headers, invocation.json);
  }

  function configurationOf({ name, timeoutMs: own }: ResolvedFunction): string {
    return JSON.stringify({
      FunctionName: name,
      FunctionArn: arnOf(name),
      Runtime: 'nodejs24.x',
      MemorySize: 256,
      Timeout: Math.ceil((own ?? timeoutMs) / 1000),
      Version: '$LATEST',
      State: 'Active',
    });
  }

  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS, requestTimeout: 60_000 }, (request, response) => {
    // A caller that went away while its body was read is the only way in here.
    serve(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port ?? 0, host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    endpoint: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    port,
    running: () => runningTotal,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Name and qualifier of `name`, `name:alias`, a partial ARN or an ARN. */
function nameParts(encoded: string): [name?: string, qualifier?: string] {
  let text: string;
  try {
    text = decodeURIComponent(encoded);
  } catch {
    return [];
  }
  const behindArn = text.split(':function:').at(-1) ?? text;
  const [name, qualifier] = behindArn.split(':');
  return name === undefined ? [] : qualifier === undefined ? [name] : [name, qualifier];
}

/** The whole body, or undefined when it is larger than Lambda takes (the rest is read and thrown away). */
async function bodyOf(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= REQUEST_BYTES_MAX) chunks.push(chunk);
  }
  if (bytes > REQUEST_BYTES_MAX) return undefined;
  const [first] = chunks;
  return chunks.length === 1 && first !== undefined ? first : Buffer.concat(chunks);
}

function bounded(invocation: Invocation): Invocation {
  const bytes = Buffer.byteLength(invocation.json);
  if (bytes <= ANSWER_BYTES_MAX) return invocation;
  const message = `Response payload size (${bytes} bytes) exceeded maximum allowed payload size (${ANSWER_BYTES_MAX} bytes).`;
  return marshalError('Function.ResponseSizeTooLarge', message);
}

function answer(
  response: ServerResponse,
  status: number,
  headers: Readonly<Record<string, string>>,
  json: string,
): void {
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': status === 204 ? 0 : Buffer.byteLength(json),
    ...headers,
  });
  response.end(json);
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

function logTail(requestId: string, ms: number): string {
  const lines = [
    `START RequestId: ${requestId} Version: $LATEST`,
    `END RequestId: ${requestId}`,
    `REPORT RequestId: ${requestId}\tDuration: ${ms.toFixed(2)} ms`,
  ];
  return Buffer.from(lines.join('\n')).toString('base64');
}
