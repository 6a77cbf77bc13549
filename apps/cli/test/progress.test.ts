import { expect, test } from 'vitest';
import { barLine, createProgress } from '../src/progress.ts';
import { run, stubServer } from './helpers.ts';

test.each([
  [0, 120, '[                        ]   0 %  x'],
  [40, 120, '[########                ]  33 %  x'],
  [120, 120, '[########################] 100 %  x'],
  [130, 120, '[########################] 100 %  x'],
  [0, 0, '[########################] 100 %  x'],
  [5, undefined, 'x'],
])('%d of %s is drawn as %s', (done, total, line) => {
  expect(barLine(done, total, 'x')).toBe(line);
});

test.each([
  [true, false, '\r\u001b[Khalf\r\u001b[K'],
  [false, false, ''],
  [true, true, ''],
])('on a terminal %s, with --json %s: draws %j', (isTty, json, wanted) => {
  let err = '';
  const io = {
    env: {},
    out: () => {},
    err(text: string) {
      err += text;
    },
    isTty,
    readStdin: async () => '',
  };
  const progress = createProgress({ io, json });
  progress.show(1, undefined, 'half');
  progress.show(1, undefined, 'half');
  progress.clear();
  progress.clear();
  expect(err).toBe(wanted);
});

test('a long list shows on a terminal how far it is, and leaves nothing of that behind', async () => {
  const api = await stubServer(({ query }) => {
    const from = Number(query.cursor ?? 0);
    const items = Array.from({ length: Number(query.limit) }, (_, n) => ({ id: `t${from + n}` }));
    return { body: { items, next: String(from + items.length) } };
  });
  const env = { MILKRUN_URL: api.url };
  const { err } = await run(['events', 'list', '--limit', '1500'], env, '', true);
  expect(err).toContain('[################        ]  66 %  1000 read');
  expect(err.endsWith('\r\u001b[K')).toBe(true);
  expect((await run(['events', 'list', '--limit', '1500'], env)).err).toBe('');
});
