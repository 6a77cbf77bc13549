/** Workflows of the `host` drill. */
import { proxyActivities, sleep } from '@temporalio/workflow';

const { work } = proxyActivities<{ work(): Promise<number> }>({
  startToCloseTimeout: '60s',
  heartbeatTimeout: '10s',
  retry: { initialInterval: '10ms', maximumInterval: '100ms' },
});

/** The attempt that went through. */
export async function Task(): Promise<number> {
  return await work();
}

export async function Sign(): Promise<string> {
  await sleep(1);
  return 'alive';
}
