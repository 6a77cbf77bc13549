/** A copy of the working tree for drills that change code: sources copied, installed packages shared. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/**
 * Runs work in a fresh copy and removes it afterwards. Links between the repository's own packages stay inside the copy, so
 * that a test in it sees its changes.
 */
export async function withScratchCopy<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'milkrun-drill-copy-'));
  try {
    const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    const files = listed.split('\0').filter((file) => file !== '' && existsSync(join(ROOT, file)));
    for (const file of files) {
      mkdirSync(dirname(join(folder, file)), { recursive: true });
      cpSync(join(ROOT, file), join(folder, file));
    }
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
    for (const manifest of files.filter((file) => /^[^/]+(\/[^/]+)?\/package\.json$/.test(file))) {
      const modules = join(dirname(manifest), 'node_modules');
      // Links relative to the package: into the shared store, and to its neighbours in the copy.
      if (existsSync(join(ROOT, modules))) {
        cpSync(join(ROOT, modules), join(folder, modules), { recursive: true, verbatimSymlinks: true });
      }
    }
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
