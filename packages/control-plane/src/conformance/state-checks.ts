/** Checks of `POST /state`. */
import { randomUUID } from 'node:crypto';
import { eventIdOf } from '@milkrun/core';
import { lifecycleEchoSchema, stateEnvelopeSchema, stateStatusSchema } from '../schemas.ts';
import { idempotencyKeyOf } from '../wire.ts';
import { newestOf, readToEnd } from './feed-checks.ts';
import { type Check, expect, type KitContext, type KitTrigger } from './hooks.ts';
import type { Probe } from './probe.ts';

function eventOf({ triggerId }: KitTrigger, key: string) {
  return {
    specversion: '1.0',
    id: eventIdOf(triggerId, key),
    source: `/triggers/${triggerId}`,
    type: 'dev.milkrun.conformance.item',
    time: '2026-01-01T00:00:00Z',
    datacontenttype: 'application/json',
    triggerid: triggerId,
    triggerversion: '1',
    correlationid: eventIdOf(triggerId, key),
    sequence: '1.0.0',
    data: { key },
  };
}

const resultOf = (trigger: { triggerId: string }, events: readonly unknown[], more: object = {}) => ({
  triggerId: trigger.triggerId,
  leaseEpoch: 1,
  configVersion: 1,
  triggerVersion: '1',
  events,
  last: true,
  ...more,
});

/** Sends one chunk and answers statuses and echoes by trigger. */
async function send(probe: Probe, results: readonly object[], lifecycle: readonly object[] = []) {
  const body = JSON.stringify({ batchId: 'batch-poller:0:conformance', results, lifecycle, futureField: 1 });
  const answer = await probe.post('/state', body, { 'idempotency-key': idempotencyKeyOf(body) });
  expect(answer.status === 200, `status ${answer.status} instead of 200`);
  const envelope = stateEnvelopeSchema.safeParse(answer.body);
  expect(envelope.success, 'the body is not { results, lifecycle }');
  const statuses = envelope.data.results.map((record) => stateStatusSchema.parse(record));
  const echoes = envelope.data.lifecycle.map((record) => lifecycleEchoSchema.parse(record));
  const statusOf = ({ triggerId }: { triggerId: string }): string | undefined => {
    const own = statuses.filter((status) => status.triggerId === triggerId.toLowerCase());
    expect(own.length <= 1, `trigger ${triggerId} has ${own.length} statuses`);
    return own[0]?.status;
  };
  return { statusOf, echoes };
}

async function accepted(
  probe: Probe,
  trigger: KitTrigger,
  events: readonly unknown[],
  more: object = {},
): Promise<void> {
  const status = (await send(probe, [resultOf(trigger, events, more)])).statusOf(trigger);
  expect(status === 'accepted', `status ${status ?? 'missing'} instead of accepted`);
}

async function oncePerId({ probe, hooks }: KitContext): Promise<void> {
  const trigger = await hooks.createTrigger();
  const events = [eventOf(trigger, 'a'), eventOf(trigger, 'b')];
  await accepted(probe, trigger, events);
  await accepted(probe, trigger, [...events].reverse());
  await Promise.all(Array.from({ length: 8 }, () => accepted(probe, trigger, [...events, eventOf(trigger, 'c')])));
  const ids = [...(await hooks.storedEventIds(trigger.triggerId))].sort();
  const expected = ['a', 'b', 'c'].map((key) => eventIdOf(trigger.triggerId, key)).sort();
  expect(
    JSON.stringify(ids) === JSON.stringify(expected),
    `stored ${ids.join(', ')} instead of ${expected.join(', ')}`,
  );
}

async function haltShown({ probe, hooks }: KitContext): Promise<void> {
  const trigger = await hooks.createTrigger();
  const configVersion = newestOf((await readToEnd(probe, null)).changes, trigger.triggerId)?.configVersion ?? 1;
  const record = { triggerId: trigger.triggerId, configVersion, code: 'auth.expired' };
  const halted = { ...record, state: 'halted', at: '2026-01-02T03:04:05.000Z' };
  const { echoes } = await send(probe, [], [halted]);
  expect(
    echoes.some(({ triggerId, at }) => triggerId === trigger.triggerId && Date.parse(at) === Date.parse(halted.at)),
    'the record is not echoed',
  );
  const shown = await hooks.showTrigger(trigger.triggerId);
  expect(!shown.on, 'the user is shown a trigger that is on');
  expect(shown.code === 'auth.expired', `the user is shown the code ${shown.code}`);
  expect(shown.since !== null && Date.parse(shown.since) === Date.parse(halted.at), `since ${shown.since}`);
  expect(shown.by !== null && shown.by !== '', 'the user is not told who turned it off');
  await send(probe, [], [{ ...record, state: 'resumed', at: '2026-01-02T04:00:00.000Z' }]);
  expect((await hooks.showTrigger(trigger.triggerId)).on, 'still shown off after the engine resumed it');
  await send(probe, [], [halted]);
  expect((await hooks.showTrigger(trigger.triggerId)).on, 'an old record that came again turned it off');
}

export const STATE_CHECKS: readonly Check[] = [
  {
    name: 'a chunk without results is accepted',
    needs: [],
    async run({ probe }) {
      await send(probe, []);
    },
  },
  {
    name: 'an unknown trigger is answered gone, alone',
    needs: [],
    async run({ probe }) {
      const unknown = { triggerId: randomUUID() };
      const status = (await send(probe, [resultOf(unknown, [])])).statusOf(unknown);
      expect(status === 'gone', `status ${status ?? 'missing'}`);
    },
  },
  {
    name: 'one chunk of several triggers is answered per trigger',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const [one, two] = [await hooks.createTrigger(), await hooks.createTrigger()];
      const unknown = { triggerId: randomUUID() };
      const results = [resultOf(one, [eventOf(one, 'x')]), resultOf(unknown, []), resultOf(two, [])];
      const { statusOf } = await send(probe, results);
      const got = [one, unknown, two].map(statusOf).join(', ');
      expect(got === 'accepted, gone, accepted', got);
    },
  },
  {
    name: 'an event is stored once by id, over repeats, other orders and simultaneous calls',
    needs: ['createTrigger', 'storedEventIds'],
    run: oncePerId,
  },
  {
    name: 'a repeat that overlaps with new events stores the new ones: statuses are not replayed',
    needs: ['createTrigger', 'deleteTrigger'],
    async run({ probe, hooks }) {
      const trigger = await hooks.createTrigger();
      const results = [resultOf(trigger, [eventOf(trigger, 'a')])];
      expect((await send(probe, results)).statusOf(trigger) === 'accepted', 'not accepted');
      await hooks.deleteTrigger(trigger.triggerId);
      const status = (await send(probe, results)).statusOf(trigger);
      expect(status === 'gone', `the same body after the delete: ${status ?? 'missing'} instead of gone`);
    },
  },
  {
    name: 'an unusable event is refused alone, by its id or its trigger',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const [bad, good] = [await hooks.createTrigger(), await hooks.createTrigger()];
      const { statusOf } = await send(probe, [
        resultOf(bad, [{ ...eventOf(bad, 'x'), specversion: 7 }]),
        resultOf(good, [eventOf(good, 'y')]),
      ]);
      expect(statusOf(bad) === 'rejected', `bad event: ${statusOf(bad) ?? 'missing'}`);
      expect(statusOf(good) === 'accepted', `its neighbour: ${statusOf(good) ?? 'missing'}`);
    },
  },
  {
    name: 'after a prime the feed says primed and gives the state back',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const trigger = await hooks.createTrigger();
      await accepted(probe, trigger, [], { pollState: 'kit-state' });
      const change = newestOf((await readToEnd(probe, null)).changes, trigger.triggerId);
      expect(change?.op === 'upsert' && change.primed, 'primed is not true');
      expect(change.pollState === 'kit-state', `pollState ${change.pollState}`);
    },
  },
  {
    name: 'a prime without events and without state is remembered too',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const trigger = await hooks.createTrigger();
      await accepted(probe, trigger, []);
      const change = newestOf((await readToEnd(probe, null)).changes, trigger.triggerId);
      expect(change?.op === 'upsert' && change.primed, 'primed is not true');
    },
  },
  {
    name: 'a halt is echoed and shown: off, why, since when, by whom; a resume lifts it; old records change nothing',
    needs: ['createTrigger', 'showTrigger'],
    run: haltShown,
  },
];
