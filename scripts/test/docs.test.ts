/** The documentation is checked like code: links, names, commands, examples and generated tables. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { createProgram } from '../../apps/cli/src/program.ts';
import { GATE } from '../../drills/lib/gate.ts';
import { OPTIONS } from '../../packages/config/src/index.ts';
import {
  type Connector,
  createHandler,
  defineConnector,
  httpJson,
  PollError,
  type PollResult,
  synthetic,
} from '../../packages/connectors/src/index.ts';
import * as controlPlane from '../../packages/control-plane/src/index.ts';
import { isVerdictCode, OTHER_CODES, systemClock, VERDICTS } from '../../packages/core/src/index.ts';
import { CATALOGUE } from '../../packages/telemetry/src/catalogue.ts';
import { renderStateMachineDoc } from '../gen-state-machine.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const pages = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
].map((path) => ({ path, text: read(path) }));
const page = (path: string): string => pages.find((one) => one.path === path)?.text ?? '';

const blocksOf = (text: string): string[] =>
  [...text.matchAll(/^```\w*\n([\s\S]*?)^```/gm)].map(([, code = '']) => code);
const spansOf = (text: string): string[] =>
  [...text.replaceAll(/^```[\s\S]*?^```/gm, '').matchAll(/`([^`]+)`/g)].map(([, code = '']) => code);
/** Every file that is code. */
const sources = ['packages', 'apps'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => /\/src\/.*\.ts$/.test(path) && !path.includes('node_modules'))
    .map((path) => read(join(folder, path))),
);
const isInSources = (literal: string): boolean => sources.some((text) => text.includes(literal));

/** As GitHub makes them. */
const anchorsOf = (text: string): Set<string> =>
  new Set(
    [...text.replaceAll(/^```[\s\S]*?^```/gm, '').matchAll(/^#+ (.+)$/gm)].map(([, title = '']) =>
      title
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}_ -]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );

test.each(pages)('links of $path lead somewhere', ({ path, text }) => {
  const dead = [...text.replaceAll(/^```[\s\S]*?^```/gm, '').matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .filter((target) => {
      const [file = '', anchor] = target.split('#');
      const at = file === '' ? path : join(dirname(path), file);
      if (!existsSync(join(root, at))) return true;
      return anchor !== undefined && !anchorsOf(read(at)).has(anchor);
    });
  expect(dead).toEqual([]);
});

test('tables of docs/state-machine.md are what the code says; `node scripts/gen-state-machine.ts` writes them', () => {
  expect(page('docs/state-machine.md')).toBe(renderStateMachineDoc(page('docs/state-machine.md')));
});

test('every code stands in the state machine and in operations', () => {
  for (const code of [...Object.keys(VERDICTS), ...Object.keys(OTHER_CODES)]) {
    expect(page('docs/state-machine.md'), code).toContain(`\`${code}\``);
    expect(page('docs/operations.md'), code).toContain(`\`${code}\``);
  }
});

test('codes and metrics that are named exist', () => {
  const unknown = pages.flatMap(({ path, text }) =>
    spansOf(text)
      .filter((span) => /^(auth|poll|broadcast|polling|api)\.[a-z_.]+$/.test(span))
      .filter((span) => !isVerdictCode(span) && !Object.hasOwn(CATALOGUE, span) && !isInSources(`'${span}'`))
      .map((span) => `${path}: ${span}`),
  );
  expect(unknown).toEqual([]);
});

test('settings that are named exist', () => {
  const known = new Set<string>(Object.values(OPTIONS).map(({ env }) => env));
  // Temporal's and AWS's own settings, and what a platform says when a body is too large.
  const foreign = /^((TEMPORAL|AWS)_[A-Z_…]+|FUNCTION_(RESPONSE_)?PAYLOAD_TOO_LARGE)$/;
  const unknown = pages.flatMap(({ path, text }) =>
    [...spansOf(text), ...blocksOf(text)]
      .flatMap((code) => [...code.matchAll(/(?<![\w"'-])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?![\w"'])/g)])
      .map(([, name = '']) => name)
      .filter((name) => !known.has(name) && !foreign.test(name) && !isInSources(name))
      .map((name) => `${path}: ${name}`),
  );
  expect(unknown).toEqual([]);
});

test('files that are named exist, and so do the tests named beside them', () => {
  const named = pages
    .filter(({ path }) => path !== 'CHANGELOG.md')
    .flatMap(({ path, text }) =>
      [...text.matchAll(/`((?:packages|apps|scripts|docs|drills|benches)\/[\w./-]+\.\w+)`(?:\s+“([^”]+)”)?/g)].map(
        ([, file = '', title]) => ({ path, file, title: title?.replaceAll(/\s+/g, ' ') }),
      ),
    );
  expect(named.length).toBeGreaterThan(40);
  for (const { path, file, title } of named) {
    expect(existsSync(join(root, file)), `${path} names ${file}`).toBe(true);
    if (title !== undefined) expect(read(file), `${path} names a test of ${file}`).toContain(title);
  }
});

test('every invariant says what enforces it, with a test', () => {
  const invariants = page('docs/state-machine.md')
    .split(/^(?=\*\*[SL]\d+)/m)
    .slice(1);
  const numbers = invariants.flatMap((text) => [...text.matchAll(/^\*\*([SL])(\d+)(?: to [SL](\d+))?/g)]);
  const all = numbers.flatMap(([, letter = '', from, to]) =>
    Array.from({ length: Number(to ?? from) - Number(from) + 1 }, (_, n) => `${letter}${Number(from) + n}`),
  );
  expect(all).toEqual([...Array.from({ length: 16 }, (_, n) => `S${n + 1}`), 'L1', 'L2', 'L3', 'L4', 'L5']);
  for (const text of invariants) {
    if (/not in this release|Neither is in this release/.test(text)) continue;
    expect(text).toContain('Enforced by');
    expect(text).toMatch(/`[\w/-]+\/(?:src|lib)\/[\w./-]+\.ts`/);
  }
});

/** Finds the command of a line, and what of the line the program does not know. */
function unknownIn(line: string): string | undefined {
  const words = line.split(/\s+/).filter(Boolean);
  let at: ReturnType<typeof createProgram> = createProgram({
    env: {},
    out: () => {},
    err: () => {},
    isTty: false,
    readStdin: async () => '',
  });
  const options = new Set(['--help', '--json', '--config']);
  let group = '';
  for (const word of words) {
    if (word === '…' || word === 'ARGS') break;
    if (word.startsWith('--')) {
      const name = word.split('=')[0] ?? word;
      if (!options.has(name) && !at.options.some(({ long }) => long === name)) return `${group}: no option ${name}`;
      continue;
    }
    if (at.commands.length === 0) continue;
    const next = at.commands.find((command) => [command.name(), ...command.aliases()].includes(word));
    if (next === undefined) return `${group}: no command ${word}`;
    at = next;
    group = `${group} ${word}`;
  }
  return undefined;
}

test('commands that are named exist', () => {
  const lines = pages.flatMap(({ text }) =>
    [...spansOf(text), ...blocksOf(text).flatMap((code) => code.replaceAll('\\\n', ' ').split('\n'))].flatMap(
      (code) => {
        const found = /(?:^|\bnpm run )milkrun(?: --)? (.+)$/.exec(code.replace(/\s#.*$/, ''));
        return found === null ? [] : [(found[1] ?? '').replaceAll(/'[^']*'?|"[^"]*"?|<.*$/g, '')];
      },
    ),
  );
  expect(lines.map(unknownIn).filter((text) => text !== undefined)).toEqual([]);
  expect(lines.length).toBeGreaterThan(20);
});

test('npm scripts, drills and benches that are named exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const code = pages.flatMap(({ text }) => [...spansOf(text), ...blocksOf(text)]);
  for (const [, name = ''] of code.flatMap((one) => [...one.matchAll(/npm run ([\w:-]+)/g)])) {
    expect(Object.keys(scripts)).toContain(name);
  }
  for (const [, kind = '', name = ''] of code.flatMap((one) => [
    ...one.matchAll(/npm run (drill|bench) -- ([a-z][\w-]*)/g),
  ])) {
    if (kind === 'drill' && name === GATE) continue;
    expect(existsSync(join(root, kind === 'drill' ? 'drills' : 'benches', `${name}.ts`)), `${kind} ${name}`).toBe(true);
  }
});

test('routes of the operations API are those of the code', () => {
  const code = read('apps/worker/src/engine-api.ts') + read('apps/worker/src/migration-routes.ts');
  const wanted = [...code.matchAll(/app\.(get|post)\('([^']+)'/g)].map(
    ([, method = '', url]) => `${method.toUpperCase()} ${url}`,
  );
  const named = [...page('docs/operations.md').matchAll(/^\| `((?:GET|POST) [^`]+)`/gm)].map(([, route = '']) => route);
  expect(named.sort()).toEqual(wanted.filter((route) => !/\/(healthz|readyz)$/.test(route)).sort());
});

const { connectionAnswerSchema, connectionBatchSchema, deleteSchema, eventSchema, feedPageSchema } = controlPlane;
const { lifecycleEchoSchema, stateBodySchema, stateStatusSchema, upsertSchema } = controlPlane;
const list = (value: unknown, name: string): unknown[] => (value as Record<string, unknown[]>)[name] ?? [];
const each = (schema: { parse(value: unknown): unknown }, values: readonly unknown[]): void => {
  expect(values.length).toBeGreaterThan(0);
  for (const value of values) schema.parse(value);
};

/** How each example of docs/contracts.md is checked. */
const EXAMPLES: Readonly<Record<string, (value: unknown) => unknown>> = {
  'feed page': (value) => {
    feedPageSchema.parse(value);
    const { refused } = controlPlane.parseChanges(list(value, 'changes'));
    expect(refused).toEqual([]);
    each(upsertSchema, list(value, 'changes').slice(0, 1));
    each(deleteSchema, list(value, 'changes').slice(1));
  },
  'connection ask': (value) => connectionBatchSchema.parse(value),
  'connection answer': (value) => each(connectionAnswerSchema, list(value, 'connections')),
  state: (value) => {
    const { results } = stateBodySchema.parse(value);
    each(
      eventSchema,
      results.flatMap(({ events }) => events),
    );
  },
  'state answer': (value) => {
    each(stateStatusSchema, list(value, 'results'));
    each(lifecycleEchoSchema, list(value, 'lifecycle'));
  },
  'poll request': async (value) => {
    // A function without this connector says so; a request it cannot read gets another answer.
    const answer = await createHandler([synthetic])(value);
    expect(answer).toEqual({ error: { class: 'permanent', message: 'this function has no connector "orders"' } });
  },
  'poll answer': (value) => {
    const { events, cursor, more } = value as PollResult;
    expect({ keys: events.map(({ key }) => typeof key), cursor: cursor !== undefined, more }).toEqual({
      keys: ['string'],
      cursor: true,
      more: false,
    });
  },
};

const examples = [...page('docs/contracts.md').matchAll(/<!-- checked: ([\w ]+) -->\n```json\n([\s\S]*?)^```/gm)];

test('each kind of example is there once', () => {
  expect(examples.map(([, kind]) => kind).sort()).toEqual(Object.keys(EXAMPLES).sort());
});

test.each(examples.map(([, kind = '', json = '']) => ({ kind, json })))(
  'the example of a $kind is one',
  async ({ kind, json }) => {
    await EXAMPLES[kind]?.(JSON.parse(json));
  },
);

test('the connector of docs/connectors.md works', async () => {
  const block = blocksOf(page('docs/connectors.md')).find((code) => code.includes('defineConnector({')) ?? '';
  const code = block.replaceAll(/^import .*$/gm, '').replace('export const', 'const');
  const { z } = createRequire(join(root, 'packages/connectors/package.json'))('zod');
  const make = new Function('defineConnector', 'PollError', 'z', `${code}; return shopOrders;`);
  const shopOrders = make(defineConnector, PollError, z) as Connector;
  const urls: string[] = [];
  const orders = [{ id: '17', placedAt: '2026-11-01T08:03:11.000Z' }];
  const context = {
    trigger: { id: 't', slug: 'shop-orders', version: '1' },
    config: { shop: 'north' },
    auth: { token: 'x' },
    cursor: null,
    since: '2026-11-01T00:00:00Z',
    eventsMax: 500,
    signal: AbortSignal.timeout(10_000),
    clock: systemClock,
    settings: {},
    http: {
      send: async ({ url }: { url: string }) => {
        urls.push(url);
        return { status: 200, header: () => undefined, body: Buffer.alloc(0), json: () => ({ orders }) };
      },
    },
  };
  expect(await shopOrders.poll(context)).toEqual({
    events: [{ key: '17', occurredAt: orders[0]?.placedAt, data: orders[0] }],
    cursor: '2026-11-01T07:58:11.000Z',
  });
  expect(urls).toEqual(['https://api.example.com/shops/north/orders?placed_after=2026-11-01T00%3A00%3A00Z']);
  await expect(shopOrders.poll({ ...context, auth: null })).rejects.toMatchObject({ class: 'auth' });
});

test('the settings of http-json that docs/connectors.md shows are taken', () => {
  const [, json = ''] = /--settings '(\{[\s\S]*?\})'/.exec(page('docs/connectors.md')) ?? [];
  expect(httpJson.configProblems(JSON.parse(json))).toEqual([]);
});
