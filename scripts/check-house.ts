/** House rules that no linter knows: time and randomness are arguments, no test is skipped or retried, no machine paths. */
import { fileURLToPath } from 'node:url';
import { type Expression, parseSync, Visitor } from 'oxc-parser';
import { lineAt, report, repositoryFiles, type SourceFile, type Violation } from './lib/sources.ts';

/** Packages whose sources must behave the same under a simulated clock and a seeded generator. */
const DETERMINISTIC = /^packages\/(core|batch-poller|dispatch)\/src\//;
/** Production implementations of the two ports, and of the snapshot's work on the machine. */
const PORT_FILE = /(^|[/-])(clock|rng|machine)\.ts$/;
const TIMERS = new Set(['setTimeout', 'setInterval', 'setImmediate']);

const SOURCE_FILE = /^(packages|apps)\/[\w-]+\/src\//;
/** Starts a child workflow that nobody need wait for: what becomes of it when the parent closes must be said. */
const CHILD_START = 'startChild';

const TEST_FILE = /(\.test\.ts|(^|\/)vitest\.[\w.]*config\.ts|(^|\/)test\/.*\.ts)$/;
const TEST_ROOTS = new Set(['it', 'test', 'describe', 'suite', 'bench']);

/** Directories of one machine. A leading letter, digit, dot or dash means the middle of another path or an address. */
const MACHINE_PATH = /(?<![\w.~-])\/(work|root|tmp|home)\/[\w.]/;
/** On the line before or on the line itself: this path belongs to an image or a protocol, not to a machine. */
const PATH_ALLOWED = 'allow-path:';

const UNFINISHED = /\b(TODO|FIXME|XXX)\b/;
const PROSE_OR_CODE = /\.(ts|tsx|mjs|js|sql|md|ya?ml|sh)$/;

/** Checks every file; those of other kinds pass. */
export function houseViolations(files: readonly SourceFile[]): Violation[] {
  return files.flatMap((file) => [...textProblems(file), ...codeProblems(file)]);
}

function* textProblems({ path, text }: SourceFile): Generator<Violation> {
  if (path === 'pnpm-lock.yaml') return;
  const lines = text.split('\n');
  for (const [i, content] of lines.entries()) {
    const allowed = content.includes(PATH_ALLOWED) || (lines[i - 1] ?? '').includes(PATH_ALLOWED);
    const found = TEST_FILE.test(path) || allowed ? null : MACHINE_PATH.exec(content);
    if (found !== null) {
      const message = `machine path ${found[0].trim()}…: use a setting, a path from import.meta.url or os.tmpdir(); if it is no machine's, say why in a comment "${PATH_ALLOWED} …"`;
      yield { path, line: i + 1, message };
    }
    const unfinished = PROSE_OR_CODE.test(path) ? UNFINISHED.exec(content) : null;
    if (
      unfinished !== null &&
      !path.startsWith('scripts/check-house') &&
      !path.startsWith('scripts/test/check-house')
    ) {
      yield { path, line: i + 1, message: `${unfinished[0]} left behind: finish it, or open an issue and remove it` };
    }
  }
}

/** Root identifier and the names after it: `test.concurrent.only` → test, [concurrent, only]. */
function memberChain(node: Expression): { root: string; names: string[] } | undefined {
  const names: string[] = [];
  let at: Expression = node;
  for (;;) {
    if (at.type === 'Identifier') return { root: at.name, names };
    if (at.type === 'CallExpression' || at.type === 'TaggedTemplateExpression') {
      at = at.type === 'CallExpression' ? at.callee : at.tag;
    } else if (at.type === 'MemberExpression' && !at.computed && at.property.type === 'Identifier') {
      names.unshift(at.property.name);
      at = at.object;
    } else {
      return undefined;
    }
  }
}

function codeProblems({ path, text }: SourceFile): Violation[] {
  const deterministic = DETERMINISTIC.test(path) && !PORT_FILE.test(path);
  const isTest = TEST_FILE.test(path);
  const startsChildren = SOURCE_FILE.test(path) && text.includes('@temporalio/workflow') && text.includes(CHILD_START);
  if (!/\.(ts|tsx)$/.test(path) || !(deterministic || isTest || startsChildren)) return [];
  const violations: Violation[] = [];
  const add = (start: number, message: string): void => {
    violations.push({ path, line: lineAt(text, start), message });
  };
  const now = (what: string): string =>
    `${what} reads the machine's clock: take the time from a Clock argument (port of core)`;
  const wait = (what: string): string =>
    `${what} waits by the machine's clock: sleep by a Clock argument (port of core)`;
  new Visitor({
    MemberExpression: (node) => {
      const chain = memberChain(node);
      if (chain === undefined) return;
      const name = [chain.root, ...chain.names].join('.');
      if (deterministic && name === 'Date.now') add(node.start, now('Date.now()'));
      if (deterministic && name === 'AbortSignal.timeout') add(node.start, wait(name));
      if (deterministic && name === 'Math.random') {
        add(node.start, 'Math.random() cannot be replayed: take numbers from an Rng argument (port of core)');
      }
      const last = chain.names.at(-1) ?? '';
      if (isTest && TEST_ROOTS.has(chain.root) && ['only', 'skip', 'todo'].includes(last)) {
        add(node.start, `${name}: every test runs, always; remove .${last}, and mend or delete the test`);
      }
    },
    NewExpression: (node) => {
      if (
        deterministic &&
        node.callee.type === 'Identifier' &&
        node.callee.name === 'Date' &&
        node.arguments.length === 0
      ) {
        add(node.start, now('new Date()'));
      }
    },
    CallExpression: (node) => {
      const chain = memberChain(node.callee);
      if (chain === undefined) return;
      if (deterministic && chain.root === 'Date' && chain.names.length === 0) add(node.start, now('Date()'));
      if (deterministic && chain.names.length === 0 && TIMERS.has(chain.root)) add(node.start, wait(`${chain.root}()`));
      if (startsChildren && (chain.names.at(-1) ?? chain.root) === CHILD_START && !namesClosePolicy(node.arguments)) {
        add(
          node.start,
          `${CHILD_START} without parentClosePolicy: say what becomes of the child when its parent closes`,
        );
      }
      const configures = ['defineConfig', 'defineProject'].includes(chain.root) || chain.names.at(-1) === 'setConfig';
      if (!isTest || !(configures || TEST_ROOTS.has(chain.root))) return;
      for (const argument of node.arguments) {
        const retry = retryOption(argument as Expression, configures);
        if (retry !== undefined)
          add(retry, 'no test is retried: remove "retry" and wait for the fact the test depends on');
      }
    },
  }).visit(parseSync(path, text).program);
  return violations;
}

/** Whether one of a call's arguments is an object literal with `parentClosePolicy`. */
function namesClosePolicy(given: readonly unknown[]): boolean {
  return (given as readonly Expression[]).some(
    (argument) =>
      argument.type === 'ObjectExpression' &&
      argument.properties.some(
        (property) =>
          property.type === 'Property' &&
          property.key.type === 'Identifier' &&
          property.key.name === 'parentClosePolicy',
      ),
  );
}

/** Offset of a `retry` option in an object literal; in a configuration also one level down, in `test`. */
function retryOption(node: Expression, nested: boolean): number | undefined {
  if (node.type !== 'ObjectExpression') return undefined;
  for (const property of node.properties) {
    if (property.type !== 'Property' || property.key.type !== 'Identifier') continue;
    if (property.key.name === 'retry') return property.start;
    const inner = nested && property.key.name === 'test' ? retryOption(property.value, false) : undefined;
    if (inner !== undefined) return inner;
  }
  return undefined;
}

if (import.meta.main) {
  report('house rules', houseViolations(repositoryFiles(fileURLToPath(new URL('..', import.meta.url)))));
}
