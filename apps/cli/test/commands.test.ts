import { parseDefinition } from '@milkrun/activity-core/definitions';
import { expect, test } from 'vitest';
import { openHome, writeDevFile } from '../src/dev/home.ts';
import { type Answer, type Asked, run, stubServer, temporaryFolder } from './helpers.ts';

const ID = '0198c0de-0000-7000-8000-000000000001';

test('help shows commands, examples and exit codes, and is no failure', async () => {
  const { code, out } = await run(['--help']);
  expect(code).toBe(0);
  for (const text of ['dev', 'triggers', 'doctor', 'Examples:', 'Exit codes:', 'the configuration is refused']) {
    expect(out).toContain(text);
  }
  expect(out).not.toContain('dev-servers');
});

test.each([
  [['docter'], 'doctor'],
  [['triggers', 'lst'], 'list'],
  [['triggers', 'list', '--limt', '3'], '--limit'],
  [['dev', '--oncee'], '--once'],
  [['config', 'lists'], 'list'],
])('%j is answered with the nearest word', async (args, meant) => {
  const { code, err } = await run(args);
  expect(code).toBe(2);
  expect(err).toContain(`Did you mean ${meant}?`);
});

test.each([
  [['triggers', 'list', '--limit', 'many'], 'integer'],
  [['triggers', 'list', '--state', 'off'], 'active, disabled, halted'],
  [['triggers', 'get'], "missing required argument 'id'"],
  [['triggers', 'rewind', ID], '--since or --cursor'],
  [['triggers', 'rewind', ID, '--cursor', '{'], 'not valid JSON'],
  [['triggers', 'rewind', ID, '--since', 'yesterday'], 'a time such as'],
  [['triggers', 'create', '--toolkit', 'npm', '--slug', 'npm-package', '--connection', 'c'], '--settings: package'],
  [['triggers', 'create', '--toolkit', 'x', '--slug', 'y', '--connection', 'c'], '--interval is needed'],
  [['triggers', 'poll-now'], 'trigger ids, or --all'],
  [['triggers', 'poll-now', ID, '--all'], 'trigger ids, or --all'],
  [['triggers', 'poll-now', ID, '--toolkit', 'x'], 'go with --all'],
  [['migrate', 'to-v2'], 'say what to move'],
  [['migrate', 'to-v2', ID, '--all'], 'say what to move'],
  [['migrate', 'to-legacy', '--all', '--per-second', 'fast'], 'integer from 1 to 1000'],
  [['holds', 'set', '--for', '5m'], 'name one of'],
  [['holds', 'set', '--all', '--for', 'long'], 'a duration such as'],
  [['shards', 'set', '65'], 'integer from 1 to 64'],
  [['dev', '--fleet', '-1'], 'integer'],
])('%j is refused as usage', async (args, message) => {
  const { code, err } = await run(args);
  expect([code, err]).toEqual([2, expect.stringContaining(message)]);
});

test('a list follows pages, and ends at the limit', async () => {
  const all = Array.from({ length: 1200 }, (_, i) => ({ id: `t${i}`, name: 'n', status: { code: 'auth.expired' } }));
  const api = await stubServer(({ query }) => {
    const from = Number(query.cursor ?? 0);
    const items = all.slice(from, from + Number(query.limit));
    return { body: { items, next: from + items.length < all.length ? String(from + items.length) : null } };
  });
  const env = { MILKRUN_URL: api.url };
  const { out } = await run(['triggers', 'list', '--limit', '1100', '--json', '--toolkit', 'npm'], env);
  expect(JSON.parse(out).map(({ id }: { id: string }) => id)).toEqual(all.slice(0, 1100).map(({ id }) => id));
  expect(api.asked.map(({ query }) => query)).toEqual([
    { toolkit: 'npm', limit: '500' },
    { toolkit: 'npm', cursor: '500', limit: '500' },
    { toolkit: 'npm', cursor: '1000', limit: '100' },
  ]);
  const table = (await run(['triggers', 'list', '--limit', '2'], env)).out.split('\n');
  expect(table[0]).toMatch(/^ID\s+NAME\s+SLUG/);
  expect(table[1]).toMatch(/^t0\s+n\s+-.*auth\.expired/);
});

test('a server that repeats its cursor ends the list', async () => {
  const api = await stubServer(() => ({ body: { items: [{ id: 'x' }], next: 'same' } }));
  expect((await run(['events', 'list', '--json'], { MILKRUN_URL: api.url })).code).toBe(0);
  expect(api.asked).toHaveLength(2);
});

const CALLS: [string[], Partial<Asked>][] = [
  [['triggers', 'get', 'a/b'], { method: 'GET', path: '/triggers/a%2Fb' }],
  [
    ['triggers', 'enable', ID, '--from-now'],
    { method: 'POST', path: `/triggers/${ID}/enable`, body: { resume: 'now' } },
  ],
  [
    ['triggers', 'disable', ID, '--reason', 'not needed'],
    { method: 'POST', path: `/triggers/${ID}/disable`, body: { reason: 'not needed' } },
  ],
  [['triggers', 'delete', ID], { method: 'DELETE', path: `/triggers/${ID}` }],
  [['triggers', 'poll-now', ID], { method: 'POST', path: `/triggers/${ID}/poll-now`, body: {} }],
  [
    ['triggers', 'rewind', ID, '--since', '2026-11-01'],
    { method: 'POST', path: `/triggers/${ID}/rewind`, body: { since: '2026-11-01T00:00:00.000Z' } },
  ],
  [
    ['triggers', 'rewind', ID, '--cursor', '-'],
    { method: 'POST', path: `/triggers/${ID}/rewind`, body: { cursor: { page: 3 } } },
  ],
  [
    ['triggers', 'explain', ID, '--since', '2026-11-01', '--until', '2026-11-02T08:00:00+01:00'],
    {
      method: 'GET',
      path: `/triggers/${ID}/explain`,
      query: { since: '2026-11-01T00:00:00.000Z', until: '2026-11-02T07:00:00.000Z', limit: '100' },
    },
  ],
  [
    [
      'triggers',
      'create',
      '--toolkit',
      'npm',
      '--slug',
      'npm-package',
      '--connection',
      'c',
      '--interval',
      '5m',
      '--settings',
      '{"package":"vite"}',
    ],
    {
      method: 'POST',
      path: '/triggers',
      body: {
        toolkit: 'npm',
        slug: 'npm-package',
        connectionId: 'c',
        config: { package: 'vite' },
        intervalSeconds: 300,
        version: '1',
        poll: { dedupe: 'watermark', overlapSeconds: 86_400, repeatable: true },
      },
    },
  ],
  [
    ['connections', 'create', '--toolkit', 'acme', '--name', 'Acme', '--kind', 'api_key'],
    {
      method: 'POST',
      path: '/connections',
      body: { toolkit: 'acme', name: 'Acme', credentials: { page: 3, type: 'api_key' } },
    },
  ],
  [['events', 'get', 'evt_x'], { method: 'GET', path: '/events/evt_x' }],
];

test.each(CALLS)('%j', async (args, wanted) => {
  const api = await stubServer(() => ({ body: { id: 'made' } }));
  const key = { MILKRUN_URL: api.url, MILKRUN_KEY: 'the-key' };
  expect((await run(args, key, '{"page":3}')).code).toBe(0);
  expect(api.asked).toEqual([expect.objectContaining({ ...wanted, key: 'Bearer the-key' })]);
});

const VERBS: [string[], Partial<Asked>][] = [
  [['shards', 'set', '4'], { method: 'POST', path: '/shards', body: { count: 4 } }],
  [['batches', 'end', 'batch-poller:0:x'], { method: 'POST', path: '/batches/batch-poller%3A0%3Ax/end', body: {} }],
  [['doctor', '--repair'], { method: 'POST', path: '/doctor', body: {} }],
  [['holds', 'list'], { method: 'GET', path: '/holds' }],
  [
    ['holds', 'set', '--toolkit', 'npm', '--for', '30m'],
    { method: 'POST', path: '/holds', body: { toolkit: 'npm', seconds: 1800 } },
  ],
  [
    ['holds', 'set', '--tenant', 'acme', '--for', '1s', '--per-minute', '60'],
    { method: 'POST', path: '/holds', body: { tenantId: 'acme', seconds: 1, perMinute: 60 } },
  ],
  [['holds', 'clear', '--all'], { method: 'POST', path: '/holds/clear', body: { all: true } }],
  [
    ['halts', 'clear', 'receiver_gone', '--tenant', 'acme'],
    { method: 'POST', path: '/halts/clear', body: { code: 'receiver_gone', tenantId: 'acme' } },
  ],
  [['halts', 'list'], { method: 'GET', path: '/fleet' }],
  [['dead-letters', 'list'], { method: 'GET', path: '/dead-letters' }],
  [['dead-letters', 'get', '7'], { method: 'GET', path: '/dead-letters/7' }],
  [
    ['triggers', 'poll-now', '--all', '--toolkit', 'npm'],
    { method: 'POST', path: '/poll-all', body: { toolkit: 'npm' } },
  ],
];

test.each(VERBS)('%j asks the engine', async (args, wanted) => {
  const engine = await stubServer(() => ({ body: { items: [], halted: {}, violations: [], raw: '' } }));
  expect((await run(args, { ENGINE_URL: engine.url, ENGINE_KEY: 'the-key-the-key-the-key' })).code).toBe(0);
  expect(engine.asked).toEqual([expect.objectContaining({ ...wanted, key: 'Bearer the-key-the-key-the-key' })]);
});

test('explain shows empty polls summed up, and what a poll had waited for', async () => {
  const timeline = [
    {
      what: 'polled',
      at: 'T3',
      code: 'ok',
      found: 3,
      deduplicated: 1,
      delivered: 2,
      claimedBy: 'b1',
      claimedAt: 'T2',
      skipped: [{ reason: 'maintenance', since: 'T0', until: 'T1' }],
    },
    { what: 'quiet', from: 'T-9', to: 'T0', polls: 12 },
  ];
  const api = await stubServer(() => ({ body: { now: 'It is polled next at T4.', timeline } }));
  const { out } = await run(['triggers', 'explain', ID], { MILKRUN_URL: api.url });
  for (const text of [
    'It is polled next at T4.',
    'found 3, deduplicated 1, delivered 2',
    'skipped: maintenance from T0 to T1',
    '12 empty polls from T-9 to T0',
  ])
    expect(out).toContain(text);
});

test('a verb for many ids goes on after a failure, and fails at the end', async () => {
  const api = await stubServer(
    ({ path }): Answer => (path.includes('bad') ? { status: 404, body: { title: 'No such trigger' } } : { body: {} }),
  );
  const { code, out, err } = await run(['triggers', 'disable', 'a', 'bad', 'b'], { MILKRUN_URL: api.url });
  expect([code, out]).toEqual([1, 'a  disabled\nb  disabled\n']);
  expect(err).toContain('No such trigger');
  expect(err).toContain('1 of 3 failed');
});

test('problems are shown with the fields that are wrong', async () => {
  const problem = { title: 'Invalid', detail: 'the body', errors: [{ path: 'config.package', message: 'required' }] };
  const api = await stubServer(() => ({ status: 422, body: problem }));
  const { code, err } = await run(['triggers', 'get', 'x'], { MILKRUN_URL: api.url });
  expect(code).toBe(1);
  expect(err).toBe(
    'milkrun: the API answered GET /triggers/x with 422: Invalid: the body\n  config.package: required\n',
  );
});

test('a refused key and a dead server exit with 5 and say what to do', async () => {
  const api = await stubServer(() => ({ status: 401, body: {} }));
  const refused = await run(['triggers', 'list'], { MILKRUN_URL: api.url, MILKRUN_KEY: 'canary-key' });
  expect([refused.code, refused.err]).toEqual([5, expect.stringContaining('Set MILKRUN_KEY')]);
  expect(refused.err).not.toContain('canary-key');
  const dead = await run(['triggers', 'list'], { MILKRUN_URL: 'http://127.0.0.1:1' });
  expect([dead.code, dead.err]).toEqual([5, expect.stringContaining('Is `milkrun dev` running?')]);
});

test.each(['not json', '[]', '{"items":3}'])('the answer %j is refused and not printed', async (raw) => {
  const api = await stubServer(() => ({ raw }));
  expect(await run(['triggers', 'list'], { MILKRUN_URL: api.url })).toMatchObject({ code: 1, out: '' });
});

test('control characters of other people do not reach the terminal', async () => {
  const api = await stubServer(() => ({ body: { items: [{ id: 'x', name: '\u001b[31mred\u0007' }], next: null } }));
  const { out } = await run(['triggers', 'list'], { MILKRUN_URL: api.url });
  expect(out).toContain('�[31mred�');
});

test('the key of `milkrun dev` is used for its own servers and for no others', async () => {
  const home = temporaryFolder();
  const { path, keys } = openHome(home);
  const [dev, other] = [
    await stubServer(() => ({ body: { items: [] } })),
    await stubServer(() => ({ body: { items: [] } })),
  ];
  writeDevFile(path, { ...keys, apiUrl: dev.url, engineUrl: dev.url });
  await run(['triggers', 'list'], { MILKRUN_HOME: home });
  await run(['shards'], { MILKRUN_HOME: home });
  expect(dev.asked.map(({ key }) => key)).toEqual([`Bearer ${keys.apiKey}`, `Bearer ${keys.engineKey}`]);
  await run(['triggers', 'list'], { MILKRUN_HOME: home, MILKRUN_URL: other.url });
  await run(['shards'], { MILKRUN_HOME: home, ENGINE_URL: other.url });
  expect(other.asked.map(({ key }) => key)).toEqual([undefined, undefined]);
});

test('doctor exits with 4 for a violation and 0 for what is only on hold', async () => {
  const violation = { kind: 'overdue', triggerId: ID, detail: 'due 80 s ago' };
  let violations: object[] = [violation];
  const engine = await stubServer(() => ({ body: { checked: 9, polled: 8, violations } }));
  const found = await run(['doctor'], { ENGINE_URL: engine.url });
  expect([found.code, found.out]).toEqual([4, expect.stringContaining('due 80 s ago')]);
  violations = [{ ...violation, held: true }];
  const held = await run(['doctor'], { ENGINE_URL: engine.url });
  expect([held.code, held.out]).toEqual([0, expect.stringContaining('0 violations, 1 on hold')]);
});

test('config list shows sources and masks secrets; a wrong setting exits with 3', async () => {
  const env = { ENGINE_KEY: 'canary-canary-canary', POLL_WIDTH: '20' };
  const { code, out } = await run(['config', 'list'], env);
  expect(code).toBe(0);
  expect(out).toMatch(/POLL_WIDTH\s+20\s+environment/);
  expect(out).not.toContain('canary');
  const refused = await run(['config', 'list', '--process', 'worker'], { POLL_WIDTH: 'wide', LEASE_TTL: '3s' });
  expect(refused.code).toBe(3);
  for (const name of ['POLL_WIDTH = "wide"', 'LEASE_TTL = "3s"', 'WORKERDB_URL', 'CONTROL_PLANE_URL']) {
    expect(refused.err).toContain(name);
  }
});

test('A05: activities of a folder are sent with their paths, front matter and prose; a refused one fails the command', async () => {
  const { url, asked } = await stubServer(({ body }) => ({
    body: {
      results: (body as { definitions: { path: string; definition: { slug: string } }[] }).definitions.map(
        ({ path, definition }) => ({
          path,
          slug: definition.slug,
          result: definition.slug === 'new-release' ? 'refused' : 'created',
          errors: [{ path: 'on', message: 'no' }],
        }),
      ),
    },
  }));
  const examples = new URL('../../../examples/activities/', import.meta.url).pathname;
  const { code, out, err } = await run(['activities', 'apply', examples, '--dry-run'], {
    MILKRUN_URL: url,
    MILKRUN_KEY: 'a-key-for-this-test-only',
  });
  expect(err).toContain('1 of 3 were refused');
  expect(code).toBe(1);
  expect(out).toContain('weekly-sbom');
  const [sent] = asked as [Asked];
  const { definitions, dry_run } = sent.body as { definitions: { definition: object }[]; dry_run: boolean };
  expect([sent.path, dry_run]).toEqual(['/activity-definitions/apply', true]);
  expect(definitions.map(({ definition }) => parseDefinition(definition).slug)).toEqual([
    'good-morning',
    'new-release',
    'weekly-sbom',
  ]);
  expect(definitions[2]?.definition).toMatchObject({ description: expect.stringContaining('Every Monday at nine') });
});

test('migrate follows its progress, and fails with a hint when something was not moved', async () => {
  const states = [
    { state: 'running', moved: 1, refused: {} },
    { state: 'done', moved: 2, refused: { no_codec: 1 } },
  ];
  const engine = await stubServer(({ method }) => {
    if (method === 'POST') return { status: 202, body: { id: 'migration:1' } };
    const rest = {
      id: 'migration:1',
      total: 3,
      gone: 0,
      pausedBecause: null,
      examples: [{ triggerId: ID, code: 'no_codec' }],
    };
    return { body: { ...rest, ...states.shift() } };
  });
  const { code, out, err } = await run(['migrate', 'to-v2', '--toolkit', 'mail'], { ENGINE_URL: engine.url });
  expect(engine.asked[0]).toMatchObject({ body: { direction: 'to_v2', toolkit: 'mail' } });
  expect(code).toBe(1);
  expect(out).toContain(ID);
  expect(err).toContain('migration:1: running, 1 of 3 moved\n');
  expect(err).toContain('not moved: 1 no_codec; MIGRATION_CODECS');
});
