import { expect, test } from 'vitest';
import {
  assertTransition,
  haltCodeOf,
  hopBackoffSeconds,
  isForced,
  isVerdictCode,
  TRANSITIONS,
  VERDICTS,
} from '../src/index.ts';

test.each([
  ['auth.expired', 'credential', 'stop', 'halt'],
  ['auth.revoked', 'credential', 'stop', 'halt'],
  ['auth.not_found', 'credential', 'stop', 'halt'],
  ['auth.payload_too_large', 'permanent', 'stop', 'backoff'],
  ['auth.missing', 'platform', 'next_hop', 'release'],
  ['auth.unavailable', 'platform', 'next_hop', 'release'],
  ['auth.refresh_failed', 'platform', 'next_hop', 'release'],
  ['poll.rate_limited', 'source', 'stop', 'rate_limited'],
  ['poll.auth_rejected', 'credential', 'fresh_auth', 'halt'],
  ['poll.connector_error', 'connector', 'stop', 'backoff'],
  ['poll.timeout', 'connector', 'stop', 'backoff'],
  ['poll.throttled', 'platform', 'next_hop', 'release'],
  ['poll.unavailable', 'platform', 'next_hop', 'release'],
  ['poll.response_invalid', 'data', 'stop', 'quarantine_after_5'],
  ['poll.too_large', 'data', 'stop', 'quarantine_after_5'],
  ['poll.listing_too_large', 'data', 'stop', 'quarantine_after_5'],
  ['poll.permanent', 'permanent', 'stop', 'halt_after_3'],
  ['broadcast.gone', 'receiver', 'stop', 'halt'],
  ['broadcast.event_refused', 'data', 'continue', 'advance'],
  ['broadcast.unavailable', 'platform', 'park', 'release'],
  ['broadcast.misconfigured', 'platform', 'park', 'release'],
] as const)('%s is a fault of class %s: %s in the batch, %s at commit', (code, owner, inBatch, atCommit) => {
  expect(VERDICTS[code]).toMatchObject({ class: owner, inBatch, atCommit });
});

test('infrastructure faults never halt or slow a trigger', () => {
  for (const verdict of Object.values(VERDICTS))
    if (verdict.class === 'platform') expect(verdict.atCommit).toBe('release');
});

test('only known codes are verdicts, inherited names are not', () => {
  expect(isVerdictCode('poll.timeout')).toBe(true);
  expect(isVerdictCode('constructor')).toBe(false);
  expect(isVerdictCode('__proto__')).toBe(false);
});

test('a halt carries the name a person looks for', () => {
  expect(haltCodeOf('broadcast.gone')).toBe('receiver_gone');
  expect(haltCodeOf('poll.too_large')).toBe('quarantined');
  expect(haltCodeOf('poll.auth_rejected')).toBe('auth.expired');
  expect(haltCodeOf('auth.revoked')).toBe('auth.revoked');
});

test('an impossible edge is refused and names both states', () => {
  expect(() => assertTransition('t', 'claimed', 'delivered')).toThrow('from claimed to delivered');
  expect(TRANSITIONS.committed).toEqual([]);
  expect(() => assertTransition('t', 'committed', 'claimed')).toThrow();
  expect(() => assertTransition('t', 'polled', 'delivered')).not.toThrow();
});

test('hops back off 5, 15, 45 seconds, obey what was asked for and never exceed a minute; the fourth run is forced', () => {
  expect([0, 1, 2, 3].map((n) => hopBackoffSeconds(n))).toEqual([5, 15, 45, 60]);
  expect(hopBackoffSeconds(0, 30.2)).toBe(31);
  expect(hopBackoffSeconds(0, 3600)).toBe(60);
  const input = (retryCounter: number) => ({
    batchId: 'b',
    timerShard: 0,
    size: 1,
    retryCounter,
    policy: { maxRetryCounter: 3, leaseSeconds: 45 },
  });
  expect([0, 1, 2, 3].map((n) => isForced(input(n)))).toEqual([false, false, false, true]);
});
