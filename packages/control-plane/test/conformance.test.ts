/** The kit must be able to fail: a control plane that answers anything with 200 and nothing passes almost none of it. */
import { runConformance } from '@milkrun/control-plane/conformance';
import { expect, it } from 'vitest';
import { json, standIn } from './stand-in.ts';

it('fails a server that says yes to everything, and names what it cannot check', async () => {
  await using server = await standIn((_call, response) => json(response, {}));
  const results = await runConformance({ url: server.url, key: 'k' });
  expect(results.filter(({ outcome }) => outcome === 'pass')).toEqual([]);
  expect(results.find(({ name }) => name.startsWith('the feed is read'))).toMatchObject({
    outcome: 'fail',
    detail: 'the body is not { changes, next, more }',
  });
  expect(results.find(({ name }) => name.includes('gapless'))).toMatchObject({
    outcome: 'left_out',
    detail: 'needs the hooks createTrigger',
  });
});

it('fails a feed that loses a change written while it was read', async () => {
  let made = 0;
  const id = (n: number): string => `0190b5b0-0000-7000-8000-${String(n).padStart(12, '0')}`;
  await using server = await standIn((call, response) => {
    const query = new URL(call.url, 'http://x').searchParams;
    const after = Number(query.get('after') ?? 0);
    const next = Math.min(made, after + Number(query.get('limit')));
    const all = Array.from({ length: next }, (_, n) => n).filter((n) => n >= after && n % 7 !== 3);
    const change = (n: number) => ({
      op: 'upsert',
      triggerId: id(n),
      configVersion: 1,
      tenantId: 't',
      toolkit: 't',
      slug: 's',
      version: '1',
      config: {},
      connectionId: 'c',
      intervalSeconds: 60,
      enabled: true,
      createdAt: '2026-01-01T00:00:00Z',
    });
    json(response, { changes: all.map(change), next: String(next), more: next < made });
  });
  const createTrigger = async () => {
    made += 1;
    return { triggerId: id(made - 1), tenantId: 't', toolkit: 't', connectionId: 'c' };
  };
  const results = await runConformance({ url: server.url, key: 'k', hooks: { createTrigger } });
  expect(results.find(({ name }) => name.includes('gapless'))).toMatchObject({
    outcome: 'fail',
    detail: expect.stringContaining('never came'),
  });
});
