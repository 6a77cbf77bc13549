/** Failpoints around a port of a few lines: what is armed happens once, at its point and nowhere else. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createFailpoints, type EffectTable, type Failpoints, partOf, pointsOf } from '../src/index.ts';

interface Ports {
  readonly shop: {
    buy(what: string): Promise<string>;
    close(): Promise<void>;
    readonly name: string;
    open(): boolean;
  };
  readonly desk: { write(line: string): Promise<string> };
}

const table: EffectTable<Ports> = {
  shop: {
    buy: { part: 'postgres', variants: ['milk', 'eggs'], variantOf: ([what]) => (what === 'air' ? undefined : what) },
    close: { none: 'the end' },
  },
  desk: { write: { part: 'local', lost: ([line]) => `${line} was lost` } },
};

let folder: string;
let reports: number;
let points: Failpoints<Ports>;
let done: string[];
let shop: Ports['shop'];
let desk: Ports['desk'];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'milkrun-failpoints-'));
  reports = openSync(join(folder, 'reports'), 'w');
  done = [];
  points = createFailpoints({ table, reportTo: reports, failure: (part) => new Error(`${part} is gone`) });
  shop = points.wrap('shop', {
    name: 'corner',
    open: () => true,
    close: async () => void done.push('close'),
    async buy(what) {
      done.push(what);
      return `bought ${what}`;
    },
  });
  desk = points.wrap('desk', {
    async write(line) {
      done.push(line);
      return line;
    },
  });
});

afterEach(() => {
  closeSync(reports);
  rmSync(folder, { recursive: true, force: true });
});

const reported = (): unknown[] =>
  readFileSync(join(folder, 'reports'), 'utf8')
    .split('\n')
    .flatMap((line) => (line === '' ? [] : [JSON.parse(line)]));

test('the list of points is made from the table', () => {
  expect(pointsOf(table)).toEqual([
    'shop.buy.milk:before',
    'shop.buy.milk:after',
    'shop.buy.eggs:before',
    'shop.buy.eggs:after',
    'desk.write:before',
    'desk.write:after',
  ]);
  expect(partOf(table, 'desk.write:after')).toBe('local');
  expect(() => partOf(table, 'shop.close:after')).toThrow('there is no point');
});

test('a wrapped port is as it was while nothing is armed', async () => {
  expect([shop.name, shop.open(), await shop.buy('milk'), await shop.buy('air')]).toEqual([
    'corner',
    true,
    'bought milk',
    'bought air',
  ]);
  await shop.close();
  expect([done, reported()]).toEqual([['milk', 'air', 'close'], []]);
});

test('before: the call waits until its connection is broken, and says how it ended; only the named variant, only once', async () => {
  points.arm({ id: 7, point: 'shop.buy.eggs:before', kind: 'reset' });
  await shop.buy('milk');
  const bought = shop.buy('eggs');
  await expect.poll(reported).toEqual([{ said: 'hit', id: 7, part: 'postgres' }]);
  expect(done).toEqual(['milk']);
  points.go(7);
  expect(await bought).toBe('bought eggs');
  expect(reported()).toContainEqual({ said: 'settled', id: 7, outcome: 'returned' });
  await shop.buy('eggs');
  expect(reported()).toHaveLength(2);
});

test('after: the effect is done, and its answer thrown away', async () => {
  points.arm({ id: 1, point: 'shop.buy.milk:after', kind: 'lost' });
  const bought = shop.buy('milk');
  await expect.poll(reported).toHaveLength(1);
  points.go(1);
  await expect(bought).rejects.toThrow('postgres is gone');
  expect(done).toEqual(['milk']);
});

test('a port without a connection fails on the spot: undone, done, or told otherwise', async () => {
  points.arm({ id: 1, point: 'desk.write:before', kind: 'reset' });
  await expect(desk.write('one')).rejects.toThrow('local is gone');
  points.arm({ id: 2, point: 'desk.write:before', kind: 'lost' });
  await expect(desk.write('two')).rejects.toThrow('local is gone');
  points.arm({ id: 3, point: 'desk.write:after', kind: 'lost' });
  expect(await desk.write('three')).toBe('three was lost');
  points.arm({ id: 4, point: 'desk.write:after', kind: 'lost' });
  points.disarm(4);
  expect(await desk.write('four')).toBe('four');
  expect(done).toEqual(['two', 'three', 'four']);
});

test.for([
  ['before', []],
  ['after', ['done']],
] as const)('kill %s: the process ends right there, and has said so', async ([side, lines]) => {
  const child: ChildProcess = spawn(
    process.execPath,
    [fileURLToPath(new URL('fixtures/killed.ts', import.meta.url)), `desk.write:${side}`],
    { stdio: ['ignore', 'pipe', 'inherit', 'ignore', 'pipe'] },
  );
  let said = '';
  let report = '';
  child.stdout?.on('data', (text) => {
    said += String(text);
  });
  (child.stdio[4] as Readable).on('data', (text) => {
    report += String(text);
  });
  const [, signal] = await once(child, 'close');
  expect({ signal, lines: said.split('\n').filter(Boolean), report: JSON.parse(report) }).toEqual({
    signal: 'SIGKILL',
    lines,
    report: { said: 'hit', id: 1, part: 'local' },
  });
});
