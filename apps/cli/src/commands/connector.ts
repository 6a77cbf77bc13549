/** `milkrun connector new | test`: a scaffold for a connector of one's own, and the kit it has to pass. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Command } from 'commander';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import type { Io } from '../io.ts';
import { contextOf, show, showList } from './shared.ts';

/** The scaffold is the example that the tests run. */
const EXAMPLE = new URL('../../../../examples/connector/', import.meta.url);
const FILES = ['connector.ts', 'fixtures.ts'];
const NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;

export function connectorCommand(io: Io): Command {
  const group = new Command('connector').description('connectors of your own: a scaffold, and the kit it has to pass');
  group
    .command('new')
    .argument('<name>', 'its slug, such as shop-orders')
    .description('write a connector that works, to be changed into yours')
    .option('--toolkit <name>', 'provider; default: the name up to its first dash')
    .option('--into <folder>', 'where its folder is made; default: the working directory')
    .action(async (name: string, given: { toolkit?: string; into?: string }, command: Command) => {
      const context = contextOf(io, command);
      const toolkit = given.toolkit ?? (name.split('-')[0] as string);
      for (const one of [name, toolkit]) {
        if (!NAME.test(one))
          throw new CommandFailed(`"${one}" is no name: lower case letters, digits, - and _`, EXIT.usage);
      }
      const folder = join(given.into ?? '.', name);
      if (existsSync(folder)) throw new CommandFailed(`${folder} is there already`, EXIT.usage);
      mkdirSync(folder, { recursive: true });
      const files = FILES.map((file) => join(folder, file));
      for (const file of FILES) {
        const text = readFileSync(new URL(file, EXAMPLE), 'utf8');
        writeFileSync(
          join(folder, file),
          text.replace("toolkit: 'shop'", `toolkit: '${toolkit}'`).replace("slug: 'shop-orders'", `slug: '${name}'`),
        );
      }
      if (context.json) return show(context, { name, toolkit, files });
      const path = files[0] as string;
      io.out(`${files.join('\n')}

It lists the orders of a shop that does not exist. Make it yours, and at each step:
  milkrun connector test ${path}
Then let it be polled:
  CONNECTORS=${path} milkrun dev
`);
    });
  group
    .command('test')
    .argument('<file>', 'module that exports the connector')
    .description('check what the engine relies on; exit code 1 when a check fails')
    .option('--fixtures <file>', 'module that exports fixtures(); default: fixtures.ts beside the connector')
    .action(async (file: string, given: { fixtures?: string }, command: Command) => {
      const context = contextOf(io, command);
      const { checkConnector, loadConnectors, loadModule } = await import('@milkrun/connectors');
      const usage = (error: unknown): never => {
        throw new CommandFailed((error as Error).message, EXIT.usage, { cause: error });
      };
      const connectors = await loadConnectors([file]).catch(usage);
      const path = given.fixtures ?? join(dirname(resolve(file)), 'fixtures.ts');
      const { fixtures } = await loadModule(path).catch(usage);
      if (typeof fixtures !== 'function') throw new CommandFailed(`${path} exports no function fixtures()`, EXIT.usage);
      const prepared = await (fixtures as () => Promise<Parameters<typeof checkConnector>[1] & { close?(): void }>)();
      try {
        const rows = [];
        for (const connector of connectors) {
          const checks = await checkConnector(connector, prepared);
          rows.push(...checks.map((check) => ({ connector: connector.slug, ...check })));
        }
        const shown = rows.map(({ ok, problems, ...row }) => ({
          ...row,
          result: ok ? 'ok' : 'FAILED',
          problems: problems.join('; '),
        }));
        showList(context, context.json ? rows : shown, ['connector', 'result', 'name', 'problems']);
        const failed = rows.filter(({ ok }) => !ok).length;
        if (failed > 0) throw new CommandFailed(`${failed} of ${rows.length} checks failed`);
      } finally {
        prepared.close?.();
      }
    });
  return group;
}
