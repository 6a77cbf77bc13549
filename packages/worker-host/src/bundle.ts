/**
 * Workflow bundles, made once and kept on disk under the hash of everything that goes into them.
 *
 * A prebuilt bundle saves most of a second at each start. The key covers the SDK's version, Node's version and the text of
 * every source file reached from the entry, so a change of any of them makes a new bundle and never meets an old one.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { bundleWorkflowCode, DefaultLogger, type Logger } from '@temporalio/worker';

export interface BundleInput {
  /** The workflow file, as a path. */
  readonly workflowsPath: string;
  /** Where bundles are kept: a folder of the process's own, such as `MILKRUN_HOME`. */
  readonly home: string;
  /** Modules with workflow interceptors, as paths. */
  readonly interceptorModules?: readonly string[];
  /** Where the bundler speaks; only its warnings by default. */
  readonly logger?: Logger;
}

export interface WorkflowBundle {
  /** For the worker's `workflowBundle`. */
  readonly codePath: string;
  /** The hash it is kept under. */
  readonly hash: string;
  /** False: found on disk. */
  readonly made: boolean;
}

/** Finds or makes the bundle. Rejects when the workflow's imports can not be resolved or hold what a workflow may not use. */
export async function bundleWorkflows(input: BundleInput): Promise<WorkflowBundle> {
  const entries = [input.workflowsPath, ...(input.interceptorModules ?? [])].map((path) => resolve(path));
  const hash = await hashOf(entries);
  const folder = join(input.home, 'workflow-bundles');
  const codePath = join(folder, `${hash}.cjs`);
  if (await exists(codePath)) return { codePath, hash, made: false };
  const { code } = await bundleWorkflowCode({
    workflowsPath: resolve(input.workflowsPath),
    workflowInterceptorModules: [...(input.interceptorModules ?? [])],
    logger: input.logger ?? new DefaultLogger('WARN'),
  });
  await mkdir(folder, { recursive: true });
  // Two processes may make the same bundle at once: each writes its own draft, and either may win.
  const draft = `${codePath}.${process.pid}.new`;
  await writeFile(draft, code);
  await rename(draft, codePath);
  return { codePath, hash, made: true };
}

const SPECIFIER = /\b(?:from|import)\s*\(?\s*['"]([^'"\n]+)['"]/g;

/** Over the sources reached from the entries; packages outside the workspace count by their versions. */
async function hashOf(entries: readonly string[]): Promise<string> {
  const queue = [...entries];
  const seen = new Set(queue);
  const parts: string[] = [];
  const versions = new Set<string>([await versionOf(createRequire(import.meta.url).resolve('@temporalio/worker'))]);
  for (let path = queue.shift(); path !== undefined; path = queue.shift()) {
    // A specifier in a comment may name nothing; a real one that does is the bundler's to report.
    const text = await readFile(path, 'utf8').catch(() => '');
    parts.push(text);
    for (const [, specifier = ''] of text.matchAll(SPECIFIER)) {
      const target = targetOf(path, specifier);
      if (target === undefined) continue;
      if (/[\\/]node_modules[\\/]/.test(target)) {
        versions.add(await versionOf(target));
      } else if (!seen.has(target)) {
        seen.add(target);
        queue.push(target);
      }
    }
  }
  const hash = createHash('sha256').update(process.version);
  for (const part of [...[...versions].sort(), ...parts]) hash.update(`\0${part.length}\0`).update(part);
  return hash.digest('hex').slice(0, 32);
}

function targetOf(from: string, specifier: string): string | undefined {
  if (specifier.startsWith('node:')) return undefined;
  if (specifier.startsWith('.')) return resolve(dirname(from), specifier);
  try {
    const target = createRequire(from).resolve(specifier);
    return target === specifier ? undefined : target;
  } catch {
    return undefined;
  }
}

/** `name@version` of the package a file belongs to. */
async function versionOf(file: string): Promise<string> {
  for (let folder = dirname(file); folder !== dirname(folder); folder = dirname(folder)) {
    const manifest = await readFile(join(folder, 'package.json'), 'utf8').catch(() => undefined);
    if (manifest === undefined) continue;
    const { name, version } = JSON.parse(manifest) as { name?: string; version?: string };
    if (name !== undefined) return `${name}@${version ?? ''}`;
  }
  return file;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    (found) => found.isFile() && found.size > 0,
    () => false,
  );
}
