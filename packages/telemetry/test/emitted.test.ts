/** A metric nobody emits is a dashboard that stays empty: each name of the catalogue is found in the sources. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CATALOGUE } from '../src/index.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));
/** Here names are only looked up. */
const ABOUT = /telemetry\/src\/(catalogue|alerts|dashboards)\.ts$/;

test('every metric of the catalogue is emitted somewhere', () => {
  const sources = ['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts'].flatMap((pattern) =>
    globSync(pattern, { cwd: root }),
  );
  const text = sources
    .filter((file) => !ABOUT.test(file))
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .join('\n');
  expect(Object.keys(CATALOGUE).filter((name) => !text.includes(`'${name}'`))).toEqual([]);
});
