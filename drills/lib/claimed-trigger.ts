/** A row as a claim answers it, for drills that write a batch's entries themselves. */
import { type ClaimedTrigger, storageShardOf } from '@milkrun/core';

const ROW: Omit<ClaimedTrigger, 'triggerId' | 'shard'> = {
  leaseEpoch: 7,
  tenantId: 'tenant-1',
  toolkit: 'synthetic',
  slug: 'synthetic',
  connectionId: 'connection-1',
  versionWanted: '1',
  versionUsed: '1',
  config: '{}',
  pollPolicy: { dedupe: 'unique', repeatable: true },
  intervalSeconds: 60,
  since: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  configVersion: 1,
  primed: true,
  lastOkAt: '2026-01-01T00:00:00.000Z',
  failureCount: 0,
  poisonCount: 0,
  dueAt: '2026-01-01T00:00:00.000Z',
  dueLagSeconds: 0,
  probe: false,
  stateBytes: 0,
};

export function claimedTrigger(over: Partial<ClaimedTrigger> & { readonly triggerId: string }): ClaimedTrigger {
  return { ...ROW, shard: storageShardOf(over.triggerId), ...over };
}
