/** Routes of activities: definitions by API and from files, and what they ask of the orchestrator. */
import postgres from 'postgres';
import { expect, it } from 'vitest';
import { startTestApi } from './api.ts';

const BASE = '/activity-definitions';
const definition = (own: object = {}) => ({ slug: 'a', rules: [{ id: 'r', task: { type: 'noop' } }], ...own });
const weekly = (own: object = {}) => definition({ on: [{ cron: '0 9 * * 1', timezone: 'Europe/Berlin', ...own }] });

it('A80: definitions are created, listed, read, changed and deleted; a wrong one is refused by field', async () => {
  await using test = await startTestApi();
  const made = await test.call('POST', BASE, weekly());
  expect(made).toMatchObject({
    status: 201,
    headers: { etag: '"1"' },
    body: { slug: 'a', trigger_type: 'cron', version: 1, enabled: true },
  });
  const { id } = made.body;
  expect((await test.call('GET', BASE)).body.items).toMatchObject([{ id }]);
  expect((await test.call('GET', `${BASE}/a`)).body.id).toBe(id);
  const stale = { headers: { 'if-match': '"7"' } };
  expect((await test.call('PUT', `${BASE}/a`, weekly({ cron: '0 8 * * 1' }), stale)).status).toBe(412);
  const put = await test.call('PUT', `${BASE}/a`, weekly({ cron: '0 8 * * 1' }), { headers: { 'if-match': '"1"' } });
  expect(put.body).toMatchObject({ id, version: 2, definition: { on: [{ cron: '0 8 * * 1' }] } });
  expect((await test.call('GET', `${BASE}/${id}/versions`)).body.items).toMatchObject([{ version: 2 }, { version: 1 }]);
  const back = await test.call('POST', `${BASE}/${id}/versions/1/publish`, {});
  expect(back.body).toMatchObject({ version: 3, definition: { on: [{ cron: '0 9 * * 1' }] } });
  const wrong = await test.call('PUT', `${BASE}/a`, weekly({ timezone: 'Europe/Berln' }));
  expect(wrong).toMatchObject({
    status: 400,
    body: {
      errors: [{ path: 'on[0].timezone', message: '"Europe/Berln" is no time zone; did you mean Europe/Berlin?' }],
    },
  });
  expect(
    (await test.call('POST', BASE, definition({ slug: 'b', on: [{ at: '2020-01-01T00:00:00Z' }] }))).text,
  ).toContain('is in the past');
  expect((await test.call('POST', BASE, weekly())).status).toBe(409);
  const other = await test.otherTenant();
  expect((await test.call('GET', `${BASE}/${id}`, undefined, { key: other })).status).toBe(404);
  expect((await test.call('DELETE', `${BASE}/a`)).status).toBe(204);
  expect((await test.call('GET', `${BASE}/a`)).status).toBe(404);
});

it('A81: a start by hand is an event and a command; the same key is the same run; a disabled one needs force', async () => {
  await using test = await startTestApi();
  const { id } = (await test.call('POST', BASE, definition())).body;
  const first = await test.call('POST', `${BASE}/a/trigger`, { data: { n: 1 }, key: 'k' });
  expect(first.status).toBe(202);
  expect(first.body.workflow_id).toMatch(new RegExp(`^activity-${id}:k@[0-9a-f]{8}$`));
  expect((await test.call('POST', `${BASE}/a/trigger`, { data: { n: 1 }, key: 'k' })).body).toEqual(first.body);
  await test.call('POST', `${BASE}/a/disable`, { reason: 'holiday' });
  const refused = await test.call('POST', `${BASE}/a/trigger`, {});
  expect(refused).toMatchObject({
    status: 409,
    body: { detail: 'a is disabled; say force: true to run it all the same' },
  });
  expect((await test.call('POST', `${BASE}/a/trigger`, { force: true })).status).toBe(202);
});

it('A06 A07: files are brought into step by slug, and what did not come from files is left alone', async () => {
  await using test = await startTestApi();
  await test.call('POST', BASE, definition({ slug: 'by-hand' }));
  const apply = async (definitions: object[], more: object = {}) => {
    const body = { definitions: definitions.map((one, n) => ({ path: `f${n}.yaml`, definition: one })), ...more };
    const { results } = (await test.call('POST', `${BASE}/apply`, body)).body;
    return results.map(({ slug, result }: { slug: string; result: string }) => `${slug} ${result}`);
  };
  const one = definition({ slug: 'one' });
  const two = definition({ slug: 'two' });
  expect(await apply([one, two], { dry_run: true })).toEqual(['one created', 'two created']);
  expect(await apply([one, two])).toEqual(['one created', 'two created']);
  expect(await apply([one, two])).toEqual(['one unchanged', 'two unchanged']);
  expect(await apply([{ ...one, name: 'One' }, definition({ slug: 'by-hand', name: 'x' }), { slug: 'bad' }])).toEqual([
    'one updated',
    'by-hand refused',
    'null refused',
  ]);
  expect(await apply([one], { prune: true })).toEqual(['one updated', 'two removed']);
  expect((await test.call('GET', BASE)).body.items.map(({ slug }: { slug: string }) => slug).sort()).toEqual([
    'by-hand',
    'one',
  ]);
});

it('ticks show clock changes, and backfill names only ticks without a run', async () => {
  await using test = await startTestApi();
  const { id } = (
    await test.call('POST', BASE, definition({ on: [{ cron: '30 2 * * *', timezone: 'Europe/Berlin' }] }))
  ).body;
  const { items } = (await test.call('GET', `${BASE}/a/ticks?count=2&after=2027-03-27T12:00:00Z`)).body;
  expect(items).toEqual([
    { at: null, local: '2027-03-28T02:30', flag: 'gap', runs: false },
    { at: '2027-03-29T00:30:00.000Z', local: '2027-03-29T02:30', flag: null, runs: true },
  ]);
  const range = { from: '2026-01-01T00:00:00Z', to: '2026-01-04T00:00:00Z' };
  const preview = await test.call('POST', `${BASE}/a/backfill`, { ...range, dry_run: true });
  expect(preview.body.ticks).toEqual([
    '2026-01-01T01:30:00.000Z',
    '2026-01-02T01:30:00.000Z',
    '2026-01-03T01:30:00.000Z',
  ]);
  expect((await test.call('POST', `${BASE}/${id}/backfill`, { ...range, max: 1 })).body).toMatchObject({
    left: 2,
    dry_run: false,
  });
});

it('a sample event is matched and planned without any effect', async () => {
  await using test = await startTestApi();
  const rules = [{ id: 'r', for_each: 'context.repos', task: { type: 'noop', title: 'Look at ${item}' } }];
  await test.call('POST', BASE, definition({ rules, on: [{ event: { type: 'a.b', filters: { n: 1 } } }] }));
  const event = { specversion: '1.0', id: '1', source: '/x', type: 'a.b', data: { n: 2 } };
  const answer = await test.call('POST', `${BASE}/a/test`, { event, context: { repos: ['x', 'y'] } });
  expect(answer.body.match).toEqual({ matched: false, reason: 'filters.n: is 2, wanted 1' });
  expect(answer.body.plan.tasks.map(({ title }: { title: string }) => title)).toEqual(['Look at x', 'Look at y']);
  expect((await test.call('POST', `${BASE}/a/test`, { event })).body.error).toMatchObject({ code: 'plan.not_a_list' });
  expect((await test.call('POST', `${BASE}/a/test`, { event: { id: '1' } })).status).toBe(400);
});

it('A04: the JSON Schemas are served', async () => {
  await using test = await startTestApi();
  const { body } = await test.call('GET', '/schemas/activity-definition', undefined, { key: '' });
  expect(body).toMatchObject({ title: 'Activity definition', additionalProperties: false });
  expect((await test.call('GET', '/schemas/other', undefined, { key: '' })).status).toBe(400);
});

it('A58: only a task that waits for a person can be completed, by its own tenant', async () => {
  await using test = await startTestApi();
  const { id } = (await test.call('POST', BASE, definition())).body;
  const run = '0190b5b0-0000-7000-8000-0000000000aa';
  const task = `task-${run}:r:0`;
  const { url } = test;
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  await sql`insert into activity_runs (run_id, activity_id, tenant_id, version_used, dedupe_key, origin, status, event, workflow_id, temporal_run_id)
    values (${run}, ${id}, 'default', 1, 'k', 'manual', 'running', '{}', 'w', 'r')`;
  await sql`insert into activity_tasks (task_id, run_id, activity_id, tenant_id, version_used, rule_id, item_key, position, type, mode, title, params, labels, status, timeout_ms, attempts_max)
    values (${task}, ${run}, ${id}, 'default', 1, 'r', '0', 0, 'human', 'human', 'T', '{}', '{}', 'waiting', 1000, 1)`;
  const path = `/activity-tasks/${encodeURIComponent(task)}`;
  expect((await test.call('GET', '/activity-tasks?mode=human&status=waiting')).body.items).toMatchObject([
    { task_id: task, title: 'T' },
  ]);
  const other = await test.otherTenant();
  expect((await test.call('POST', `${path}/complete`, {}, { key: other })).status).toBe(404);
  expect((await test.call('POST', `${path}/complete`, { result: { ok: 1 } })).body).toMatchObject({
    status: 'done',
    result: { ok: 1 },
  });
  expect((await test.call('POST', `${path}/complete`, {})).body.detail).toBe('the task is done');
  expect(await sql`select kind, payload from activity_commands`).toMatchObject([
    { kind: 'task_done', payload: { taskId: task } },
  ]);
  expect((await test.call('GET', '/activity-runs?status=running')).body.items).toMatchObject([
    { run_id: run, slug: 'a' },
  ]);
  expect((await test.call('POST', `/activity-runs/${run}/cancel`, {})).status).toBe(202);
  await sql.end();
});
