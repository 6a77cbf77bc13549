// The console's build: made when its sources are newer than what was built, so that a start costs it once.
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './process.mjs';

/** What the built files depend on, beside the packages. @param {string} root */
function wanted(root) {
  const app = join(root, 'apps/console');
  const hash = createHash('sha256').update(readFileSync(join(root, 'pnpm-lock.yaml')));
  const sources = readdirSync(join(app, 'src'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  for (const file of [join(app, 'index.html'), join(app, 'vite.config.ts'), ...sources.sort()]) {
    hash.update(file.slice(root.length)).update(readFileSync(file));
  }
  return hash.digest('hex');
}

/**
 * Builds the console unless it is built already. A build that fails is reported and no error: the rest runs without it, and
 * the page says what is missing.
 * @param {string} root @param {string} node @param {(line: string) => void} log
 */
export async function buildConsole(root, node, log) {
  const app = join(root, 'apps/console');
  const stamp = join(app, 'dist/.built');
  const hash = wanted(root);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return;
  log('building the console');
  const vite = join(app, 'node_modules/vite/bin/vite.js');
  const { code, output } = await run(node, [vite, 'build'], { cwd: app, timeoutMs: 300_000 });
  if (code === 0) writeFileSync(stamp, hash);
  else log(`the console could not be built, the rest works without it:\n${output.trimEnd()}`);
}
