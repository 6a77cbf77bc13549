/**
 * The rows of design section 5's verdict table that come from `/conn/batch` and from polls, end to end: a scripted answer
 * goes in, the row of workerdb comes out. One scene a row; hops are run to their end. A healthy trigger stands beside the
 * sick one and must not notice.
 */
import type { AskedConnection, Scripted } from '@milkrun/testkit';
import type { WorkerDb } from '@milkrun/workerdb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { openDatabase, openScene, type Scene, type SceneOptions } from './scene.ts';

let db: WorkerDb;
let scene: Scene;
beforeAll(async () => {
  db = await openDatabase();
});
afterAll(() => db?.close());
afterEach(() => scene?.close());

/** One trigger that goes wrong and one that does not, both primed and due, each with a new item. */
async function pair(options: SceneOptions = {}) {
  scene = await openScene(db, options);
  const [sick] = await scene.primed(1, { connectionId: 'sick', toolkit: 'sick-kit', tenantId: 'tenant-s' });
  const [well] = await scene.primed(1, { connectionId: 'well' });
  if (sick === undefined || well === undefined) throw new Error('no triggers');
  scene.source.add(sick, 'new');
  scene.source.add(well, 'new');
  return { sick, well };
}

async function expectWell(well: string): Promise<void> {
  expect(scene.controlPlane.byTrigger.get(well)).toEqual(scene.idsOf(well, 'new'));
  expect(await scene.row(well)).toMatchObject({ code: 'ok', cursor: '1', leased: false, failures: 0, poisons: 0 });
  expect(await scene.leases()).toBe(0);
}

/** Answers the sick connection by `record`, all others honestly. */
const answering = (record: (ask: AskedConnection) => object | undefined) => (asks: readonly AskedConnection[]) => ({
  body: {
    connections: asks
      .map((ask) => (ask.connectionId === 'sick' ? record(ask) : scene.controlPlane.active(ask)))
      .filter((answer) => answer !== undefined),
  },
});

describe('auth', () => {
  test.each(['expired', 'revoked', 'not_found'] as const)(
    'auth.%s halts with its code, burns no poll, and is probed once in six hours',
    async (status) => {
      const { sick, well } = await pair();
      scene.controlPlane.conn = answering(({ connectionId, tenantId }) => ({
        connectionId,
        tenantId,
        status,
        reason: 'x',
      }));
      await scene.round();
      const row = await scene.row(sick);
      expect(row).toMatchObject({ code: `auth.${status}`, halt: `auth.${status}`, failures: 0, cursor: '0' });
      expect(row.dueIn).toBeCloseTo(6 * 3600, -2);
      expect(scene.source.calls.map((call) => call.trigger.id)).toEqual([well]);
      const [record] = await db.sql`select state, code from lifecycle_outbox where trigger_id = ${sick}`;
      expect(record).toEqual({ state: 'halted', code: `auth.${status}` });
      await expectWell(well);

      scene.controlPlane.conn = undefined;
      await scene.makeDue();
      await scene.round();
      expect(await scene.row(sick)).toMatchObject({ halt: null, code: 'ok', cursor: '1' });
      expect(scene.controlPlane.byTrigger.get(sick)).toEqual(scene.idsOf(sick, 'new'));
    },
  );

  test('auth.payload_too_large: a connection too large alone backs off with failure + 1', async () => {
    const { sick, well } = await pair();
    scene.controlPlane.conn = (asks) =>
      asks.some((ask) => ask.connectionId === 'sick')
        ? { status: 500, body: 'FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE' }
        : undefined;
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({
      code: 'auth.payload_too_large',
      halt: null,
      failures: 1,
      cursor: '0',
    });
    expect((await scene.row(sick)).dueIn).toBeGreaterThan(25);
    await expectWell(well);
  });

  test.each([
    ['auth.missing', 'left out', () => undefined],
    ['auth.missing', 'named twice', (ask: AskedConnection) => ask],
    [
      'auth.refresh_failed',
      'not refreshed',
      ({ connectionId, tenantId }: AskedConnection) => ({
        connectionId,
        tenantId,
        status: 'refresh_failed',
        reason: 'x',
      }),
    ],
  ] as const)(
    '%s (%s) is asked again in each hop and then released with nothing charged',
    async (code, _how, record) => {
      const { sick, well } = await pair();
      let asked = 0;
      scene.controlPlane.conn = (asks) => {
        const connections = asks.flatMap((ask): object[] => {
          if (ask.connectionId !== 'sick') return [scene.controlPlane.active(ask)];
          asked += 1;
          const answer = record(ask);
          if (answer === undefined) return [];
          return answer === ask ? [scene.controlPlane.active(ask), scene.controlPlane.active(ask)] : [answer];
        });
        return { body: { connections } };
      };
      await scene.round();
      expect(asked).toBe(4);
      const row = await scene.row(sick);
      expect(row).toMatchObject({ code, halt: null, failures: 0, poisons: 0, cursor: '0', leased: false });
      expect(row.dueIn).toBeLessThanOrEqual(0);
      await expectWell(well);
    },
  );

  test.each([
    ['503', { status: 503, body: 'away' }],
    ['a reset', 'reset'],
    ['no JSON', { body: '<html>' }],
    ['a list', { body: [] }],
  ] as const)(
    'auth.unavailable (%s) is released with nothing charged, and heals within the batch',
    async (_how, scripted) => {
      const { sick, well } = await pair();
      const failing = (asks: readonly AskedConnection[]): Scripted | undefined =>
        asks.some((ask) => ask.connectionId === 'sick') ? scripted : undefined;
      scene.controlPlane.conn = failing;
      const input = await scene.plan();
      expect(await scene.hop(input)).toMatchObject({ status: 'ok', left: 1 });
      await expect(scene.row(sick)).resolves.toMatchObject({ leased: true });
      await expect(scene.row(well)).resolves.toMatchObject({ leased: false, cursor: '1' });
      scene.controlPlane.conn = undefined;
      await scene.settled(input);
      expect(await scene.row(sick)).toMatchObject({ code: 'ok', halt: null, failures: 0, leased: false, cursor: '1' });
      await expectWell(well);
    },
  );

  test('an answer for another tenant is auth.not_found for the one who asked, and no poll sees the credentials', async () => {
    const { sick, well } = await pair();
    scene.controlPlane.conn = answering((ask) => scene.controlPlane.active({ ...ask, tenantId: 'tenant-evil' }));
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ halt: 'auth.not_found' });
    expect(scene.source.calls.map((call) => call.auth)).toEqual([{ tenantId: 'tenant-1', connectionId: 'well' }]);
    await expectWell(well);
  });
});

describe('poll', () => {
  const failing = (sick: string, scripted: Scripted) => {
    scene.source.script = (call) => (call.trigger.id === sick ? scripted : undefined);
  };
  const failure = (kind: string, more: object = {}): Scripted => ({
    body: { error: { class: kind, message: 'no', ...more } },
  });

  test('poll.rate_limited: next poll at Retry-After, a source limit for all workers, failures unchanged', async () => {
    const { sick, well } = await pair();
    failing(sick, failure('rate_limited', { retryAfter: 900 }));
    await scene.round();
    const row = await scene.row(sick);
    expect(row).toMatchObject({ code: 'poll.rate_limited', halt: null, failures: 0, cursor: '0' });
    expect(row.dueIn).toBeGreaterThan(890);
    expect(
      await scene.count(
        `source_limits where reason = 'rate_limited' and not_before > statement_timestamp() + interval '890 s'`,
      ),
    ).toBe(1);
    await expectWell(well);
  });

  test('poll.rate_limited obeys no Retry-After beyond a day', async () => {
    const { sick } = await pair();
    failing(sick, failure('rate_limited', { retryAfter: 10_000_000 }));
    await scene.round();
    expect((await scene.row(sick)).dueIn).toBeLessThanOrEqual(86_400);
  });

  test('poll.auth_rejected gets fresh auth in the next hop, and only then halts', async () => {
    const { sick, well } = await pair();
    let tokens = 0;
    scene.controlPlane.conn = (asks) => {
      tokens += 1;
      return {
        body: { connections: asks.map((ask) => ({ ...scene.controlPlane.active(ask), auth: { token: tokens } })) },
      };
    };
    failing(sick, failure('auth'));
    const input = await scene.plan();
    expect(await scene.hop(input)).toMatchObject({ left: 1 });
    expect(await scene.row(sick)).toMatchObject({ leased: true, halt: null });
    await scene.hop(input, { hop: 1 });
    expect(await scene.row(sick)).toMatchObject({ halt: 'auth.expired', code: 'poll.auth_rejected', failures: 0 });
    const used = scene.source.calls
      .filter((call) => call.trigger.id === sick)
      .map((call) => (call.auth as { token: number }).token);
    expect(new Set(used).size).toBe(2);
    await expectWell(well);
  });

  test('poll.auth_rejected once and then accepted with fresh auth goes on as if nothing had been', async () => {
    const { sick, well } = await pair();
    let refusals = 0;
    scene.source.script = (call) => (call.trigger.id === sick && refusals++ === 0 ? failure('auth') : undefined);
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ halt: null, code: 'ok', cursor: '1', failures: 0 });
    await expectWell(well);
  });

  test.each([
    ['poll.connector_error', 'class transient', { body: { error: { class: 'transient', message: 'no' } } }],
    ['poll.connector_error', 'class connector', { body: { error: { class: 'connector', message: 'no' } } }],
    [
      'poll.connector_error',
      'function error',
      {
        headers: { 'x-amz-function-error': 'Unhandled' },
        body: { errorType: 'TypeError', errorMessage: 'x is not a function' },
      },
    ],
    [
      'poll.timeout',
      'function timed out',
      {
        headers: { 'x-amz-function-error': 'Unhandled' },
        body: { errorType: 'Sandbox.Timedout', errorMessage: 'Task timed out after 3.00 seconds' },
      },
    ],
  ] as const)('%s (%s): back-off and failure + 1', async (code, _how, scripted) => {
    const { sick, well } = await pair();
    failing(sick, scripted);
    await scene.round();
    const row = await scene.row(sick);
    expect(row).toMatchObject({ code, halt: null, failures: 1, poisons: 0, cursor: '0' });
    expect(row.dueIn).toBeGreaterThan(25);
    await expectWell(well);
  });

  test('poll.timeout when nothing answers within the deadline', async () => {
    const { sick, well } = await pair({ limits: { pollDeadlineMs: 300 } });
    failing(sick, 'silence');
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ code: 'poll.timeout', failures: 1, cursor: '0' });
    await expectWell(well);
  });

  test('most polls of a toolkit failing is the source being down: failures unchanged, one hold, the others go on', async () => {
    scene = await openScene(db);
    const sick = await scene.primed(24, { toolkit: 'down-kit', connectionId: 'down' });
    const [well] = await scene.primed(1);
    scene.source.add(well as string, 'new');
    await db.sql`delete from source_health`;
    scene.source.script = (call) => (call.trigger.id === well ? undefined : failure('transient'));
    await scene.round();
    for (const id of sick) expect(await scene.row(id)).toMatchObject({ code: 'source_down', failures: 0, halt: null });
    expect(await scene.count(`source_limits where reason = 'source_down' and connection_h = 0`)).toBe(1);
    await expectWell(well as string);
  });

  test.each([
    [
      'poll.throttled',
      {
        status: 429,
        headers: { 'x-amzn-errortype': 'TooManyRequestsException' },
        body: { Reason: 'ConcurrentInvocationLimitExceeded' },
      },
    ],
    ['poll.unavailable', { status: 503, body: 'away' }],
    [
      'poll.unavailable',
      { status: 404, headers: { 'x-amzn-errortype': 'ResourceNotFoundException' }, body: { Message: 'no function' } },
    ],
    ['poll.unavailable', 'reset'],
  ] as const)('%s is tried again in each hop and then released with nothing charged', async (code, scripted) => {
    const { sick, well } = await pair();
    failing(sick, scripted);
    await scene.round();
    const row = await scene.row(sick);
    expect(row).toMatchObject({ code, halt: null, failures: 0, poisons: 0, cursor: '0', leased: false });
    expect(row.dueIn).toBeLessThanOrEqual(0);
    expect(scene.source.calls.filter((call) => call.trigger.id === sick)).toHaveLength(4);
    expect(await scene.count('timer_shards where backoff_until > statement_timestamp()')).toBe(1);
    await expectWell(well);
  });

  test.each([
    ['poll.response_invalid', 'no JSON', { body: '{"events":' }],
    ['poll.response_invalid', 'not UTF-8', { body: Buffer.from([0xff, 0xfe, 0x7b]) }],
    ['poll.response_invalid', 'no events', { body: { cursor: null } }],
    ['poll.response_invalid', 'no cursor', { body: { events: [] } }],
    ['poll.response_invalid', 'events of a wrong type', { body: { events: { 0: {} }, cursor: 1 } }],
    ['poll.response_invalid', 'a class nobody knows', { body: { error: { class: 'sad' } } }],
    ['poll.response_invalid', 'NUL in the cursor', { body: { events: [], cursor: 'a\u0000b' } }],
    ['poll.response_invalid', 'a lone surrogate in the cursor', { body: '{"events":[],"cursor":"\\ud800"}' }],
    [
      'poll.response_invalid',
      'a lone surrogate in a key',
      { body: '{"events":[{"key":"\\udc00","data":1}],"cursor":1}' },
    ],
    ['poll.response_invalid', 'a cursor of 64 KiB', { body: { events: [], cursor: 'x'.repeat(64 * 1024) } }],
    ['poll.too_large', 'a body of 6 MB', { body: { events: [], cursor: 'x'.repeat(6_000_000) } }],
  ] as const)('%s (%s): poison + 1, and quarantined after five in a row', async (code, _how, scripted) => {
    const { sick, well } = await pair();
    failing(sick, scripted);
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ code, halt: null, failures: 0, poisons: 1, cursor: '0' });
    await expectWell(well);
    await db.sql`update polling_trigger_runs set poison_count = 4 where trigger_id = ${sick}`;
    await scene.makeDue();
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ code, halt: 'quarantined', poisons: 5, dueIn: null, cursor: '0' });
  });

  test('poll.listing_too_large: nothing of such a listing is told', async () => {
    const { sick, well } = await pair({ limits: { eventsMax: 6_000 } });
    scene.source.script = (call) =>
      call.trigger.id === sick
        ? { body: { events: Array.from({ length: 5_001 }, (_, n) => ({ key: `k${n}`, data: n })), cursor: 9 } }
        : undefined;
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ code: 'poll.listing_too_large', poisons: 1, cursor: '0', seen: 0 });
    expect(scene.controlPlane.byTrigger.get(sick)).toEqual([]);
    await expectWell(well);
  });

  test('poll.permanent warns twice and halts at the third in a row', async () => {
    const { sick, well } = await pair();
    failing(sick, failure('permanent'));
    await scene.round();
    await expectWell(well);
    expect(await scene.row(sick)).toMatchObject({ code: 'poll.permanent', halt: null, failures: 1 });
    await scene.makeDue();
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ halt: null, failures: 2 });
    await scene.makeDue();
    await scene.round();
    expect(await scene.row(sick)).toMatchObject({ halt: 'poll.permanent', dueIn: null });
    const records = await db.sql`select state from lifecycle_outbox where trigger_id = ${sick} order by id`;
    expect(records.map((record) => record.state)).toEqual(['warning', 'warning', 'halted']);
  });
});

test('a connector that repeats the credentials it was given leaves nothing of them in the row’s log', async () => {
  scene = await openScene(db);
  const token = 'tok_0123456789abcdef';
  scene.controlPlane.conn = (asks) => ({
    body: { connections: asks.map((ask) => scene.controlPlane.active(ask, { auth: { type: 'bearer', token } })) },
  });
  const says = [
    { error: { class: 'permanent', message: `GET https://user:${token}@provider.test answered 404` } },
    { error: { class: 'connector', message: `sent Basic ${Buffer.from(`user:${token}`).toString('base64')}` } },
    { error: { class: 'rate_limited', message: `slow down, ${token}` } },
    // The runner cuts messages: the cut must not leave half of it.
    { error: { class: 'permanent', message: `${'x'.repeat(490)}${token}` } },
  ];
  const ids: string[] = [];
  for (const _ of says) ids.push(await scene.trigger());
  scene.source.script = (call) => ({ body: says[ids.indexOf(call.trigger.id)] });
  await scene.round();
  const rows = await db.sql`select trigger_id as id, reason from poll_log`;
  const reasons = ids.map((id) => rows.find((row) => row.id === id)?.reason as string);
  expect(reasons).toEqual([
    'GET https://user:[redacted]@provider.test answered 404',
    'sent Basic [redacted]',
    'slow down, [redacted]',
    `${'x'.repeat(490)}[redacted]`,
  ]);
});

test('a toolkit most of whose polls fail is asked no more in this batch, charged nothing, and another one goes on', async () => {
  scene = await openScene(db, { width: 10 });
  const sick = new Set(await scene.primed(80, { connectionId: 'sick', toolkit: 'sick-kit', tenantId: 'tenant-s' }));
  const well = await scene.primed(5, { connectionId: 'well' });
  scene.source.script = ({ trigger }) => ({
    body: sick.has(trigger.id) ? { error: { class: 'connector', message: 'it hangs' } } : { events: [], cursor: 1 },
  });
  await scene.makeDue();
  const before = scene.source.calls.length;
  await scene.round();
  const asked = scene.source.calls.slice(before).map(({ trigger }) => trigger.id);
  // Twenty decide, and those that were under way by then.
  expect(asked.filter((id) => sick.has(id)).length).toBeLessThanOrEqual(20 + 10);
  expect(asked.filter((id) => well.includes(id)).length).toBe(well.length);
  const codes = new Set<unknown>();
  for (const id of sick) {
    const row = await scene.row(id);
    expect(row).toMatchObject({ failures: 0, leased: false });
    codes.add(row.code);
  }
  // Those that were asked say why they failed, the others that they were not asked; the toolkit is on hold for all.
  expect(codes).toEqual(new Set(['source_down', 'poll.rate_limited']));
  expect(await db.sql`select from source_limits where reason = 'source_down'`).toHaveLength(1);
});
