import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** One file of the repository: its path from the root, with forward slashes, and its text. */
export interface SourceFile {
  path: string;
  text: string;
}

/** Something a check refuses. `message` says what is wrong and names the remedy. */
export interface Violation {
  path: string;
  line: number;
  message: string;
}

const BINARY_PROBE_BYTES = 8_000;

/** Every text file git tracks or would track (not ignored), in the working tree's state. */
export function repositoryFiles(root: string): SourceFile[] {
  const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  const files: SourceFile[] = [];
  for (const path of new Set(listed.split('\0').filter((entry) => entry !== ''))) {
    // A file deleted but not yet committed is still listed.
    if (!existsSync(join(root, path))) continue;
    const bytes = readFileSync(join(root, path));
    if (bytes.subarray(0, BINARY_PROBE_BYTES).includes(0)) continue;
    files.push({ path, text: bytes.toString('utf8') });
  }
  return files;
}

/** 1-based line of an offset in a text. */
export function lineAt(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf('\n'); at !== -1 && at < offset; at = text.indexOf('\n', at + 1)) line += 1;
  return line;
}

/** Prints violations, one a line, and sets the exit status. */
export function report(name: string, violations: readonly Violation[]): void {
  for (const { path, line, message } of violations) console.error(`${path}:${line}  ${message}`);
  console.error(`${name}: ${violations.length === 0 ? 'nothing to report' : `${violations.length} to mend`}`);
  if (violations.length > 0) process.exitCode = 1;
}
