/** A real NATS server with JetStream for tests and for the laptop: by address, else a child process. */
import { mkdirSync } from 'node:fs';
import { freePort, startChildServer } from './child-server.ts';
import { findNatsBinary } from './server-binary.ts';

export interface NatsOptions {
  /** Where streams are kept; they survive a restart. */
  readonly directory: string;
  /** Port on 127.0.0.1; a free one when absent. */
  readonly port?: number;
  /** True: never the server of NATS_URL, for tests that kill and restart it. */
  readonly own?: boolean;
}

export interface Nats {
  /** `nats://host:port`. */
  readonly url: string;
  readonly kind: 'address' | 'child';
  /** Process id of the child, for drills that kill it. */
  readonly pid?: number;
  /** Ends the child; a server found by address is left alone. */
  stop(): Promise<void>;
}

/** Resolves to undefined when there is neither an address nor a program. */
export async function startNats({ directory, port: wanted, own = false }: NatsOptions): Promise<Nats | undefined> {
  const address = process.env.NATS_URL;
  if (address && !own) return { url: address, kind: 'address', stop: async () => {} };
  const binary = findNatsBinary();
  if (binary === undefined) return undefined;
  mkdirSync(directory, { recursive: true });
  const port = wanted ?? (await freePort());
  const args = ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', directory, '-n', 'milkrun'];
  const { pid, stop } = await startChildServer({ name: 'NATS', binary, args, port });
  return { url: `nats://127.0.0.1:${port}`, kind: 'child', pid, stop };
}
