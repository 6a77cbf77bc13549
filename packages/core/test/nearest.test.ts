import { expect, test } from 'vitest';
import { nearest } from '../src/index.ts';

const NAMES = ['LEASE_TTL', 'POLL_WIDTH', 'POLL_CAP', 'BATCH_SIZE', 'dev', 'doctor'];

test.each([
  ['LEASE_TLL', 'LEASE_TTL'],
  ['LAESE_TTL', 'LEASE_TTL'],
  ['lease_ttl', 'LEASE_TTL'],
  ['POLL_WITDH', 'POLL_WIDTH'],
  ['BATCHSIZE', 'BATCH_SIZE'],
  ['dve', 'dev'],
  ['docter', 'doctor'],
  ['dev', 'dev'],
])('%s is answered with %s', (word, wanted) => {
  expect(nearest(word, NAMES)).toBe(wanted);
});

test.each(['', 'xyz', 'NATS_URL', 'zzzzzzzzzzzzzzzz'])('nothing is near %j', (word) => {
  expect(nearest(word, NAMES)).toBeUndefined();
});
