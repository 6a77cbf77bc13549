/** The connectors a command knows: the built-in ones and those of CONNECTORS. */
import { builtInConnectors, type Connector, loadConnectors } from '@milkrun/connectors';
import type { Context } from '../context.ts';
import { CommandFailed, EXIT } from '../exit-codes.ts';

export async function knownConnectors(context: Context): Promise<readonly Connector[]> {
  const { connectors = [] } = context.config('dev');
  const own = await loadConnectors(connectors).catch((error: unknown) => {
    throw new CommandFailed(`CONNECTORS: ${(error as Error).message}`, EXIT.refusedConfiguration, { cause: error });
  });
  return [...builtInConnectors, ...own];
}
