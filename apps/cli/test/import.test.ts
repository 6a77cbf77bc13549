import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run, stubServer, temporaryFolder } from './helpers.ts';

const line = (n: number, more: object = {}, trigger: object = {}): string =>
  JSON.stringify({
    trigger: {
      ...{ deduplicationKey: `old-${n}`, toolkit: 'npm', slug: 'npm-package', connectionId: 'c' },
      ...{ config: { package: `p${n}` }, ...trigger },
    },
    ...more,
  });

function fileOf(...lines: string[]): string {
  const file = join(temporaryFolder(), 'triggers.ndjson');
  writeFileSync(file, `${lines.join('\n')}\n`);
  return file;
}

interface Body {
  readonly triggers: { readonly deduplicationKey: string; readonly state?: object }[];
}

const taking = (created: (key: string) => boolean = () => true) =>
  stubServer(({ body }) => ({
    body: {
      triggers: (body as Body).triggers.map(({ deduplicationKey }) => ({
        id: 'x',
        created: created(deduplicationKey),
      })),
    },
  }));

test('a line becomes a trigger with what its connector says and what the other poller remembers', async () => {
  const api = await taking();
  const lines = [
    line(1, { cursor: { at: 1 }, seenKeys: ['p1@1.0.0'] }),
    line(2, {}, { intervalSeconds: 60, name: 'two' }),
    line(3, { seenKeys: [] }, { slug: 'mine', intervalSeconds: 5 }),
  ];
  const { code, out } = await run(['import', '-', '--json'], { MILKRUN_URL: api.url }, lines.join('\n\n'));
  expect([code, JSON.parse(out)]).toEqual([0, { triggers: 3, created: 3, known: 0, withState: 2 }]);
  const poll = { dedupe: 'watermark', overlapSeconds: 86_400, repeatable: true };
  const base = { toolkit: 'npm', slug: 'npm-package', connectionId: 'c', version: '1', poll };
  expect(api.asked).toEqual([
    expect.objectContaining({
      method: 'POST',
      path: '/triggers/bulk',
      body: {
        triggers: [
          {
            ...{ ...base, deduplicationKey: 'old-1', config: { package: 'p1' }, intervalSeconds: 900 },
            state: { cursor: { at: 1 }, seenKeys: ['p1@1.0.0'] },
          },
          { ...base, deduplicationKey: 'old-2', config: { package: 'p2' }, intervalSeconds: 60, name: 'two' },
          {
            ...{ deduplicationKey: 'old-3', toolkit: 'npm', slug: 'mine', connectionId: 'c' },
            ...{ config: { package: 'p3' }, intervalSeconds: 5, state: { cursor: null, seenKeys: [] } },
          },
        ],
      },
    }),
  ]);
});

test('many lines go in chunks with a bar, and what was there is counted apart', async () => {
  const api = await taking((key) => key !== 'old-3');
  const file = fileOf(...Array.from({ length: 1_200 }, (_, n) => line(n, n === 3 ? { cursor: 1 } : {})));
  const { code, out, err } = await run(['import', file], { MILKRUN_URL: api.url }, '', true);
  expect(code).toBe(0);
  expect(api.asked.map(({ body }) => (body as Body).triggers.length)).toEqual([500, 500, 200]);
  expect(out.replaceAll(/ +/g, ' ')).toBe('triggers 1200\ncreated 1199\nknown 1\nwithState 0\n');
  expect(err).toContain('1000 of 1200 triggers');
});

test.each([
  ['{', 'line 2: no JSON'],
  ['{"trigger":{"toolkit":"npm"}}', 'line 2: trigger.deduplicationKey'],
  [line(2, { seen: [] }), 'line 2: : Unrecognized key'],
  [line(2, {}, { config: { package: '../x' } }), 'line 2: trigger.config: package'],
  [line(2, {}, { slug: 'mine' }), 'line 2: trigger.intervalSeconds is needed'],
  [line(1), 'line 2: deduplicationKey "old-1" stands in line 1 already'],
])('%s is refused by its line before anything is sent', async (second, message) => {
  const api = await taking();
  const { code, err } = await run(['import', fileOf(line(1), second)], { MILKRUN_URL: api.url });
  expect([code, err]).toEqual([2, expect.stringContaining(message)]);
  expect(err).toContain('nothing was imported');
  expect(api.asked).toEqual([]);
});

test('a dry run sends nothing; a file that is not there, and a refused chunk, are told with their lines', async () => {
  const api = await stubServer(({ body }) => {
    const { triggers } = body as Body;
    if (triggers[0]?.deduplicationKey !== 'old-500')
      return { body: { triggers: triggers.map(() => ({ created: true })) } };
    const errors = [{ path: 'triggers[7].connectionId', message: 'no connection c' }];
    return { status: 422, body: { title: 'Invalid', errors } };
  });
  const env = { MILKRUN_URL: api.url };
  const file = fileOf(...Array.from({ length: 600 }, (_, n) => line(n)));
  expect(await run(['import', file, '--dry-run', '--json'], env)).toMatchObject({
    code: 0,
    out: '{\n  "triggers": 600\n}\n',
  });
  expect(api.asked).toEqual([]);
  const { code, err } = await run(['import', file], env);
  expect([code, err]).toEqual([1, expect.stringContaining('lines 501 to 600 were not imported')]);
  expect(err).toContain('triggers[7].connectionId: no connection c');
  expect(err).toContain('What stands before them was imported');
  expect(await run(['import', 'no-such-file'], env)).toMatchObject({
    code: 2,
    err: expect.stringContaining('can not be read'),
  });
});
