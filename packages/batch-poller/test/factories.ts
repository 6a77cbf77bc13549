import { type ClaimedTrigger, eventIdOf, keyHashOf, type StoredEvent } from '@milkrun/core';
import type { ResultRecord } from '../src/snapshot/records.ts';

export const TRIGGER_ID = '3f2b8c1e-6f0a-4a53-9d53-0d6f1c5b7a10';

export function trigger(over: Partial<ClaimedTrigger> = {}): ClaimedTrigger {
  return {
    shard: 27,
    triggerId: TRIGGER_ID,
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
    dueLagSeconds: 0.1,
    probe: false,
    stateBytes: 0,
    ...over,
  };
}

export function eventsOf(...keys: readonly string[]): StoredEvent[] {
  return keys.map((key) => ({
    eventId: eventIdOf(TRIGGER_ID, key),
    json: JSON.stringify({ id: eventIdOf(TRIGGER_ID, key), key }),
  }));
}

export function resultRecord(over: Partial<ResultRecord> = {}): ResultRecord {
  const events = over.events ?? [];
  const newKeys = Buffer.concat(events.map((event) => keyHashOf(event.eventId))).toString('base64');
  return {
    triggerId: TRIGGER_ID,
    leaseEpoch: 7,
    hop: 0,
    attempt: 1,
    page: 0,
    code: 'ok',
    events,
    newKeys,
    cursorAfter: null,
    more: false,
    deduplicated: 0,
    pollMs: 5,
    ...over,
  };
}
