import { format, inspect } from 'node:util';
import { expect, test } from 'vitest';
import { Secret } from '../src/index.ts';

test('a secret shows itself only when asked by name', () => {
  const secret = new Secret('canary-7f3a');
  const shown = [
    `${secret}`,
    JSON.stringify({ secret }),
    inspect({ deep: [secret] }),
    format('%s %o %j', secret, secret, secret),
  ];
  for (const text of shown) {
    expect(text).toContain('[redacted]');
    expect(text).not.toContain('canary-7f3a');
  }
  expect(structuredClone({ ...secret })).toEqual({});
  expect(secret.reveal()).toBe('canary-7f3a');
});
