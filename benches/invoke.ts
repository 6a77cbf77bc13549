/**
 * invoke: what one call of the poll function costs beside bare undici and the AWS SDK.
 *
 * One upstream in a process of its own (20 ms, empty page), 500 connections, the contestants interleaved over rounds in
 * this process. Ratios are taken inside a round. `signer` compares one signature with the SDK's own signer on Node's hashes.
 */
import { fork } from 'node:child_process';
import { createHash, createHmac, type Hash, type Hmac } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { createPollRunner, createSigner, LOCAL_CREDENTIALS } from '@milkrun/poll-runner';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import { Pool } from 'undici';
import { benchBodies } from './lib/bodies.ts';

const ROUNDS = 5;
const WIDTH = 500;
const CALLS = 40_000;
/** The SDK is slower by an order of magnitude; fewer calls give the same figure. */
const CALLS_SDK = 4_000;
const SIGNATURES = 20_000;
const REGION = 'us-east-1';
const PATH = '/2015-03-31/functions/fast/invocations';

interface Contestant {
  readonly name: string;
  readonly calls: number;
  call(body: string): Promise<unknown>;
  close(): unknown;
}

interface Figure {
  readonly perSecond: number;
  readonly cpuUs: number;
}

export const bench = {
  name: 'invoke',
  about: 'One call of the poll function: ours beside bare undici and the AWS SDK, and the signer beside the SDK’s.',
  async run({
    log,
  }: {
    readonly log: (line: string) => void;
    readonly seed?: number;
  }): Promise<Record<string, unknown>> {
    const upstream = fork(fileURLToPath(new URL('lib/upstream.ts', import.meta.url)), { silent: true });
    try {
      const [line] = (await once(upstream.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
      const endpoint = `http://127.0.0.1:${(JSON.parse(line.toString()) as { port: number }).port}`;
      const contestants = contestantsAt(endpoint);
      const figures = await rounds(contestants, log);
      for (const contestant of contestants) await contestant.close();
      return { width: WIDTH, rounds: ROUNDS, ...summary(contestants, figures), signer: await signers() };
    } finally {
      upstream.kill('SIGTERM');
    }
  },
};

function contestantsAt(endpoint: string): Contestant[] {
  return [bare(endpoint, false), bare(endpoint, true), viaRequest(endpoint), runner(endpoint), sdk(endpoint)];
}

const newPool = (endpoint: string): Pool =>
  new Pool(endpoint, {
    connections: WIDTH,
    pipelining: 1,
    keepAliveTimeout: 120_000,
    headersTimeout: 0,
    bodyTimeout: 0,
  });

/** The ceiling: dispatch, collect, parse. */
function bare(endpoint: string, isSigned: boolean): Contestant {
  const pool = newPool(endpoint);
  const signer = createSigner({ region: REGION, service: 'lambda', host: new URL(endpoint).host });
  const plain = ['content-type', 'application/json'];
  return {
    name: isSigned ? 'bareSigned' : 'bare',
    calls: CALLS,
    call: (body) =>
      new Promise((resolve, reject) => {
        const parts: Buffer[] = [];
        const request = { method: 'POST', path: PATH, body } as const;
        const headers = isSigned ? signer.sign(request, LOCAL_CREDENTIALS, Date.now()) : plain;
        pool.dispatch(
          { ...request, headers },
          {
            onRequestStart: () => {},
            onResponseStart: () => {},
            onResponseData: (_controller, part) => {
              parts.push(part);
            },
            onResponseEnd: () => resolve(JSON.parse(Buffer.concat(parts).toString())),
            onResponseError: (_controller, error) => reject(error),
          },
        );
      }),
    close: () => pool.destroy(),
  };
}

/** undici's comfortable form with the same signature: what `dispatch` saves. */
function viaRequest(endpoint: string): Contestant {
  const pool = newPool(endpoint);
  const signer = createSigner({ region: REGION, service: 'lambda', host: new URL(endpoint).host });
  return {
    name: 'requestSigned',
    calls: CALLS,
    async call(body) {
      const headers = signer.sign({ method: 'POST', path: PATH, body }, LOCAL_CREDENTIALS, Date.now());
      const answer = await pool.request({ method: 'POST', path: PATH, headers, body });
      return answer.body.json();
    },
    close: () => pool.destroy(),
  };
}

function runner(endpoint: string): Contestant {
  const pollRunner = createPollRunner({
    functionName: 'fast',
    region: REGION,
    endpoint,
    credentials: async () => LOCAL_CREDENTIALS,
    width: WIDTH,
  });
  const stop = new AbortController();
  return {
    name: 'runner',
    calls: CALLS,
    async call(body) {
      const reply = await pollRunner.poll({ toolkit: 'bench', body, deadlineMs: 30_000, signal: stop.signal });
      if (reply.code !== 'ok') throw new Error(`${reply.code}`);
    },
    close: () => pollRunner.close(),
  };
}

function sdk(endpoint: string): Contestant {
  const client = new LambdaClient({
    endpoint,
    region: REGION,
    credentials: { ...LOCAL_CREDENTIALS },
    maxAttempts: 1,
    cacheMiddleware: true,
    requestHandler: { httpAgent: { maxSockets: WIDTH, keepAlive: true } },
  });
  return {
    name: 'sdk',
    calls: CALLS_SDK,
    async call(body) {
      const { Payload } = await client.send(new InvokeCommand({ FunctionName: 'fast', Payload: body }));
      return JSON.parse(Buffer.from(Payload ?? []).toString());
    },
    close: () => client.destroy(),
  };
}

/** Round by round, each contestant once; the order turns, so that nobody always follows the same neighbour. */
async function rounds(contestants: readonly Contestant[], log: (line: string) => void): Promise<Map<string, Figure[]>> {
  const figures = new Map<string, Figure[]>(contestants.map(({ name }) => [name, []]));
  for (const contestant of contestants) await measure(contestant, Math.min(3_000, contestant.calls));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (let i = 0; i < contestants.length; i += 1) {
      const contestant = contestants[(i + round) % contestants.length] as Contestant;
      const figure = await measure(contestant, contestant.calls);
      figures.get(contestant.name)?.push(figure);
      log(
        `round ${round + 1} ${contestant.name}: ${Math.round(figure.perSecond)}/s, ${figure.cpuUs.toFixed(1)} µs CPU`,
      );
    }
  }
  return figures;
}

const BODIES = benchBodies(1_000);

async function measure({ call }: Contestant, calls: number): Promise<Figure> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < calls) await call(BODIES[next++ % BODIES.length] as string);
  };
  const cpu = process.cpuUsage();
  const started = performance.now();
  await Promise.all(Array.from({ length: WIDTH }, lane));
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return { perSecond: calls / seconds, cpuUs: (user + system) / calls };
}

function summary(contestants: readonly Contestant[], figures: Map<string, Figure[]>): Record<string, unknown> {
  const of = (name: string): readonly Figure[] => figures.get(name) ?? [];
  const ratios = (name: string, base: string, pick: (figure: Figure) => number): Spread =>
    spreadOf(of(name).map((figure, round) => pick(figure) / pick(of(base)[round] as Figure)));
  const result: Record<string, unknown> = {};
  for (const { name } of contestants) {
    result[name] = {
      perSecond: spreadOf(of(name).map(({ perSecond }) => perSecond)),
      cpuUs: spreadOf(of(name).map(({ cpuUs }) => cpuUs)),
      rateOverBare: ratios(name, 'bare', ({ perSecond }) => perSecond),
      cpuOverBare: ratios(name, 'bare', ({ cpuUs }) => cpuUs),
      cpuOverBareSigned: ratios(name, 'bareSigned', ({ cpuUs }) => cpuUs),
    };
  }
  return { ...result, sdkCpuOverRunner: ratios('sdk', 'runner', ({ cpuUs }) => cpuUs) };
}

/** Node's own SHA-256 in the shape the SDK wants, as the SDK uses it on Node. */
class NodeSha256 {
  readonly #hash: Hash | Hmac;
  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    const key = secret as NodeJS.ArrayBufferView | string | undefined;
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', key);
  }
  update(data: Uint8Array): void {
    this.#hash.update(data);
  }
  async digest(): Promise<Uint8Array> {
    return this.#hash.digest();
  }
  reset(): void {
    throw new Error('a hash is used once here');
  }
}

async function signers(): Promise<Record<string, unknown>> {
  const host = 'lambda.us-east-1.amazonaws.com';
  const own = createSigner({ region: REGION, service: 'lambda', host });
  const oracle = new SignatureV4({
    credentials: LOCAL_CREDENTIALS,
    region: REGION,
    service: 'lambda',
    sha256: NodeSha256,
    applyChecksum: false,
  });
  const headers = { 'content-type': 'application/json', host };
  const ownUs: number[] = [];
  const sdkUs: number[] = [];
  for (let round = 0; round <= ROUNDS; round += 1) {
    let started = performance.now();
    for (let n = 0; n < SIGNATURES; n += 1) {
      own.sign(
        { method: 'POST', path: PATH, body: BODIES[n % BODIES.length] as string },
        LOCAL_CREDENTIALS,
        Date.now(),
      );
    }
    ownUs.push(((performance.now() - started) * 1000) / SIGNATURES);
    started = performance.now();
    for (let n = 0; n < SIGNATURES / 10; n += 1) {
      const body = BODIES[n % BODIES.length] as string;
      await oracle.sign(new HttpRequest({ method: 'POST', path: PATH, headers, body }));
    }
    sdkUs.push(((performance.now() - started) * 10_000) / SIGNATURES);
  }
  // The first round was for the compiler.
  const [ours, theirs] = [ownUs.slice(1), sdkUs.slice(1)];
  return {
    ownUs: spreadOf(ours),
    sdkUs: spreadOf(theirs),
    sdkOverOwn: spreadOf(theirs.map((us, round) => us / (ours[round] as number))),
  };
}

interface Spread {
  readonly median: number;
  readonly range: readonly [number, number];
}

function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (index: number): number => Number((sorted[index] ?? 0).toPrecision(4));
  return { median: at(Math.floor(sorted.length / 2)), range: [at(0), at(sorted.length - 1)] };
}
