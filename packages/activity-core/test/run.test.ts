/** Runs on a real Temporal server and PostgreSQL: what a definition says is what happens, once, and is written down. */

import type {} from '@milkrun/testkit';
import { PATIENCE } from '@milkrun/testkit';
import { afterAll, afterEach, beforeAll, expect, inject, it, vi } from 'vitest';
import { type DefinitionInput, parseDefinition, storedDefinitionOf } from '../src/index.ts';
import { minimal, weeklySbom } from './definitions.ts';
import { openServer, type SceneOptions } from './run-scene.ts';

type Scene = Awaited<ReturnType<Awaited<ReturnType<typeof openServer>>['scene']>>;
let server: Awaited<ReturnType<typeof openServer>>;
const scenes: Scene[] = [];
beforeAll(async () => {
  server = await openServer(inject('temporalAddress'));
});
afterEach(async () => {
  await Promise.all(scenes.splice(0).map((scene) => scene.close()));
});
afterAll(async () => {
  await server.close();
});
async function open(options: SceneOptions = {}): Promise<Scene> {
  const scene = await server.scene(options);
  scenes.push(scene);
  return scene;
}
const rules = (...given: Record<string, unknown>[]): DefinitionInput =>
  minimal({ rules: given.map((rule, n) => ({ id: `r${n}`, ...rule })) });
const each = (list: string, over: Record<string, unknown> = {}, more: Record<string, unknown> = {}): DefinitionInput =>
  minimal({ rules: [{ id: 'each', for_each: list, limit: 5_000, task: { type: 'noop' }, ...over }], ...more });

it('A50 A53 A54: a run loads its definition, spawns its tasks as child workflows and is written down', async () => {
  const scene = await open();
  const { id } = await scene.define(
    rules(
      {
        when: 'event.data.n > 1',
        task: {
          type: 'http',
          title: 'Send ${event.data.n}',
          params: { url: `${scene.origin}/jobs`, json: { n: '${event.data.n}' } },
        },
      },
      { when: 'event.data.n > 5', task: { type: 'noop' } },
    ),
  );
  const handle = await scene.start(id, { n: 3 });
  expect(await handle.result()).toMatchObject({ status: 'succeeded' });
  const [run] = await scene.runs();
  expect(run).toMatchObject({
    activity_id: id,
    version_used: 1,
    status: 'succeeded',
    tasks_spawned: 1,
    tasks_done: 1,
    tasks_failed: 0,
    origin: 'event',
  });
  expect(run?.fired_at).toBeInstanceOf(Date);
  const [task] = await scene.tasks();
  expect(task).toMatchObject({
    task_id: `task-${run?.run_id}:r0:0`,
    title: 'Send 3',
    status: 'done',
    rule_id: 'r0',
    result: { status: 200 },
  });
  expect(scene.asked).toEqual([{ path: '/jobs', method: 'POST', key: task?.task_id, body: { n: 3 } }]);
  const child = await scene.client.workflow.getHandle(task?.task_id).describe();
  expect([child.type, child.taskQueue, child.status.name]).toEqual([
    'RunTaskWorkflow',
    scene.queues.tasks,
    'COMPLETED',
  ]);
});

it('A51 A70: context is resolved into a snapshot; 48 repositories, 46 stale: 46 tasks', async () => {
  const repos = Array.from({ length: 48 }, (_, n) => ({ slug: `repo-${n}`, sbomAgeDays: n < 2 ? 3 : 31 }));
  const scene = await open({
    answer: ({ path }) =>
      path.startsWith('/repos') ? { status: 200, body: repos } : { status: 201, headers: { location: path } },
  });
  const local = JSON.parse(
    JSON.stringify(weeklySbom)
      .replaceAll('https://hub.example', scene.origin)
      .replaceAll('https://scan.example', scene.origin),
  );
  const { id } = await scene.define(local);
  expect(await (await scene.start(id)).result()).toMatchObject({ status: 'succeeded' });
  const [run] = await scene.runs();
  expect(run).toMatchObject({ tasks_spawned: 46, tasks_done: 46, context_snapshot: { repos } });
  const sent = scene.asked.filter(({ path }) => path === '/jobs');
  expect(scene.asked[0]?.path).toBe('/repos?fields=sbom');
  expect(new Set(sent.map(({ body }) => (body as { repo: string }).repo)).size).toBe(46);
  expect(sent).toHaveLength(46);
  expect((await scene.tasks())[0]).toMatchObject({
    title: 'Rescan SBOM of repo-2',
    labels: ['sbom', 'repo-2'],
    external_ref: '/jobs',
  });
});

it('A63: a context source that answers 404 fails the run and says so; an optional one gives null', async () => {
  const scene = await open({ answer: () => ({ status: 404 }) });
  const source = { http: { url: `${scene.origin}/repos` } };
  const strict = await scene.define({ ...each('context.repos'), slug: 'strict', context: { repos: source } });
  expect(await (await scene.start(strict.id)).result()).toMatchObject({
    status: 'failed',
    reason: `context.repos: ${scene.origin} answered 404`,
  });
  expect((await scene.runs())[0]).toMatchObject({ status: 'failed', error: { code: 'context' }, tasks_planned: null });
  const lax = await scene.define({
    ...rules({ when: 'context.repos == null', task: { type: 'noop' } }),
    slug: 'lax',
    context: { repos: { ...source, optional: true } },
  });
  expect(await (await scene.start(lax.id)).result()).toMatchObject({ status: 'succeeded' });
  expect((await scene.runs())[1]).toMatchObject({ tasks_done: 1, context_snapshot: { repos: null } });
});

it('A51: a context source that fails for a moment is asked again', async () => {
  let asked = 0;
  const scene = await open({ answer: () => (++asked < 3 ? { status: 503 } : { status: 200, body: ['a'] }) });
  const { id } = await scene.define({ ...each('context.l'), context: { l: { http: { url: `${scene.origin}/l` } } } });
  expect(await (await scene.start(id)).result()).toMatchObject({ status: 'succeeded' });
  expect(asked).toBe(3);
});

it('A62 A69: a rule that can not be evaluated, or too many items, fails the run before the first task', async () => {
  const scene = await open();
  const missing = await scene.define({
    ...rules({ when: 'event.data.gone == 1', task: { type: 'noop' } }),
    slug: 'missing',
  });
  expect(await (await scene.start(missing.id)).result()).toMatchObject({ status: 'failed' });
  expect((await scene.runs())[0]).toMatchObject({
    status: 'failed',
    error: { code: 'plan.condition', message: 'rules.r0.when: event.data.gone == 1: No such key: gone' },
  });
  const many = await scene.define({ ...each('event.data.l', { limit: 2 }), slug: 'many' });
  expect(await (await scene.start(many.id, { l: [1, 2, 3] })).result()).toMatchObject({ status: 'failed' });
  expect((await scene.runs())[1]).toMatchObject({ error: { code: 'plan.fanout_limit' } });
  expect(await scene.tasks()).toHaveLength(0);
});

it('A56: failed tasks are shown in run and row, and the run follows its tolerance', async () => {
  const scene = await open({ answer: ({ path }) => ({ status: path.endsWith('3') ? 400 : 200, body: { why: 'no' } }) });
  const task = { type: 'http', params: { url: `${scene.origin}/\${item}` } };
  const strict = await scene.define({ ...each('event.data.l', { task }), slug: 'strict' });
  expect(await (await scene.start(strict.id, { l: [1, 2, 3] })).result()).toMatchObject({ status: 'failed' });
  const lax = await scene.define({ ...each('event.data.l', { task }, { spawn: { tolerate: '34%' } }), slug: 'lax' });
  expect(await (await scene.start(lax.id, { l: [1, 2, 3] })).result()).toMatchObject({ status: 'partial' });
  expect(
    (await scene.runs()).map(({ status, tasks_done, tasks_failed }) => [status, tasks_done, tasks_failed]),
  ).toEqual([
    ['failed', 2, 1],
    ['partial', 2, 1],
  ]);
  expect((await scene.tasks())[2]).toMatchObject({ status: 'failed', attempts: 1, error: { code: 'task.http.400' } });
});

it('A56: with on_failure stop nothing more is started and the rest is cancelled', async () => {
  const scene = await open({ answer: () => ({ status: 400 }) });
  const task = { type: 'http', params: { url: `${scene.origin}/x` } };
  const { id } = await scene.define(each('event.data.l', { task }, { spawn: { concurrency: 1, on_failure: 'stop' } }));
  expect(await (await scene.start(id, { l: [1, 2, 3, 4] })).result()).toMatchObject({ status: 'failed' });
  expect((await scene.tasks()).map(({ status }) => status)).toEqual(['failed', 'cancelled', 'cancelled', 'cancelled']);
});

it('a task that fails for a moment is tried again with the same key', async () => {
  let asked = 0;
  const scene = await open({ answer: () => ({ status: ++asked < 3 ? 500 : 200, body: {} }) });
  const { id } = await scene.define(rules({ task: { type: 'http', params: { url: `${scene.origin}/x` } } }));
  expect(await (await scene.start(id)).result()).toMatchObject({ status: 'succeeded' });
  expect(new Set(scene.asked.map(({ key }) => key)).size).toBe(1);
  expect((await scene.tasks())[0]).toMatchObject({ status: 'done', attempts: 3 });
});

it('A53: a task of type workflow runs any workflow of a declared queue and keeps its result', async () => {
  const scene = await open();
  const { id } = await scene.define(
    rules({
      task: { type: 'workflow', params: { workflow: 'Double', queue: scene.queues.runs, args: ['${event.data.n}'] } },
    }),
  );
  expect(await (await scene.start(id, { n: 21 })).result()).toMatchObject({ status: 'succeeded' });
  expect((await scene.tasks())[0]).toMatchObject({ status: 'done', result: 42 });
});

it('an event task puts one event on the bus, with its cause and one hop more; the 17th hop is refused', async () => {
  const scene = await open();
  const { id } = await scene.define(
    rules({ task: { type: 'event', params: { type: 'made.here', data: { n: '${event.data.n}' } } } }),
  );
  expect(await (await scene.start(id, { n: 1 }, { id: 'cause', hops: 2 })).result()).toMatchObject({
    status: 'succeeded',
  });
  const [sent] = await scene.outbox();
  expect(JSON.parse(sent?.record)).toMatchObject({
    type: 'made.here',
    source: `/activities/${id}`,
    causationid: 'cause',
    hops: 3,
    data: { n: 1 },
  });
  expect(await (await scene.start(id, { n: 1 }, { hops: 16 })).result()).toMatchObject({ status: 'failed' });
  expect((await scene.tasks())[1]).toMatchObject({ status: 'failed', error: { code: 'task.loop' } });
  expect(await scene.outbox()).toHaveLength(1);
});

it('A34 A35: a second start for the same event starts nothing', async () => {
  const scene = await open();
  const { id } = await scene.define(rules({ task: { type: 'noop' } }));
  await (await scene.start(id, {}, { id: 'e1' })).result();
  await expect(scene.start(id, {}, { id: 'e1' })).rejects.toThrow('already started');
  expect(await scene.runs()).toHaveLength(1);
});

it('a run whose key was used closes as duplicate, also when Temporal has forgotten the first', async () => {
  const scene = await open();
  const { id } = await scene.define({
    ...rules({ task: { type: 'noop' } }),
    dedupe: { strategy: 'subject', window: '366d' },
  });
  await (await scene.start(id, {}, { subject: 's1' })).result();
  expect(await (await scene.start(id, {}, { subject: 's1' })).result()).toMatchObject({ status: 'duplicate' });
  expect(await (await scene.start(id, {}, { subject: 's2' })).result()).toMatchObject({ status: 'succeeded' });
  expect((await scene.runs()).map(({ status }) => status)).toEqual(['succeeded', 'duplicate', 'succeeded']);
});

it('A71: a unique key keeps a second run from making the same open task', async () => {
  const held = Promise.withResolvers<void>();
  const scene = await open({ answer: () => held.promise.then(() => ({ status: 200, body: {} })) });
  const task = { type: 'http', params: { url: `${scene.origin}/x` }, unique: { key: 'sbom/${item}', while: 'open' } };
  const { id } = await scene.define(each('event.data.l', { task }));
  const first = await scene.start(id, { l: ['a', 'b'] });
  await vi.waitFor(() => expect(scene.asked).toHaveLength(2), PATIENCE);
  const second = await scene.start(id, { l: ['b', 'c', 'c'] });
  await vi.waitFor(async () => expect(await scene.tasks()).toHaveLength(5), PATIENCE);
  held.resolve();
  expect(await Promise.all([first.result(), second.result()])).toMatchObject([
    { status: 'succeeded' },
    { status: 'succeeded' },
  ]);
  const tasks = await scene.tasks();
  expect(tasks.map(({ unique_key, status }) => [unique_key, status])).toEqual([
    ['sbom/a', 'done'],
    ['sbom/b', 'done'],
    ['sbom/b', 'suppressed'],
    ['sbom/c', 'done'],
    ['sbom/c', 'suppressed'],
  ]);
  expect([tasks[2]?.suppressed_by, tasks[4]?.suppressed_by]).toEqual([tasks[1]?.task_id, tasks[3]?.task_id]);
  expect(await (await scene.start(id, { l: ['b'] })).result()).toMatchObject({ status: 'succeeded' });
  expect((await scene.tasks()).at(-1)).toMatchObject({ status: 'done' });
});

it('A72: a dry run plans every task and sends none', async () => {
  const scene = await open();
  const task = { type: 'http', title: 'do ${item}', params: { url: `${scene.origin}/x` } };
  const { id } = await scene.define(each('event.data.l', { task }));
  expect(await (await scene.start(id, { l: [1, 2] }, { dryRun: true })).result()).toMatchObject({
    status: 'succeeded',
  });
  expect(
    (await scene.tasks()).map(({ title, external_ref }) => [title, String(external_ref).startsWith('dry-run:')]),
  ).toEqual([
    ['do 1', true],
    ['do 2', true],
  ]);
  expect(scene.asked).toEqual([]);
});

it('A73: each task row says its rule, event, version and outcome', async () => {
  const scene = await open({ answer: () => ({ status: 202, headers: { location: '/jobs/7' }, body: { ok: true } }) });
  const { id } = await scene.define(rules({ task: { type: 'http', params: { url: `${scene.origin}/x` } } }));
  await (await scene.start(id)).result();
  const [run] = await scene.runs();
  expect((await scene.tasks())[0]).toMatchObject({
    rule_id: 'r0',
    event_key: run?.event_key,
    version_used: 1,
    external_ref: '/jobs/7',
    result: { status: 202, body: { ok: true } },
  });
});

it('A58: a task for a person waits, and ends when it is completed', async () => {
  const scene = await open();
  const { id } = await scene.define(
    rules({ task: { type: 'human', title: 'Look at it', params: { assignee: 'ann', due_in: '1d' } } }),
  );
  const handle = await scene.start(id);
  await vi.waitFor(
    async () => expect((await scene.tasks())[0]).toMatchObject({ status: 'waiting', mode: 'human', assignee: 'ann' }),
    PATIENCE,
  );
  const [task] = await scene.tasks();
  expect(task?.due_at).toBeInstanceOf(Date);
  await scene.registry.activityRuns.finishTask(task?.task_id, {
    status: 'done',
    result: { ok: 1 },
    error: null,
    externalRef: null,
  });
  await scene.client.workflow.getHandle(task?.task_id).signal('taskDone');
  expect(await handle.result()).toMatchObject({ status: 'succeeded' });
});

it('concurrency queue: runs of one key go one after the other, in their order', async () => {
  const log: string[] = [];
  const gates = new Map<string, PromiseWithResolvers<void>>();
  const scene = await open({
    async answer({ path }) {
      log.push(path);
      const gate = Promise.withResolvers<void>();
      gates.set(path, gate);
      await gate.promise;
      return { status: 200, body: {} };
    },
  });
  const { id } = await scene.define({
    ...rules({ task: { type: 'http', params: { url: `${scene.origin}/\${event.data.n}` } } }),
    concurrency: { key: 'event.data.key', limit: 1 },
  });
  const first = await scene.start(id, { n: 1, key: 'a' });
  await vi.waitFor(() => expect(log).toEqual(['/1']), PATIENCE);
  const second = await scene.start(id, { n: 2, key: 'a' });
  const other = await scene.start(id, { n: 3, key: 'b' });
  await vi.waitFor(() => expect(log).toEqual(['/1', '/3']), PATIENCE);
  expect((await scene.runs()).map(({ status }) => status).sort()).toEqual(['queued', 'running', 'running']);
  gates.get('/1')?.resolve();
  await vi.waitFor(() => expect(log).toEqual(['/1', '/3', '/2']), PATIENCE);
  for (const gate of gates.values()) gate.resolve();
  const results = await Promise.all([first.result(), second.result(), other.result()]);
  expect(results).toMatchObject([{ status: 'succeeded' }, { status: 'succeeded' }, { status: 'succeeded' }]);
});

it('concurrency skip and replace: a busy key skips the new run, or cancels the old one', async () => {
  const gate = Promise.withResolvers<void>();
  const scene = await open({ answer: () => gate.promise.then(() => ({ status: 200, body: {} })) });
  const task = { type: 'http', params: { url: `${scene.origin}/x` } };
  const skip = await scene.define({ ...rules({ task }), slug: 'skip', concurrency: { when_busy: 'skip' } });
  const replace = await scene.define({
    ...rules({ task: { type: 'human' } }),
    slug: 'replace',
    concurrency: { when_busy: 'replace' },
  });
  const busy = await scene.start(skip.id);
  await vi.waitFor(() => expect(scene.asked).toHaveLength(1), PATIENCE);
  expect(await (await scene.start(skip.id)).result()).toMatchObject({ status: 'skipped' });
  gate.resolve();
  expect(await busy.result()).toMatchObject({ status: 'succeeded' });

  const old = await scene.start(replace.id);
  const waiting = async () => (await scene.tasks()).filter(({ status }) => status === 'waiting');
  await vi.waitFor(async () => expect(await waiting()).toHaveLength(1), PATIENCE);
  await scene.start(replace.id);
  await expect(old.result()).rejects.toThrow('cancelled');
  await vi.waitFor(
    async () =>
      expect((await scene.tasks()).filter(({ type }) => type === 'human').map(({ status }) => status)).toEqual([
        'cancelled',
        'waiting',
      ]),
    PATIENCE,
  );
  expect(
    (await scene.runs()).filter(({ activity_id }) => activity_id === replace.id).map(({ status }) => status),
  ).toEqual(['cancelled', 'running']);
});

it('a run that waits for one that was terminated does not wait for ever', async () => {
  const scene = await open();
  const { id } = await scene.define({ ...rules({ task: { type: 'human' } }), concurrency: {} });
  const first = await scene.start(id);
  await vi.waitFor(async () => expect((await scene.tasks())[0]?.status).toBe('waiting'), PATIENCE);
  await first.terminate('by hand');
  await scene.start(id);
  await vi.waitFor(
    async () => expect((await scene.runs()).map(({ status }) => status)).toEqual(['failed', 'running']),
    PATIENCE,
  );
  expect((await scene.runs())[0]).toMatchObject({ error: { code: 'run.lost' } });
});

it('A89: starts of an activity are limited by the minute', async () => {
  const scene = await open();
  const { id } = await scene.define({ ...rules({ task: { type: 'noop' } }), rate: { starts_per_minute: 2 } });
  for (let n = 0; n < 2; n += 1) expect(await (await scene.start(id)).result()).toMatchObject({ status: 'succeeded' });
  const third = await scene.start(id);
  await vi.waitFor(async () => expect((await scene.runs())[2]?.status).toBe('queued'), PATIENCE);
  await scene.sql`update activity_runs set admitted_at = admitted_at - interval '1 minute'`;
  await third.signal('placeFree');
  expect(await third.result()).toMatchObject({ status: 'succeeded' });
});

it('breaker: failed runs in a row trip the activity, a success between them does not', async () => {
  const scene = await open();
  const { id } = await scene.define({
    ...rules({ when: 'event.data.ok == true', task: { type: 'noop' } }),
    breaker: { failures: 2 },
  });
  const statusOf = async (data: unknown) =>
    ((await (await scene.start(id, data)).result()) as { status: string }).status;
  const activity = () => scene.registry.activities.get(scene.actor.tenantId, id);
  expect([await statusOf({}), await statusOf({ ok: true }), await statusOf({})]).toEqual([
    'failed',
    'succeeded',
    'failed',
  ]);
  expect((await activity()).status).toBe('active');
  expect(await statusOf({})).toBe('failed');
  expect(await activity()).toMatchObject({ status: 'tripped', statusReason: '2 runs failed in a row' });
  expect(await statusOf({ ok: true })).toBe('skipped');
  await scene.registry.activities.reset(scene.actor, id);
  expect(await statusOf({ ok: true })).toBe('succeeded');
  expect(
    await scene.registry.audit(scene.actor.tenantId, { objectKind: 'activity', objectId: id, limit: 10 }),
  ).toMatchObject([{ action: 'reset' }, { action: 'tripped' }, { action: 'created' }]);
});

it('c.8: a run keeps its version to the end, whatever is published meanwhile', async () => {
  const gate = Promise.withResolvers<void>();
  const scene = await open({ answer: () => gate.promise.then(() => ({ status: 200, body: ['a', 'b'] })) });
  const definition = (title: string): DefinitionInput => ({
    ...each('context.l', { task: { type: 'noop', title } }),
    context: { l: { http: { url: `${scene.origin}/l` } } },
  });
  const { id } = await scene.define(definition('old'));
  const handle = await scene.start(id);
  await vi.waitFor(() => expect(scene.asked).toHaveLength(1), PATIENCE);
  await scene.registry.activities.update(scene.actor, id, storedDefinitionOf(parseDefinition(definition('new'))));
  gate.resolve();
  await handle.result();
  expect((await scene.tasks()).map(({ title, version_used }) => [title, version_used])).toEqual([
    ['old', 1],
    ['old', 1],
  ]);
});

it('cancelled: open tasks are cancelled, the run closes and says so', async () => {
  const scene = await open();
  const { id } = await scene.define(each('event.data.l', { task: { type: 'human' } }));
  const handle = await scene.start(id, { l: [1, 2] });
  await vi.waitFor(
    async () => expect((await scene.tasks()).map(({ status }) => status)).toEqual(['waiting', 'waiting']),
    PATIENCE,
  );
  await handle.cancel();
  await expect(handle.result()).rejects.toThrow('cancelled');
  expect((await scene.runs())[0]).toMatchObject({ status: 'cancelled' });
  await vi.waitFor(
    async () => expect((await scene.tasks()).map(({ status }) => status)).toEqual(['cancelled', 'cancelled']),
    PATIENCE,
  );
});

it('A83: runs are found by the search attribute of their activity', async () => {
  const scene = await open();
  const { id } = await scene.define(rules({ task: { type: 'noop' } }));
  const handle = await scene.start(id);
  await handle.result();
  await vi.waitFor(async () => {
    const found: string[] = [];
    for await (const { workflowId } of scene.client.workflow.list({ query: `activity_id = "${id}"` }))
      found.push(workflowId);
    expect(found).toEqual([handle.workflowId]);
  }, PATIENCE);
});
