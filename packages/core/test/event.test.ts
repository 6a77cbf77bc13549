import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { cloudEventJson, hasUncleanText } from '../src/index.ts';

const source = {
  triggerId: '3f2b8c1e-6f0a-4a53-9d53-0d6f1c5b7a10',
  toolkit: 'npm',
  slug: 'npm-package',
  triggerVersion: '1 "beta"',
  batchId: 'batch-poller:0:018bcfe5-6800-7fff-bfff-ffffffffffff',
};
const item = { eventId: 'evt_56vobahvhiojwpz576i25zdsso', data: { n: 1 } as unknown, epoch: 7, page: 3, index: 12 };
const event = (over: Partial<typeof item> & { occurredAt?: string } = {}) =>
  JSON.parse(cloudEventJson(source, { ...item, ...over }));

/** NUL, both halves of a pair, and harmless text, in every order. */
const surrogates = fc
  .array(fc.constantFrom('\0', '\ud800', '\udbff', '\udc00', '\udfff', 'a', '😀', '\\u0000'), { maxLength: 8 })
  .map((parts) => parts.join(''));
const clean = (text: string): string => text.toWellFormed().replaceAll('\0', '\ufffd');

test('an event carries what CloudEvents and the trigger say of it, and nothing else', () => {
  const trace = createHash('sha256').update(item.eventId).digest('hex');
  const wanted = {
    specversion: '1.0',
    id: item.eventId,
    source: `/triggers/${source.triggerId}`,
    type: 'dev.milkrun.npm.npm-package',
    datacontenttype: 'application/json',
    traceparent: `00-${trace.slice(0, 32)}-${trace.slice(32, 48)}-01`,
    correlationid: item.eventId,
    causationid: source.batchId,
    triggerid: source.triggerId,
    triggerversion: source.triggerVersion,
    hops: 0,
    sequence: '0000000007.003.000012',
    data: { n: 1 },
  };
  expect(event()).toStrictEqual(wanted);
  expect(event({ occurredAt: '2026-01-02T00:00:00.000Z' })).toStrictEqual({
    ...wanted,
    time: '2026-01-02T00:00:00.000Z',
  });
});

test('sequences sort by epoch, page and position as texts do', () => {
  const at = (epoch: number, page: number, index: number): string => event({ epoch, page, index }).sequence;
  const order = [at(2, 0, 0), at(10, 0, 9), at(10, 0, 10), at(10, 2, 0), at(10, 19, 0), at(2_000_000_000, 0, 0)];
  expect(order.toSorted()).toEqual(order);
});

test('a text is unclean exactly when it holds NUL or half a surrogate pair', () => {
  fc.assert(
    fc.property(surrogates, (text) => {
      expect(hasUncleanText(text)).toBe(text.includes('\0') || !text.isWellFormed());
    }),
  );
});

test('every unclean text of the data is replaced, wherever it stands, and the event is marked only then', () => {
  fc.assert(
    fc.property(surrogates, surrogates, surrogates, (name, inside, listed) => {
      const data = { [`n${name}`]: [1, null, true, { inside: [listed, inside] }], same: 'text' };
      const got = event({ data });
      expect(got.data).toStrictEqual({
        [`n${clean(name)}`]: [1, null, true, { inside: [clean(listed), clean(inside)] }],
        same: 'text',
      });
      const isClean = [name, inside, listed].every((text) => clean(text) === text);
      expect(got.cleaned).toBe(isClean ? undefined : true);
    }),
  );
});

test('text that only looks like an escape is left as it is, without a mark', () => {
  const got = event({ data: ['\\u0000', '\\ud800', 'C:\\udata'] });
  expect([got.data, got.cleaned]).toEqual([['\\u0000', '\\ud800', 'C:\\udata'], undefined]);
});

test('data that JSON has no word for is null', () => {
  expect(event({ data: undefined }).data).toBeNull();
});
