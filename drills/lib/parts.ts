/** The real servers a drill runs on, ended with it. */
import { startPostgres } from '@milkrun/testkit';

/** A server of the drill's own, or the one of `WORKERDB_TEST_URL`; databases are made on it. */
export async function withPostgres<T>(work: (pgUrl: string) => Promise<T>): Promise<T> {
  const server = await startPostgres();
  try {
    return await work(server.url);
  } finally {
    await server.stop();
  }
}
