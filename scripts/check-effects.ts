/**
 * Crash points stand around the ports of the engine, so whatever reaches the world has to be one: in the worker, everything
 * made by an adapter's factory is made as an argument of `port(…)`. That each method of a port has its points is checked by
 * the types of drills/lib/engine/effects.ts.
 */
import { fileURLToPath } from 'node:url';
import { parseSync, Visitor } from 'oxc-parser';
import { lineAt, report, repositoryFiles, type SourceFile, type Violation } from './lib/sources.ts';

/** Whose functions reach the world, and which of them do not, with the reason. */
const ADAPTERS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  '@milkrun/workerdb': {},
  '@milkrun/object-store': {},
  '@milkrun/control-plane': { parsePush: 'reads a body that has come' },
  '@milkrun/poll-runner': { defaultCredentials: 'read by the runner, with its call' },
  '@temporalio/client': { Connection: 'carries what the client does' },
};
/** Sources of the worker; the legacy pipeline's own are left out: its crash points are kills of the whole process. */
const ENGINE_FILE = /^apps\/worker\/src\/(?!legacy-client).*\.ts$/;
/** Of packages that know ports only: what binds them to Temporal. */
const BINDINGS = new Set(['createBatchActivities', 'createTickActivities', 'createTimerManager']);

/** Checks the sources of the worker; other files pass. */
export function effectViolations(files: readonly SourceFile[]): Violation[] {
  return files.flatMap((file) => (ENGINE_FILE.test(file.path) ? outsidePorts(file) : []));
}

function outsidePorts({ path, text }: SourceFile): Violation[] {
  const { program } = parseSync(path, text);
  const watched = new Set<string>();
  const wrapped: { start: number; end: number }[] = [];
  const calls: { start: number; name: string }[] = [];
  new Visitor({
    ImportDeclaration: (node) => {
      if (node.importKind === 'type') return;
      for (const item of node.specifiers) {
        const isType = item.type === 'ImportSpecifier' && item.importKind === 'type';
        const harmless = ADAPTERS[node.source.value];
        const isAdapter = harmless !== undefined && harmless[item.local.name] === undefined;
        if (!isType && (isAdapter || BINDINGS.has(item.local.name))) watched.add(item.local.name);
      }
    },
    CallExpression: (node) => {
      if (node.callee.type !== 'Identifier') return;
      if (node.callee.name === 'port') wrapped.push(node);
      else calls.push({ start: node.start, name: node.callee.name });
    },
    NewExpression: (node) => {
      if (node.callee.type === 'Identifier') calls.push({ start: node.start, name: node.callee.name });
    },
  }).visit(program);
  return calls
    .filter(({ name, start }) => watched.has(name) && !wrapped.some((port) => port.start < start && start < port.end))
    .map(({ name, start }) => ({
      path,
      line: lineAt(text, start),
      message: `${name} reaches the world outside of port(…): name it in WorkerPorts, and its effects in drills/lib/engine/effects.ts`,
    }));
}

if (import.meta.main) {
  report('effects', effectViolations(repositoryFiles(fileURLToPath(new URL('..', import.meta.url)))));
}
