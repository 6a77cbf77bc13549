// `node scripts/run.mjs NAME [ARGS]`: bootstrap, then the `NAME:inner` script of package.json on the pinned Node.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrap, root } from './bootstrap.mjs';
import { exe, runInOurPlace } from './lib/process.mjs';

/** What each script needs beside packages. Tests, drills and benches break servers, so they never use a given one. */
const NEEDS = {
  api: { tools: [], console: true },
  start: { tools: ['temporal'], extras: ['nats-server'], console: true },
  test: { tools: ['temporal', 'nats-server'], ownServer: true, optional: true },
  'test:service-isolation': { tools: ['temporal'], ownServer: true, optional: true },
  drill: { tools: ['temporal'], extras: ['nats-server'], ownServer: true, console: true },
  bench: { tools: ['temporal'], ownServer: true },
};

/** @param {string | undefined} name @param {string[]} args */
async function main(name, args) {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const command = scripts[`${name}:inner`];
  if (name === undefined || command === undefined) {
    const known = Object.keys(scripts).filter((script) => script.endsWith(':inner'));
    throw new Error(`no script "${name}"; there are: ${known.map((script) => script.slice(0, -6)).join(', ')}`);
  }
  // `milkrun dev` is what `start` runs; the other subcommands need no server of their own.
  const key = name !== 'milkrun' ? name : args[0] === 'dev' ? 'start' : args[0] === 'api' ? 'api' : name;
  const { tools = [], ...options } = /** @type {Record<string, { tools: string[] }>} */ (NEEDS)[key] ?? {};
  // A run that ends by itself shows no page.
  const { node, env } = await bootstrap(tools, args.includes('--once') ? { ...options, console: false } : options);
  // Inner scripts are plain commands, run without a shell: signals reach them and arguments need no quoting.
  const [program = '', ...fixed] = command.split(' ');
  const file = program === 'node' ? node : join(root, 'node_modules/.bin', program + (exe === '' ? '' : '.cmd'));
  return await runInOurPlace(file, [...fixed, ...args], { cwd: root, env });
}

const [name, ...args] = process.argv.slice(2);
try {
  process.exitCode = await main(name, args);
} catch (error) {
  console.error(`milkrun: ${/** @type {Error} */ (error).message}`);
  process.exitCode = 1;
}
