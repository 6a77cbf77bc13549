import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { afterAll, expect, it } from 'vitest';
import { startTemporal, type Temporal } from '../src/index.ts';

const folder = mkdtempSync(join(tmpdir(), 'milkrun-temporal-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function withClient<T>(server: Temporal, work: (client: Client) => Promise<T>): Promise<T> {
  const connection = await Connection.connect({ address: server.address });
  try {
    return await work(new Client({ connection }));
  } finally {
    await connection.close();
  }
}

it('answers at once and keeps its workflows in the file over a kill', async () => {
  const dbFilename = join(folder, 'state', 'temporal.db');
  const first = await startTemporal({ own: true, dbFilename });
  await withClient(first, (client) =>
    client.workflow.start('Nothing', { taskQueue: 'nobody', workflowId: 'kept', args: [] }),
  );
  process.kill(first.pid ?? 0, 'SIGKILL');
  await first.stop();
  const second = await startTemporal({ own: true, dbFilename });
  try {
    const status = await withClient(
      second,
      async (client) => (await client.workflow.getHandle('kept').describe()).status,
    );
    expect(status.name).toBe('RUNNING');
  } finally {
    await second.stop();
  }
});

it('says why a server did not start', async () => {
  // A folder is no database file.
  await expect(startTemporal({ own: true, dbFilename: folder })).rejects.toThrow(
    /did not start on 127\.0\.0\.1:\d+: .+/s,
  );
});
