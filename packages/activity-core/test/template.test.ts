/** Interpolation: types kept, nothing reached that is not data, nothing read twice. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { lineText, render } from '../src/index.ts';

const roots = {
  event: JSON.parse(
    '{"data":{"n":7,"yes":true,"none":null,"list":[1,{"a":"b"}],"evil":"${context.secret}","__proto__":{"polluted":1},"odd key":{"x?":1}}}',
  ),
  context: { secret: 's3cret', repo: { slug: 'a/b', tags: ['x'] } },
};
const at = (template: unknown): unknown => render(template, roots, 'task');

it.each([
  ['${event.data.n}', 7],
  ['${event.data.yes}', true],
  ['${event.data.none}', null],
  ['${event.data.list}', [1, { a: 'b' }]],
  ['${event.data.list[1].a}', 'b'],
  ['${event.data["odd key"]["x?"]}', 1],
  ['${ context.repo.slug }', 'a/b'],
])('A64: the whole field %s keeps the type of its value', (template, expected) => {
  expect(at(template)).toEqual(expected);
});

it('A64: inside text only text, numbers, true and false are put; anything else names the field', () => {
  expect(at('${context.repo.slug}: ${event.data.n} ${event.data.yes}')).toBe('a/b: 7 true');
  expect(() => at({ title: 'tags: ${context.repo.tags}' })).toThrow('task.title: context.repo.tags is a list');
  expect(() => at({ json: ['x ${event.data.list[1]}'] })).toThrow('task.json[0]: event.data.list[1] is an object');
  expect(() => at('x ${event.data.none}')).toThrow('event.data.none is null');
});

it('A65: a missing path is an error unless a literal default is given', () => {
  expect(() => at({ title: '${event.data.gone}' })).toThrow('task.title: event.data.gone is not there');
  expect(at('${event.data.gone ?? "none"}')).toBe('none');
  expect(at('${event.data.gone ?? 5}')).toBe(5);
  expect(at('n = ${event.data.gone ?? "a } b"}')).toBe('n = a } b');
  expect(at('${event.data.n ?? 5}')).toBe(7);
});

it('A66: rendered text is never rendered again', () => {
  expect(at('${event.data.evil}')).toBe('${context.secret}');
  expect(at('say ${event.data.evil}')).toBe('say ${context.secret}');
  expect(at('$${context.secret}')).toBe('${context.secret}');
  expect(at('$${context.secret} ${event.data.n}')).toBe('${context.secret} 7');
});

it('A64: a member named __proto__ is data and stays data', () => {
  const made = at({ all: '${event.data}' }) as { all: Record<string, unknown> };
  expect(Object.keys(made.all)).toContain('__proto__');
  expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  expect(JSON.stringify(at(JSON.parse('{"__proto__":{"polluted":"${event.data.n}"}}')))).toBe(
    '{"__proto__":{"polluted":7}}',
  );
});

it('A64: text, fields and depth are bounded', () => {
  const big = { event: { data: { text: 'x'.repeat(5_000) } } };
  expect(() => render('a ${event.data.text}', big, 'task.title')).toThrow(
    'task.title: rendered text is longer than 4096 bytes',
  );
  expect(() =>
    render(
      Array.from({ length: 60 }, () => '${event.data.text}'),
      big,
      'task',
    ),
  ).toThrow('at most 262144');
});

it('A64: whatever the template and the data, nothing is polluted and rendering only ever fails with the field', () => {
  const names = fc.constantFrom(
    'event',
    'context',
    'data',
    'a',
    '__proto__',
    'constructor',
    'prototype',
    'toString',
    'x y',
    '0',
  );
  const path = fc.array(
    fc.oneof(
      names.map((n) => `.${n}`),
      names.map((n) => `["${n}"]`),
      fc.constant('[0]'),
    ),
    { maxLength: 5 },
  );
  const piece = fc.oneof(
    path.map((parts) => `\${event${parts.join('')}}`),
    path.map((parts) => `\${event${parts.join('')} ?? "d"}`),
    fc.constantFrom('${', '}', '$${', '$', '"', '\\', '??', '${}', '${ }', 'text'),
    fc.string({ maxLength: 8 }),
  );
  const template = fc.array(piece, { maxLength: 6 }).map((pieces) => pieces.join(''));
  const before = Object.getOwnPropertyNames(Object.prototype).join();
  fc.assert(
    fc.property(template, fc.json(), (text, json) => {
      let made: unknown;
      try {
        made = render({ text }, { event: JSON.parse(json) }, 'task');
      } catch (error) {
        expect((error as Error).name).toMatch(/^(TemplateFailed|PathRefused)$/);
        return;
      }
      expect(typeof (made as { text: unknown }).text).not.toBe('function');
    }),
    { numRuns: 2_000 },
  );
  expect(Object.getOwnPropertyNames(Object.prototype).join()).toBe(before);
});

it('titles are one line without control characters, cut with a mark', () => {
  expect(lineText('a\nb\u0007c\td', 50)).toBe('a bc d');
  expect(lineText('👩‍🚀'.repeat(100), 10)).toHaveLength([...lineText('👩‍🚀'.repeat(100), 10)].join('').length);
  expect([...lineText('x'.repeat(300), 200)]).toHaveLength(200);
  expect(lineText('x'.repeat(300), 200).endsWith('…')).toBe(true);
});
