import { Secret } from '@milkrun/core';
import { expect, test } from 'vitest';
import { createLog, type LogOptions } from '../src/index.ts';

function logTo(options: Partial<LogOptions> = {}) {
  const lines: string[] = [];
  const log = createLog({ level: 'info', write: (line) => lines.push(line), ...options });
  return { log, lines, text: () => lines.join('') };
}

test('a line is JSON with time, level, event and the fields', () => {
  const { log, lines } = logTo({ base: { process: 'worker' } });
  log.info({ step: 'poll', rows: 12 }, 'step.completed');
  log.debug({}, 'not.shown');
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0] as string)).toMatchObject({
    level: 'info',
    event: 'step.completed',
    process: 'worker',
    step: 'poll',
    rows: 12,
    pid: process.pid,
  });
});

const CANARY = 'canary-55aa';
const PLACES: [string, unknown][] = [
  ['a Secret', new Secret(CANARY)],
  ['a field named auth', { auth: { type: 'api_key', key: CANARY } }],
  ['a deep token', { a: { b: [{ accessToken: CANARY }] } }],
  ['a header', { headers: { Authorization: `Bearer ${CANARY}`, cookie: CANARY } }],
  ['an address', { url: `postgres://user:${CANARY}@127.0.0.1/db` }],
  ['an error text', new Error(`connect to https://u:${CANARY}@host failed: Bearer ${CANARY}`)],
  ['the cause of an error', new Error('outer', { cause: { password: CANARY } })],
  ['an own field of an error', Object.assign(new Error('x'), { request: { body: CANARY } })],
  ['bytes', Buffer.from(CANARY)],
  ['a map', new Map([['api_key', CANARY]])],
  ['settings', { ENGINE_KEY: CANARY, BLOB_KEY: CANARY, CONTROL_PLANE_KEY: CANARY }],
];

test.each(PLACES)('%s does not show in the log', (_, value) => {
  for (const pretty of [false, true]) {
    const { log, text } = logTo({ pretty });
    log.error({ value, err: value instanceof Error ? value : undefined }, 'event');
    expect(text()).toContain('event');
    expect(text()).not.toContain(CANARY);
  }
});

test('line breaks, cycles and huge texts stay on one bounded line', () => {
  const { log, lines } = logTo();
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  log.warn({ text: 'a\r\nfake', cyclic, huge: 'x'.repeat(1_000_000), many: new Array(5000).fill(1) }, 'odd\nevent');
  expect(lines).toHaveLength(1);
  expect((lines[0] as string).trimEnd()).not.toMatch(/[\r\n]/);
  expect((lines[0] as string).length).toBeLessThan(20_000);
});

test('readable lines keep the event and short fields', () => {
  const { log, lines } = logTo({ pretty: true });
  log.info({ step: 'claim', rows: 3, note: 'two words' }, 'step.completed');
  expect(lines[0]).toMatch(/^\d\d:\d\d:\d\d\.\d{3} info {2}step\.completed step=claim rows=3 note="two words"\n$/);
});
