/** Looks whether ports are free before anything starts, so that the refusal can name the setting. */
import { createServer } from 'node:net';

export interface WantedPort {
  readonly setting: string;
  readonly host: string;
  readonly port: number;
}

/** The wanted ports somebody else holds. */
export async function busyPorts(wanted: readonly WantedPort[]): Promise<readonly WantedPort[]> {
  const busy = await Promise.all(wanted.map(async (one) => ((await isFree(one)) ? undefined : one)));
  return busy.filter((one) => one !== undefined);
}

async function isFree({ host, port }: WantedPort): Promise<boolean> {
  if (port === 0) return true;
  return await new Promise((resolve) => {
    const server = createServer()
      .once('error', () => resolve(false))
      .listen(port, host, () => server.close(() => resolve(true)));
  });
}
