/**
 * A real PostgreSQL for tests and for the laptop: by address, in a container, from the embedded package, or from the
 * machine's own binaries, in that order.
 *
 * A test server forgets (no fsync, a temporary directory, removed by `stop`). A durable one keeps its data directory
 * and recovers it after a crash, also when the process that owned it was killed and left the server running.
 */
import { request } from 'node:http';
import { localPostgres } from './postgres-local.ts';

export interface PostgresOptions {
  /** Where a durable server keeps its data; ignored by address and container. */
  readonly dataDir?: string;
  /** TCP port on 127.0.0.1; a free one when absent. */
  readonly port?: number;
  /** True: fsync on, data kept, restart on an existing directory. */
  readonly durable?: boolean;
}

export interface Postgres {
  /** `postgres://user:password@host:port/postgres`, a role that may create databases. */
  readonly url: string;
  /** Which part answered; for the start-up log. */
  readonly kind: 'url' | 'container' | 'embedded' | 'system';
  stop(): Promise<void>;
  /** Stops a server of this process as a crash would, at once and without a checkpoint; the next start recovers it. */
  crash?(): Promise<void>;
}

/** Starts (or finds) a server. Rejects with a sentence that names what was tried. */
export async function startPostgres(options: PostgresOptions = {}): Promise<Postgres> {
  const url = process.env.WORKERDB_TEST_URL;
  if (url && !options.durable) return { url, kind: 'url', stop: async () => {} };
  if (!options.durable && (await engineAnswers())) {
    const container = await startContainer().catch(() => undefined);
    if (container) return container;
  }
  return await localPostgres(options);
}

/** Whether a container engine answers on its usual socket, within half a second. */
async function engineAnswers(): Promise<boolean> {
  const host = process.env.DOCKER_HOST;
  const target = host?.startsWith('tcp://')
    ? { host: new URL(host).hostname, port: new URL(host).port }
    : { socketPath: host?.replace(/^unix:\/\//, '') ?? '/var/run/docker.sock' };
  return await new Promise((resolve) => {
    const ask = request({ ...target, path: '/_ping', timeout: 500 }, (answer) => {
      answer.resume();
      resolve(answer.statusCode === 200);
    });
    ask.on('timeout', () => ask.destroy());
    ask.on('error', () => resolve(false));
    ask.end();
  });
}

async function startContainer(): Promise<Postgres> {
  const { GenericContainer, Wait } = await import('testcontainers');
  const container = await new GenericContainer('postgres:18-alpine')
    .withEnvironment({ POSTGRES_PASSWORD: 'postgres' })
    .withTmpFs({ '/var/lib/postgresql': 'rw' })
    .withExposedPorts(5432)
    .withCommand(['postgres', '-c', 'fsync=off', '-c', 'full_page_writes=off', '-c', 'max_connections=300'])
    .withWaitStrategy(Wait.forLogMessage(/ready to accept connections/, 2))
    .start();
  return {
    url: `postgres://postgres:postgres@${container.getHost()}:${container.getMappedPort(5432)}/postgres`,
    kind: 'container',
    stop: async () => {
      await container.stop();
    },
  };
}
