/** The proxy before a server of a few lines; what a caller sees of each fault, and what the server sees of it. */
import { once } from 'node:events';
import { createServer, connect as dial, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type FaultProxy, startFaultProxy } from '../src/index.ts';
import { PATIENCE } from '../src/patience.ts';

/** Answers each piece with `answer to {piece}`. */
let server: ReturnType<typeof createServer>;
/** What the server has been asked. */
let asked: string[];
let proxy: FaultProxy;
const callers: Socket[] = [];

beforeEach(async () => {
  asked = [];
  server = createServer((socket) => {
    socket
      .on('error', () => {})
      .on('data', (piece) => {
        asked.push(piece.toString());
        socket.write(`answer to ${piece}`);
      });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  proxy = await startFaultProxy((server.address() as { port: number }).port, () => 0.5);
});

afterEach(async () => {
  for (const caller of callers.splice(0)) caller.destroy();
  await proxy.close();
  server.close();
});

interface Caller {
  readonly socket: Socket;
  /** All that has come so far. */
  said(): string;
  /** The pieces in which it came. */
  readonly pieces: string[];
  /** `open`, the error's code, or `ended`. */
  end(): string;
}

async function call(text?: string): Promise<Caller> {
  const socket = dial(proxy.port, '127.0.0.1');
  callers.push(socket);
  const pieces: string[] = [];
  let end = 'open';
  socket
    .on('data', (piece) => pieces.push(piece.toString()))
    .on('error', (error) => {
      end = (error as { code?: string }).code ?? 'error';
    })
    .on('end', () => {
      if (end === 'open') end = 'ended';
    });
  await once(socket, 'connect');
  if (text !== undefined) socket.write(text);
  return { socket, pieces, said: () => pieces.join(''), end: () => end };
}

const soon = (fact: () => void): Promise<void> => vi.waitFor(fact, { ...PATIENCE, interval: 5 });

test('without a fault both ways arrive whole, and its end too', async () => {
  const caller = await call('one');
  await soon(() => expect(caller.said()).toBe('answer to one'));
  caller.socket.end();
  await once(caller.socket, 'close');
  expect({ end: caller.end(), fired: proxy.fired() }).toEqual({ end: 'ended', fired: 0 });
});

test('reset: the server is not asked, the caller is told at once', async () => {
  const caller = await call('one');
  await soon(() => expect(caller.said()).toBe('answer to one'));
  proxy.set({ kind: 'reset' });
  caller.socket.write('two');
  await soon(() => expect(caller.end()).toBe('ECONNRESET'));
  expect({ asked, fired: proxy.fired() }).toEqual({ asked: ['one'], fired: 1 });
  proxy.set(undefined);
  const next = await call('three');
  await soon(() => expect(next.said()).toBe('answer to three'));
});

test('lose_answer: the server does what it is asked, the caller never hears of it', async () => {
  proxy.set({ kind: 'lose_answer' });
  const caller = await call('one');
  await soon(() => expect(caller.end()).toBe('ECONNRESET'));
  expect({ asked, said: caller.said(), fired: proxy.fired() }).toEqual({ asked: ['one'], said: '', fired: 1 });
});

test('limit: so many bytes of answer come, then the connection ends', async () => {
  proxy.set({ kind: 'limit', bytes: 9 });
  const caller = await call('one');
  await soon(() => expect(caller.end()).toBe('ended'));
  expect(caller.said()).toBe('answer to');
});

test.for(['half_open', 'black_hole'] as const)(
  '%s: nothing comes back and nobody says so; once it is over the caller is told',
  async (kind) => {
    const open = await call('one');
    await soon(() => expect(open.said()).toBe('answer to one'));
    proxy.set({ kind });
    open.socket.write('two');
    const fresh = await call('three');
    await soon(() => expect(proxy.fired()).toBe(2));
    expect([open.end(), fresh.end(), asked]).toEqual(['open', 'open', ['one']]);
    proxy.set(undefined);
    await soon(() => expect([open.end(), fresh.end()]).toEqual(['ECONNRESET', 'ECONNRESET']));
  },
);

test('refuse: open connections are reset, and new ones as soon as they are made', async () => {
  const open = await call('one');
  await soon(() => expect(open.said()).toBe('answer to one'));
  proxy.set({ kind: 'refuse' });
  await soon(() => expect(open.end()).toBe('ECONNRESET'));
  // It may be over before the caller has seen that it began.
  const [error] = await once(dial(proxy.port, '127.0.0.1').resume(), 'close').catch((thrown: unknown) => [thrown]);
  expect(error).toMatchObject({ code: 'ECONNRESET' });
});

describe('what only slows down', () => {
  test('slice: everything arrives, in pieces no longer than that', async () => {
    proxy.set({ kind: 'slice', bytes: 4, ms: 1 });
    const caller = await call('one-two-three');
    await soon(() => expect(asked.join('')).toBe('one-two-three'));
    expect(Math.max(...asked.map((piece) => piece.length))).toBeLessThanOrEqual(4);
    await soon(() => expect(caller.said().replaceAll('answer to ', '')).toBe('one-two-three'));
  });

  test.for([
    { kind: 'latency', ms: 20, jitterMs: 10 },
    { kind: 'bandwidth', bytesPerSecond: 1_000 },
  ] as const)('$kind: everything arrives, in order', async (fault) => {
    proxy.set(fault);
    const caller = await call();
    const sent = Array.from({ length: 5 }, (_, n) => `part-${n};`);
    for (const part of sent) caller.socket.write(part);
    await soon(() => expect(asked.join('')).toBe(sent.join('')));
    await soon(() => expect(caller.said().replaceAll('answer to ', '')).toBe(sent.join('')));
    expect(proxy.fired()).toBeGreaterThanOrEqual(2);
  });
});

test('resetAll counts what was open, and retarget sends what comes next elsewhere', async () => {
  const first = await call('one');
  await soon(() => expect(first.said()).toBe('answer to one'));
  expect(proxy.resetAll()).toBe(1);
  await soon(() => expect(first.end()).toBe('ECONNRESET'));
  const other = createServer((socket) => void socket.on('error', () => {}).end('elsewhere')).listen(0, '127.0.0.1');
  await once(other, 'listening');
  proxy.retarget((other.address() as { port: number }).port);
  const second = await call();
  await soon(() => expect([second.said(), second.end()]).toEqual(['elsewhere', 'ended']));
  other.close();
});
