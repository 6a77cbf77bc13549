/** Servers that are had by `go install`, once, pinned, into `.tools`. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Say } from './types.ts';

export interface GoTool {
  /** Of the binary. */
  readonly name: string;
  /** Path of the command's package. */
  readonly module: string;
  readonly version: string;
  /** Environment variable that names a binary to be used instead. */
  readonly setting: string;
}

const tools = fileURLToPath(new URL('../../.tools', import.meta.url));

/** The binary: the setting's, one built earlier, or built now (up to a minute). Throws when there is no Go. */
export function findGoTool({ name, module, version, setting }: GoTool, log: Say): string {
  const given = process.env[setting];
  if (given !== undefined) return given;
  const target = join(tools, `${name}-${version}`);
  if (existsSync(target)) return target;
  log(`building ${module}@${version}`);
  mkdirSync(tools, { recursive: true });
  const draft = mkdtempSync(join(tools, `${name}-draft-`));
  try {
    const go = spawnSync('go', ['install', `${module}@${version}`], {
      encoding: 'utf8',
      env: { ...process.env, GOBIN: draft, CGO_ENABLED: '0' },
    });
    if (go.status !== 0) {
      const why = go.error?.message ?? go.stderr.trim().split('\n').at(-1);
      throw new Error(`${name} could not be built (${why}). Install Go, or set ${setting} to a binary.`);
    }
    renameSync(join(draft, name), target);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  return target;
}
