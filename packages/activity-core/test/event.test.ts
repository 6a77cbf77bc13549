/** Events: every accepted shape becomes the same record, and matching says why not. */
import { expect, it } from 'vitest';
import { compileMatcher, eventKeyOf, eventOf, parseDefinition, recordOf, runWorkflowIdOf } from '../src/index.ts';
import { minimal } from './definitions.ts';

const cloudEvent = {
  specversion: '1.0',
  id: 'e1',
  source: '/triggers/t1',
  type: 'com.example.push',
  time: '2026-03-02T08:00:00Z',
  hops: 2,
  data: { action: 'opened', repo: { owner: 'ann' }, stars: 5 },
};

it('A31: a CloudEvents record becomes an event and back', () => {
  const event = eventOf(cloudEvent);
  expect(event).toMatchObject({ id: 'e1', source: '/triggers/t1', extensions: { hops: 2 }, subject: null });
  expect(recordOf(event)).toEqual({ ...cloudEvent, datacontenttype: 'application/json' });
});

it('A31: the older envelopes are converted', () => {
  const seed = {
    event_id: 'e2',
    type: 'repo.pushed',
    source: 'hub',
    occurred_at: '2026-03-02T08:00:00Z',
    subject: 'repo/1',
    trace_id: 'abc',
    payload: { a: 1 },
  };
  expect(eventOf(seed)).toMatchObject({
    id: 'e2',
    source: 'hub',
    time: seed.occurred_at,
    dataschema: '1.0',
    data: { a: 1 },
    extensions: { correlationid: 'abc' },
  });
  const trace = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`;
  expect(eventOf({ ...seed, trace_id: trace }).extensions).toEqual({ traceparent: trace });
  expect(
    eventOf({ id: 'e3', type: 'a.b', timestamp: '2026-03-02T08:00:00Z', publisher: 'hub', attributes: { x: 1 } }),
  ).toMatchObject({ source: 'hub', data: { x: 1 } });
});

it.each([
  [{ ...cloudEvent, id: undefined }, 'id:'],
  [{ ...cloudEvent, id: '' }, 'id:'],
  [{ ...cloudEvent, type: 'Not A Type' }, 'type: accepted'],
  [{ ...cloudEvent, specversion: '0.3' }, 'specversion:'],
  [{ ...cloudEvent, time: 'yesterday' }, 'time: is no instant'],
  [{ ...cloudEvent, datacontenttype: 'text/xml' }, 'datacontenttype: accepted: application/json'],
  [{ ...cloudEvent, 'Bad-Name': 'x' }, 'Bad-Name: is no name of an extension'],
  [{ ...cloudEvent, data: 'x'.repeat(300_000) }, 'data: 300002 bytes'],
  [{ event_id: 'x' }, 'type:'],
  ['text', ''],
  [null, ''],
  [[], ''],
])('A31: what is no event is refused by field (%#)', (input, message) => {
  expect(() => eventOf(input)).toThrow(message);
});

const reasonOf = (on: Record<string, unknown>, data: unknown = cloudEvent.data): string => {
  const match = compileMatcher(parseDefinition(minimal({ on: [{ event: on }] })))(eventOf({ ...cloudEvent, data }));
  return match.matched ? 'matched' : match.reason;
};

it('A32: an event matches when its type is equal and every filter is in its data', () => {
  const type = 'com.example.push';
  expect(reasonOf({ type })).toBe('matched');
  expect(reasonOf({ type: 'com.example.pull' })).toBe('type: is com.example.push, wanted com.example.pull');
  expect(reasonOf({ type, filters: { action: 'opened', stars: 5 } })).toBe('matched');
  expect(reasonOf({ type, filters: { action: ['closed', 'opened'] } })).toBe('matched');
  expect(reasonOf({ type, filters: { 'repo.owner': 'ann', 'data.action': 'opened' } })).toBe('matched');
  expect(reasonOf({ type, filters: { action: 'closed' } })).toBe('filters.action: is "opened", wanted "closed"');
  expect(reasonOf({ type, filters: { gone: 1 } })).toBe('filters.gone: is not there');
  expect(reasonOf({ type, filters: { stars: '5' } })).toBe('filters.stars: is 5, wanted "5"');
  expect(reasonOf({ type, filters: { 'a b': 1 } }, { 'a b': 1 })).toBe('matched');
});

it('A32: in a filter an error is no match, with the error as the reason', () => {
  const type = 'com.example.push';
  expect(reasonOf({ type, where: 'event.data.stars > 3 && event.source == "/triggers/t1"' })).toBe('matched');
  expect(reasonOf({ type, where: 'event.data.stars > 30' })).toBe('where: false');
  expect(reasonOf({ type, where: 'event.data.gone > 3' })).toBe('where: error: event.data.gone > 3: No such key: gone');
});

it('A34: ids of runs keep two producers apart that use one event id', () => {
  const id = '0190c2a4-0000-7000-8000-000000000000';
  const a = runWorkflowIdOf(id, { source: '/a', id: 'e1' });
  expect(a).toMatch(new RegExp(`^activity-${id}:e1@[0-9a-f]{8}$`));
  expect(runWorkflowIdOf(id, { source: '/b', id: 'e1' })).not.toBe(a);
  expect(eventKeyOf({ source: 'ab', id: 'c' })).not.toBe(eventKeyOf({ source: 'a', id: 'bc' }));
});
