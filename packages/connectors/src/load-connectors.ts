/** Connectors from files outside this repository: they import `@milkrun/connectors` and `zod`, and get ours. */
import { registerHooks } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Connector } from './connector.ts';

/** What a connector may import without installing it; all else is its own folder's matter. */
const OURS = ['@milkrun/connectors', 'zod'];

let hooked = false;

function lendPackages(): void {
  if (hooked) return;
  hooked = true;
  registerHooks({
    resolve(specifier, context, next) {
      try {
        return next(specifier, context);
      } catch (error) {
        if (!OURS.includes(specifier)) throw error;
        return next(specifier, { ...context, parentURL: import.meta.url });
      }
    },
  });
}

/** What a module exports. Rejects with a sentence when it can not be loaded. */
export async function loadModule(path: string): Promise<Readonly<Record<string, unknown>>> {
  lendPackages();
  try {
    return (await import(pathToFileURL(resolve(path)).href)) as Record<string, unknown>;
  } catch (error) {
    throw new Error(`${path} can not be loaded: ${(error as Error).message}`, { cause: error });
  }
}

/** Every connector that these files export, in their order. Rejects when a file exports none. */
export async function loadConnectors(paths: readonly string[]): Promise<Connector[]> {
  const found: Connector[] = [];
  for (const path of paths) {
    const own = Object.values(await loadModule(path)).filter(isConnector);
    if (own.length === 0) throw new Error(`${path} exports no connector: export what defineConnector() returns`);
    found.push(...new Set(own));
  }
  return found;
}

function isConnector(value: unknown): value is Connector {
  const one = value as Partial<Connector> | null;
  return (
    typeof one === 'object' &&
    typeof one?.slug === 'string' &&
    typeof one.policyOf === 'function' &&
    typeof one.poll === 'function'
  );
}
