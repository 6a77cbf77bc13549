/** Schedules on a real Temporal server: written as the definitions say, kept so, and what they fire judged by our own rule. */

import { type Clock, noLog, noMetrics, systemClock } from '@milkrun/core';
import type {} from '@milkrun/testkit';
import { PATIENCE } from '@milkrun/testkit';
import { afterAll, afterEach, beforeAll, expect, inject, it, vi } from 'vitest';
import {
  createSchedules,
  type DefinitionInput,
  drainCommands,
  nextTicks,
  parseDefinition,
  scheduleIdOf,
  startOf,
  storedDefinitionOf,
  tickRuleOf,
} from '../src/index.ts';
import { cronOf, minimal } from './definitions.ts';
import { openServer } from './run-scene.ts';

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

const HOUR = 3_600_000;
const cron = (over: Record<string, unknown> = {}, more: Record<string, unknown> = {}): DefinitionInput =>
  ({ ...cronOf('0 9 * * 1', { timezone: 'Europe/Berlin', ...over }), ...more }) as DefinitionInput;

async function open() {
  const scene = await server.scene();
  scenes.push(scene);
  const time = { offsetMs: 0 };
  const clock: Clock = { ...systemClock, now: () => systemClock.now() + time.offsetMs };
  const { client, queues, registry } = scene;
  const store = registry.activitySchedules;
  const schedules = createSchedules({ store, client, clock, log: noLog, metrics: noMetrics, taskQueue: queues.runs });
  const handle = (id: string) => client.schedule.getHandle(scheduleIdOf(id));
  return {
    ...scene,
    schedules,
    time,
    handle,
    async defineSynced(definition: DefinitionInput) {
      const { id } = await scene.define(definition);
      expect(await schedules.syncOne(id)).toMatchObject({ verb: 'create' });
      return { id, described: await handle(id).describe() };
    },
    update: (id: string, definition: DefinitionInput) =>
      registry.activities.update(scene.actor, id, storedDefinitionOf(parseDefinition(definition))),
    drain: () => drainCommands({ store, client, log: noLog, taskQueue: queues.runs }),
    idsOf: async () => (await schedules.list()).filter((each) => scene.defined.some((id) => each === scheduleIdOf(id))),
  };
}

it('A10 A16: an enabled cron definition has one schedule, whose action starts the run of the activity on the queue of runs', async () => {
  const scene = await open();
  const { id, described } = await scene.defineSynced(cron());
  expect(described.scheduleId).toBe(`activity-schedule-${id}`);
  expect(described.state.paused).toBe(false);
  expect(described.action).toMatchObject({
    workflowType: 'RunActivityWorkflow',
    workflowId: `activity-${id}:cron`,
    taskQueue: scene.queues.runs,
    args: [id, { origin: 'cron', eventKey: null, version: null }],
  });
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'leave' });
  await vi.waitFor(async () => expect(await scene.idsOf()).toEqual([`activity-schedule-${id}`]), PATIENCE);
});

it('A11: an event definition has no schedule, a disabled cron definition has a paused one', async () => {
  const scene = await open();
  const event = await scene.define({ ...minimal({ on: [{ event: { type: 'a.b' } }] }), slug: 'event' });
  expect(await scene.schedules.syncOne(event.id)).toMatchObject({ verb: 'leave' });
  await expect(scene.handle(event.id).describe()).rejects.toThrow();
  const { described } = await scene.defineSynced(cron({}, { enabled: false }));
  expect(described.state).toMatchObject({ paused: true });
});

it('A12: a new expression, zone, jitter or policy shows in the schedule, whose id stays', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron());
  await scene.update(
    id,
    cron({ cron: '30 7 * * *', timezone: 'Asia/Tokyo', jitter: '90s', misfire: { policy: 'catchup' } }),
  );
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'update', scheduleId: `activity-schedule-${id}` });
  const { spec, policies } = await scene.handle(id).describe();
  expect(spec).toMatchObject({
    timezone: 'Asia/Tokyo',
    jitter: 90_000,
    calendars: [{ hour: [{ start: 7 }], minute: [{ start: 30 }] }],
  });
  expect(policies.overlap).toBe('BUFFER_ALL');
});

it('A13: disabling pauses and enabling unpauses, with who and why in the note', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron());
  await scene.registry.activities.setEnabled(scene.actor, id, false, { reason: 'holiday' });
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'pause' });
  expect((await scene.handle(id).describe()).state).toMatchObject({
    paused: true,
    note: 'milkrun: disabled by test: holiday',
  });
  await scene.registry.activities.setEnabled(scene.actor, id, true);
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'unpause' });
  expect((await scene.handle(id).describe()).state.paused).toBe(false);
});

it('A14: a deleted activity loses its schedule; deleting twice is no error', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron());
  await scene.registry.activities.remove(scene.actor, id);
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'delete' });
  await expect(scene.handle(id).describe()).rejects.toThrow();
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'leave' });
});

it('A15: foreign schedules are neither listed nor touched, even with our prefix', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron());
  const foreign = scheduleIdOf('00000000-0000-7000-8000-000000000000');
  const other = await scene.client.schedule.create({
    scheduleId: foreign,
    memo: { installation: 'another' },
    spec: { cronExpressions: ['0 0 1 1 *'] },
    action: { type: 'startWorkflow', workflowType: 'Foreign', taskQueue: 'foreign' },
  });
  try {
    await vi.waitFor(async () => expect(await scene.schedules.list()).toContain(scheduleIdOf(id)), PATIENCE);
    expect(await scene.schedules.list()).not.toContain(foreign);
    await scene.schedules.sync();
    scene.time.offsetMs += HOUR;
    await scene.schedules.sync();
    expect((await other.describe()).action).toMatchObject({ workflowType: 'Foreign' });
    expect(await scene.schedules.syncOne('00000000-0000-7000-8000-000000000000')).toMatchObject({ verb: 'leave' });
  } finally {
    await other.delete();
  }
});

it.each([
  ['A17', 'skip', { grace: '2m' }, 'SKIP', 120_000],
  ['A18', 'catchup', { window: '3d' }, 'BUFFER_ALL', 3 * 24 * HOUR],
  ['A19', 'compress', {}, 'BUFFER_ONE', 7 * 24 * HOUR],
])(
  '%s A20: policy %s is read back from the server as overlap and window',
  async (_, policy, over, overlap, catchupWindow) => {
    const scene = await open();
    const { described } = await scene.defineSynced(cron({ misfire: { policy, ...over } }));
    expect(described.policies).toMatchObject({ overlap, catchupWindow });
  },
);

it('A21: zone and jitter are read back, and a tick that fires carries its nominal time', async () => {
  const scene = await open();
  const { id, described } = await scene.defineSynced(
    cron({ cron: '*/5 * * * *', jitter: '10s', misfire: { policy: 'catchup' } }),
  );
  expect(described.spec).toMatchObject({ timezone: 'Europe/Berlin', jitter: 10_000 });
  const tick = Math.floor(systemClock.now() / 300_000) * 300_000 - 600_000;
  await scene
    .handle(id)
    .backfill({ start: new Date(tick - 1_000), end: new Date(tick + 11_000), overlap: 'ALLOW_ALL' });
  await vi.waitFor(
    async () => expect((await scene.runs())[0]).toMatchObject({ status: 'succeeded', origin: 'cron' }),
    PATIENCE,
  );
  const [run] = await scene.runs();
  expect(run?.scheduled_for.getTime()).toBe(tick);
  expect(run?.dedupe_key).toBe(`cron:${new Date(tick).toISOString()}`);
  expect(run?.event).toMatchObject({
    type: 'dev.milkrun.cron.fired',
    data: { scheduledFor: new Date(tick).toISOString(), missed: [] },
  });
});

it('c.3: making up for a tick that ran makes a duplicate row and no second effective run', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron({ cron: '*/5 * * * *' }));
  const tick = Math.floor(systemClock.now() / 300_000) * 300_000 - 600_000;
  const statuses = async () => (await scene.runs()).map(({ status }) => status);
  await scene.registry.activitySchedules.command([startOf(id, tick, true)]);
  await scene.drain();
  await vi.waitFor(async () => expect(await statuses()).toEqual(['succeeded']), PATIENCE);
  await scene.handle(id).backfill({ start: new Date(tick - 1_000), end: new Date(tick), overlap: 'ALLOW_ALL' });
  await vi.waitFor(async () => expect(await statuses()).toEqual(['succeeded', 'missed']), PATIENCE);
  await scene.registry.activitySchedules.command([{ ...startOf(id, tick, true), workflowId: `again-${id}` }]);
  await scene.drain();
  await vi.waitFor(async () => expect(await statuses()).toEqual(['succeeded', 'missed', 'duplicate']), PATIENCE);
});

it('A17: a tick that comes late under skip is a row that says missed, and no task', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron({ cron: '*/5 * * * *' }));
  const tick = Math.floor(systemClock.now() / 300_000) * 300_000 - 600_000;
  await scene.handle(id).backfill({ start: new Date(tick - 1_000), end: new Date(tick), overlap: 'ALLOW_ALL' });
  await vi.waitFor(async () => expect((await scene.runs())[0]).toMatchObject({ status: 'missed' }), PATIENCE);
  expect((await scene.runs())[0]?.reason).toMatch(/^\d+ s late; grace is 60 s$/);
  expect(await scene.tasks()).toHaveLength(0);
});

it('A19: five ticks at once under compress are one run whose window covers them', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron({ cron: '* * * * *', misfire: { policy: 'compress' } }));
  const last = Math.floor(systemClock.now() / 60_000) * 60_000;
  const covered = new Date(last - 300_000);
  await scene.sql`update activity_definitions set covered_at = ${covered} where id = ${id}`;
  await scene.handle(id).pause('so that no tick of now comes between');
  await scene.handle(id).backfill({ start: covered, end: new Date(last), overlap: 'ALLOW_ALL' });
  await vi.waitFor(async () => {
    const statuses = (await scene.runs()).map(({ status }) => status as string);
    expect(statuses.filter((status) => status === 'succeeded')).toHaveLength(1);
    expect(statuses.filter((status) => status === 'coalesced').length).toBeGreaterThanOrEqual(4);
  }, PATIENCE);
  const run = (await scene.runs()).find(({ status }) => status === 'succeeded');
  expect(run?.window_start).toEqual(covered);
  expect(run?.event.data.missedCount).toBeGreaterThanOrEqual(4);
});

it('A23: a schedule of ours without an activity goes, once it was seen in two passes', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron());
  await scene.registry.activities.remove(scene.actor, id);
  await vi.waitFor(async () => expect(await scene.schedules.list()).toContain(scheduleIdOf(id)), PATIENCE);
  await scene.schedules.sync();
  expect((await scene.handle(id).describe()).scheduleId).toBe(scheduleIdOf(id));
  scene.time.offsetMs += 31_000;
  const { steps } = await scene.schedules.sync();
  expect(steps).toContainEqual({
    verb: 'delete',
    scheduleId: scheduleIdOf(id),
    slug: null,
    why: 'its activity is gone',
  });
  await expect(scene.handle(id).describe()).rejects.toThrow();
});

it('A24: a dry run of the sync says what it would do and does nothing', async () => {
  const scene = await open();
  const { id } = await scene.define(cron());
  const { steps } = await scene.schedules.sync({ dryRun: true });
  expect(steps).toContainEqual({
    verb: 'create',
    scheduleId: scheduleIdOf(id),
    slug: 'minimal',
    why: 'there was none',
  });
  await expect(scene.handle(id).describe()).rejects.toThrow();
});

it('c.9: what was edited by hand is restored and told; what was paused by hand stays and is shown', async () => {
  const scene = await open();
  const { id } = await scene.defineSynced(cron());
  await scene.handle(id).update((previous) => ({ ...previous, spec: { cronExpressions: ['0 0 * * *'] } }));
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'restore' });
  expect((await scene.handle(id).describe()).spec.calendars).toMatchObject([{ hour: [{ start: 9 }] }]);
  const audit = await scene.registry.audit(scene.actor.tenantId, { objectKind: 'activity', objectId: id, limit: 1 });
  expect(audit).toMatchObject([{ action: 'schedule_restored', actor: 'orchestrator' }]);
  await scene.handle(id).pause('I am looking at it');
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'leave', why: 'paused outside: I am looking at it' });
  await scene.update(id, cron({ cron: '0 10 * * 1' }));
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'update' });
  expect((await scene.handle(id).describe()).state).toMatchObject({ paused: true, note: 'I am looking at it' });
});

it('A25: at runs once, then the activity is done and has no schedule again', async () => {
  const scene = await open();
  const at = new Date(Math.ceil(systemClock.now() / 1000) * 1000 + 2_000).toISOString();
  const { id, described } = await scene.defineSynced(minimal({ on: [{ at }] }));
  expect(described.state.remainingActions).toBe(1);
  await vi.waitFor(
    async () => expect((await scene.runs())[0]).toMatchObject({ status: 'succeeded', origin: 'at' }),
    PATIENCE,
  );
  expect((await scene.runs())[0]?.scheduled_for.toISOString()).toBe(at);
  expect(await scene.registry.activities.get(scene.actor.tenantId, id)).toMatchObject({ status: 'done' });
  await scene.schedules.syncOne(id);
  expect(await scene.schedules.syncOne(id)).toMatchObject({ verb: 'leave', why: 'it has run' });
  await expect(scene.handle(id).describe()).rejects.toThrow();
});

it.each([
  ['skip', 0, 5],
  ['catchup', 2, 3],
  ['compress', 1, 0],
])(
  'A26: ticks nobody opened under %s are found: %i made up for, %i named as missed',
  async (policy, started, missed) => {
    const scene = await open();
    const now = systemClock.now();
    // Every ten minutes, five away from now: no tick is just about to count as unopened.
    const offset = (Math.floor(now / 60_000) + 5) % 10;
    const last = Math.floor((now - offset * 60_000) / 600_000) * 600_000 + offset * 60_000;
    const { id } = await scene.define(cron({ cron: `${offset}-59/10 * * * *`, misfire: { policy, max: 2 } }));
    const covered = new Date(last - 3_000_000);
    await scene.sql`update activity_definitions set covered_at = ${covered} where id = ${id}`;
    expect(await scene.schedules.recover()).toEqual({ started, missed });
    expect(await scene.schedules.recover()).toEqual({ started: 0, missed: 0 });
    await scene.drain();
    await vi.waitFor(async () => {
      const statuses = (await scene.runs()).map(({ status }) => status);
      expect(statuses.filter((status) => status === 'missed')).toHaveLength(missed);
      expect(statuses.filter((status) => status === 'succeeded')).toHaveLength(started);
    }, PATIENCE);
    const ran = (await scene.runs()).filter(({ status }) => status === 'succeeded');
    if (policy === 'compress') expect(ran[0]?.event.data).toMatchObject({ windowStart: covered.toISOString() });
  },
);

it('a gap shifted by dst.gap is an extra calendar of the schedule', async () => {
  const scene = await open();
  const { described } = await scene.defineSynced(cron({ cron: '30 2 * * *', dst: { gap: 'shift' } }));
  const year = new Date(systemClock.now()).getUTCFullYear();
  const extra = described.spec.calendars?.filter(
    ({ month, year: years }) => month[0]?.start === 'MARCH' && years.length > 0,
  );
  expect(extra?.map(({ year: years, hour }) => [years[0]?.start, hour[0]?.start])).toEqual([
    [year, 3],
    [year + 1, 3],
    [year + 2, 3],
  ]);
});

it('the preview of ticks equals the next times of the schedule', async () => {
  const scene = await open();
  for (const [n, [expression, timezone]] of [
    ['*/7 3-5 * * *', 'Europe/Berlin'],
    ['0 0 1 */2 *', 'America/New_York'],
    ['15 9-17 * * mon-fri', 'Asia/Kolkata'],
    ['59 23 31 12 *', 'Pacific/Auckland'],
  ].entries()) {
    const definition = { ...cronOf(expression as string, { timezone }), slug: `preview-${n}` } as DefinitionInput;
    const { described } = await scene.defineSynced(definition);
    const [entry] = parseDefinition(definition).on;
    const times = described.info.nextActionTimes.map((time) => time.getTime());
    const rule = tickRuleOf(entry as Parameters<typeof tickRuleOf>[0]);
    expect(
      nextTicks(rule, (times[0] as number) - 1, times.length).map(({ at }) => at),
      expression,
    ).toEqual(times);
  }
});
