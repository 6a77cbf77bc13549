/**
 * Import lint: which package may import which, what may end up in a workflow bundle, and that packages are entered by
 * their front door only. The rules are the tables below; every message names the remedy.
 */
import { builtinModules } from 'node:module';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Import, importsOf } from './lib/imports.ts';
import { lineAt, report, repositoryFiles, type SourceFile, type Violation } from './lib/sources.ts';

const SCOPE = '@milkrun/';
const ANY = '*';

/** What a package's sources may import of the workspace, by folder. Tests may also use what their package.json lists. */
const ARROWS: Readonly<Record<string, readonly string[]>> = {
  core: [],
  // Adapters: one port each, and they never know of each other.
  workerdb: ['core', 'migrator'],
  registrydb: ['core', 'migrator'],
  migrator: [],
  'object-store': ['core'],
  'control-plane': ['core'],
  'poll-runner': ['core'],
  connectors: ['core'],
  delivery: ['core'],
  telemetry: ['core'],
  config: ['core'],
  // The engine knows ports, not adapters.
  'batch-poller': ['core'],
  dispatch: ['core'],
  'legacy-poller': ['core'],
  'activity-core': ['core'],
  'worker-host': ['core'],
  migration: ['core', 'dispatch', 'batch-poller', 'legacy-poller'],
  testkit: [ANY],
  simulation: ['core', 'batch-poller', 'dispatch', 'control-plane'],
};

/** Folders whose every package may import any other: processes and what drives them. */
const FREE_FOLDERS = ['apps/', 'drills', 'benches'];

/** Third-party packages the engine's sources may use, beside Temporal's. */
const ENGINE_LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  core: [],
  'batch-poller': ['p-limit', 'zod'],
  dispatch: [],
};

/** Packages whose values may run inside a workflow. */
const WORKFLOW_LIBRARIES = ['@temporalio/workflow', '@temporalio/common'];

const builtins = new Set(builtinModules);

interface Workspace {
  /** Folder from the root, such as `packages/core`. */
  folder: string;
  /** Last part of the name, such as `core`. */
  name: string;
  dependencies: Set<string>;
  devDependencies: Set<string>;
  exports: Map<string, string>;
  manifest: SourceFile;
}

function workspacesOf(files: readonly SourceFile[]): Workspace[] {
  const workspaces: Workspace[] = [];
  for (const manifest of files) {
    if (!/^((apps|packages)\/[^/]+|drills|benches)\/package\.json$/.test(manifest.path)) continue;
    const { name, dependencies = {}, devDependencies = {}, exports = {} } = JSON.parse(manifest.text);
    workspaces.push({
      folder: posix.dirname(manifest.path),
      name: String(name).replace(SCOPE, ''),
      dependencies: new Set(Object.keys(dependencies)),
      devDependencies: new Set(Object.keys(devDependencies)),
      exports: new Map(Object.entries(exports)),
      manifest,
    });
  }
  return workspaces;
}

/** `@scope/name/sub` → `@scope/name`, `.` or `./sub`. */
function splitSpecifier(specifier: string): { library: string; entry: string } {
  const parts = specifier.split('/');
  const library = parts.slice(0, specifier.startsWith('@') ? 2 : 1).join('/');
  return { library, entry: `.${specifier.slice(library.length)}` };
}

const isRelative = (specifier: string): boolean => specifier.startsWith('.');
const isBuiltin = (specifier: string): boolean => specifier.startsWith('node:') || builtins.has(specifier);
const isWorkflow = (path: string): boolean => /(^|\/)(workflows?\.ts$|workflows\/)/.test(path);

/** Checks the files of a repository; `files` holds its package.json files too. */
export function boundaryViolations(files: readonly SourceFile[]): Violation[] {
  const violations: Violation[] = [];
  const workspaces = workspacesOf(files);
  const byName = new Map(workspaces.map((workspace) => [workspace.name, workspace]));
  const root = files.find(({ path }) => path === 'package.json');
  const rootLibraries = new Set(Object.keys(root === undefined ? {} : (JSON.parse(root.text).devDependencies ?? {})));

  const imports = new Map<string, Import[]>();
  for (const workspace of workspaces) {
    const { name, folder } = workspace;
    if (ARROWS[name] === undefined && !FREE_FOLDERS.some((free) => folder.startsWith(free))) {
      const message = `package ${name} has no arrows: add it to ARROWS in scripts/check-boundaries.ts`;
      violations.push({ path: workspace.manifest.path, line: 1, message });
    }
    for (const file of files) {
      if (!file.path.startsWith(`${folder}/`) || !/\.(ts|tsx|mjs|js)$/.test(file.path)) continue;
      const found = importsOf(file);
      imports.set(file.path, found);
      for (const item of found) {
        for (const message of importProblems(workspace, file, item, byName, rootLibraries)) {
          violations.push({ path: file.path, line: item.line, message });
        }
      }
    }
  }
  for (const path of imports.keys())
    if (isWorkflow(path) && path.includes('/src/')) violations.push(...workflowProblems(path, imports, byName));
  violations.push(...cycles(workspaces));
  return violations;
}

function* importProblems(
  { name, folder, dependencies, devDependencies }: Workspace,
  file: SourceFile,
  { specifier, exportsAll }: Import,
  byName: ReadonlyMap<string, Workspace>,
  rootLibraries: ReadonlySet<string>,
): Generator<string> {
  const inSources = file.path.startsWith(`${folder}/src/`);
  if (exportsAll && inSources) {
    yield `"export *" hides what the package offers: list the names exported from ${specifier}`;
  }
  if (isRelative(specifier)) {
    const target = posix.join(posix.dirname(file.path), specifier);
    if (!target.startsWith(`${folder}/`)) {
      yield `${specifier} leaves the package: import the other package by its name (${SCOPE}…)`;
    }
    return;
  }
  if (isBuiltin(specifier)) return;
  const { library, entry } = splitSpecifier(specifier);
  const isListed =
    dependencies.has(library) || (!inSources && (devDependencies.has(library) || rootLibraries.has(library)));
  const isSelf = library === SCOPE + name;
  if (!isListed && !isSelf) {
    const list = inSources ? 'dependencies' : 'dependencies or devDependencies';
    yield `${library} is not listed: add it to ${list} of ${folder}/package.json, or do without`;
  }
  if (library.startsWith(SCOPE)) {
    const other = byName.get(library.slice(SCOPE.length));
    if (other !== undefined && !other.exports.has(entry)) {
      yield `${specifier} goes past the front door: import a name that ${library} exports (${[...other.exports.keys()].join(', ')})`;
    }
    const arrows = ARROWS[name];
    if (
      inSources &&
      !isSelf &&
      arrows !== undefined &&
      !arrows.includes(ANY) &&
      !arrows.includes(library.slice(SCOPE.length))
    ) {
      const allowed = arrows.length === 0 ? 'no other package' : `only ${arrows.join(', ')}`;
      yield `${name} may import ${allowed}: put the shared part into core as a port, and wire ${library} in an app`;
    }
    return;
  }
  const libraries = ENGINE_LIBRARIES[name];
  if (inSources && libraries !== undefined && !libraries.includes(library)) {
    if (!(name !== 'core' && library.startsWith('@temporalio/'))) {
      yield `${name} may not use ${library}: put it behind a port of core and implement that in an adapter`;
    }
  }
}

/**
 * Everything whose value ends up in the bundle of the workflow file at `start`, followed through relative imports and
 * other packages' entries.
 */
function workflowProblems(
  start: string,
  imports: ReadonlyMap<string, Import[]>,
  byName: ReadonlyMap<string, Workspace>,
): Violation[] {
  const problems: Violation[] = [];
  const seen = new Set([start]);
  const queue: { path: string; chain: string }[] = [{ path: start, chain: '' }];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    const { path, chain } = next;
    for (const { specifier, typeOnly, line } of imports.get(path) ?? []) {
      if (typeOnly) continue;
      const refuse = (why: string): void => {
        problems.push({ path, line, message: `${specifier} is loaded into workflow ${start}${chain}: ${why}` });
      };
      const follow = (target: string): void => {
        if (!seen.has(target)) queue.push({ path: target, chain: `${chain} by ${path}` });
        seen.add(target);
      };
      if (isBuiltin(specifier)) {
        refuse('workflows have no Node built-ins; do it in an activity');
      } else if (isRelative(specifier)) {
        const target = posix.join(posix.dirname(path), specifier);
        if (/\/activities(\/|\.ts$)/.test(target)) refuse('write "import type" for activities');
        else follow(target);
      } else {
        const { library, entry } = splitSpecifier(specifier);
        const other = library.startsWith(SCOPE) ? byName.get(library.slice(SCOPE.length)) : undefined;
        const target = other?.exports.get(entry);
        if (other !== undefined && entry === './workflow' && target !== undefined)
          follow(posix.join(other.folder, target));
        else if (other !== undefined) refuse(`import types only, or the value from ${library}/workflow`);
        else if (!WORKFLOW_LIBRARIES.includes(library)) refuse('write "import type", or use it in an activity');
      }
    }
  }
  return problems;
}

/** Cycles between packages by their manifests, development dependencies included: turbo cannot order those. */
function cycles(workspaces: readonly Workspace[]): Violation[] {
  const byName = new Map(workspaces.map((workspace) => [SCOPE + workspace.name, workspace]));
  const done = new Set<string>();
  const violations: Violation[] = [];
  const visit = (name: string, trail: readonly string[]): void => {
    const at = trail.indexOf(name);
    const workspace = byName.get(name);
    if (workspace === undefined || (at === -1 && done.has(name))) return;
    if (at !== -1) {
      const loop = [...trail.slice(at), name].join(' → ');
      const from = byName.get(trail.at(-1) as string) as Workspace;
      const line = lineAt(from.manifest.text, from.manifest.text.indexOf(`"${name}"`));
      const message = `cycle ${loop}: drop one of these dependencies, or move the shared part into core`;
      violations.push({ path: from.manifest.path, line, message });
      return;
    }
    for (const next of [...workspace.dependencies, ...workspace.devDependencies]) visit(next, [...trail, name]);
    done.add(name);
  };
  for (const name of byName.keys()) visit(name, []);
  return violations;
}

if (import.meta.main) {
  report('boundaries', boundaryViolations(repositoryFiles(fileURLToPath(new URL('..', import.meta.url)))));
}
