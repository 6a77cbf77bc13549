/**
 * A TCP proxy that misbehaves as it is told: what networks, firewalls and dying servers do to a connection. It stands
 * before any part (PostgreSQL, Temporal, a bucket, the poll function, the control plane), because it knows nothing of them.
 *
 * A fault holds for every connection, those that are open and those to come, until the next `set`. `fired` counts how often
 * it really did something: a fault that nobody met proves nothing.
 */
import { once } from 'node:events';
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

export type Fault =
  /** Every piece arrives later by `ms`, give or take `jitterMs`. */
  | { readonly kind: 'latency'; readonly ms: number; readonly jitterMs?: number }
  /** Both ways together no faster than this. */
  | { readonly kind: 'bandwidth'; readonly bytesPerSecond: number }
  /** Pieces are cut into slices of at most so many bytes, each sent on its own after `ms`. */
  | { readonly kind: 'slice'; readonly bytes: number; readonly ms: number }
  /** The next bytes of the caller never arrive: the connection is reset instead. */
  | { readonly kind: 'reset' }
  /** What is asked arrives and is done; the first bytes of the answer reset the connection instead. */
  | { readonly kind: 'lose_answer' }
  /** The connection ends, without a reset, after so many bytes of answer. */
  | { readonly kind: 'limit'; readonly bytes: number }
  /** The far end is gone and nobody says so: what the caller sends is acknowledged and never answered. */
  | { readonly kind: 'half_open' }
  /** Connections are accepted and nothing ever comes back, nor gets through. */
  | { readonly kind: 'black_hole' }
  /** Every connection, open or new, is reset at once. */
  | { readonly kind: 'refuse' };

export interface FaultProxy {
  /** Port on 127.0.0.1. */
  readonly port: number;
  /** Changes the fault; undefined: none. Connections that a fault has left dead are reset, so that their callers learn it. */
  set(fault: Fault | undefined): void;
  /** How often the present fault did something. */
  fired(): number;
  /** Resets all open connections; answers how many. */
  resetAll(): number;
  /** Where new connections go from now on. */
  retarget(port: number): void;
  close(): Promise<void>;
}

interface Link {
  readonly client: Socket;
  readonly server: Socket | undefined;
  /** A fault has cut it: whatever comes is thrown away. */
  dead: boolean;
  answered: number;
}

type Direction = 'ask' | 'answer';

/** Starts a proxy before 127.0.0.1:`target`. */
export async function startFaultProxy(target: number, random: () => number = Math.random): Promise<FaultProxy> {
  let port = target;
  let fault: Fault | undefined;
  let fired = 0;
  const links = new Set<Link>();

  const cut = (link: Link): void => {
    if (!links.delete(link)) return;
    link.client.resetAndDestroy();
    link.server?.destroy();
  };

  /** What becomes of a piece: passed on after these waits, or nothing. */
  async function pass(link: Link, direction: Direction, piece: Buffer, to: Socket): Promise<void> {
    if (link.dead || !links.has(link)) return;
    const now = fault;
    switch (now?.kind) {
      case 'refuse':
        fired += 1;
        cut(link);
        return;
      case 'reset':
        if (direction === 'answer') break;
        fired += 1;
        cut(link);
        return;
      case 'lose_answer':
        if (direction === 'ask') break;
        fired += 1;
        cut(link);
        return;
      case 'half_open':
      case 'black_hole':
        fired += 1;
        link.dead = true;
        // The far end notices: only the caller is kept in the dark.
        link.server?.destroy();
        return;
      case 'limit':
        if (direction === 'ask') break;
        if (link.answered + piece.length >= now.bytes) {
          fired += 1;
          link.dead = true;
          to.end(piece.subarray(0, now.bytes - link.answered));
          link.server?.destroy();
          return;
        }
        break;
      case 'latency':
        fired += 1;
        await delay(Math.max(0, now.ms + (random() * 2 - 1) * (now.jitterMs ?? 0)));
        break;
      case 'bandwidth':
        fired += 1;
        await delay((piece.length / now.bytesPerSecond) * 1000);
        break;
      case 'slice':
        fired += 1;
        for (let at = 0; at < piece.length; at += now.bytes) {
          await delay(now.ms);
          if (!links.has(link)) return;
          to.write(piece.subarray(at, at + now.bytes));
        }
        if (direction === 'answer') link.answered += piece.length;
        return;
    }
    if (!links.has(link)) return;
    if (direction === 'answer') link.answered += piece.length;
    to.write(piece);
  }

  /** One way of a connection: its pieces follow one another, and its end comes last. */
  function relay(link: Link, direction: Direction, from: Socket, to: Socket): void {
    let tail = Promise.resolve();
    from.on('data', (piece: Buffer) => {
      from.pause();
      tail = tail.then(() => pass(link, direction, piece, to)).finally(() => from.resume());
    });
    from.on('end', () => {
      tail = tail.then(() => {
        if (!link.dead) to.end();
      });
    });
  }

  const server: Server = createServer({ allowHalfOpen: true }, (client) => {
    client.setNoDelay(true);
    if (fault?.kind === 'refuse') {
      fired += 1;
      client.resetAndDestroy();
      return;
    }
    if (fault?.kind === 'black_hole' || fault?.kind === 'half_open') {
      fired += 1;
      const link: Link = { client, server: undefined, dead: true, answered: 0 };
      links.add(link);
      client.on('error', () => cut(link)).on('close', () => links.delete(link));
      client.resume();
      return;
    }
    const far = dial({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
    const link: Link = { client, server: far, dead: false, answered: 0 };
    links.add(link);
    relay(link, 'ask', client, far);
    relay(link, 'answer', far, client);
    client.on('error', () => cut(link)).on('close', () => cut(link));
    // A far end that dies is passed on as it came, unless the caller is to be kept in the dark.
    far.on('error', () => link.dead || cut(link));
    far.on('close', (failed) => link.dead || (failed ? cut(link) : client.end()));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  const resetAll = (): number => {
    const open = [...links];
    for (const link of open) cut(link);
    return open.length;
  };
  return {
    port: (server.address() as { port: number }).port,
    set(next) {
      fault = next;
      fired = 0;
      for (const link of [...links]) if (link.dead || next?.kind === 'refuse') cut(link);
    },
    fired: () => fired,
    resetAll,
    retarget(next) {
      port = next;
    },
    async close() {
      const closed = once(server, 'close');
      server.close();
      resetAll();
      await closed;
    },
  };
}
