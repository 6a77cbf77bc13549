/** What the compose file says is held against the code: processes, settings, files. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { createProgram } from '../../apps/cli/src/program.ts';
import { OPTIONS } from '../../packages/config/src/index.ts';

interface Service {
  readonly image?: string;
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly volumes?: readonly string[];
  readonly depends_on?: readonly string[] | Readonly<Record<string, unknown>>;
}

const infra = fileURLToPath(new URL('../../infra', import.meta.url));
const read = (name: string): string => readFileSync(join(infra, name), 'utf8');
const { services } = parse(read('docker-compose.yml'), { merge: true }) as { services: Record<string, Service> };
const own = Object.entries(services).filter(([, { image }]) => image === 'milkrun');

test('each of our services is a process of the command line', () => {
  const io = { env: {}, out: () => {}, err: () => {}, isTty: false, readStdin: async () => '' };
  const commands = createProgram(io).commands.map((command) => command.name());
  expect(own.map(([, { command }]) => command?.[0]).toSorted()).toEqual([
    'api',
    'orchestrator',
    'poll-function',
    'worker',
  ]);
  for (const [, { command = [] }] of own) expect(commands).toContain(command[0]);
});

test('each setting given to them exists', () => {
  const known = new Set<string>(Object.values(OPTIONS).map(({ env }) => env));
  const foreign = /^(AWS_|TEMPORAL_)/;
  for (const [name, { environment = {} }] of own) {
    for (const setting of Object.keys(environment)) {
      if (!foreign.test(setting)) expect(known.has(setting), `${name}: ${setting}`).toBe(true);
    }
  }
});

test('each variable that must be set stands in the example', () => {
  const example = [...read('.env.example').matchAll(/^([A-Z0-9_]+)=/gm)].map(([, name]) => name);
  const used = [...read('docker-compose.yml').matchAll(/\$\{([A-Z0-9_]+)/g)].map(([, name = '']) => name);
  expect([...new Set(used)].toSorted()).toEqual(example.toSorted());
});

test('files that are mounted and services that are waited for are there', () => {
  for (const { volumes = [], depends_on: others = [] } of Object.values(services)) {
    for (const volume of volumes) {
      const [from = ''] = volume.split(':');
      if (from.startsWith('./')) expect(existsSync(join(infra, from)), from).toBe(true);
    }
    for (const other of Array.isArray(others) ? others : Object.keys(others)) expect(services).toHaveProperty(other);
  }
});
