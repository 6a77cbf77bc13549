/**
 * The state of `milkrun dev` in MILKRUN_HOME: keys and addresses (`dev.json`), the processes of the present run
 * (`processes.json`), logs. Files with keys are for their owner only; every file is replaced as a whole.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { CommandFailed } from '../exit-codes.ts';

const devFile = z.object({
  apiKey: z.string().min(16),
  controlPlaneKey: z.string().min(16),
  engineKey: z.string().min(16),
  blobKey: z.string().min(44),
  registryKey: z.string().min(44),
  apiUrl: z.string().optional(),
  engineUrl: z.string().optional(),
});

export type DevFile = z.output<typeof devFile>;

const processFile = z.object({
  processes: z.array(z.object({ name: z.string(), pid: z.int().positive(), startedAt: z.string() })),
});

export type RecordedProcess = z.output<typeof processFile>['processes'][number];

/** Keys and addresses of the last run; undefined when there was none, or the file is not readable for us. */
export function readDevFile(home: string): DevFile | undefined {
  try {
    return devFile.parse(JSON.parse(readFileSync(join(home, 'dev.json'), 'utf8')));
  } catch {
    return undefined;
  }
}

/**
 * The keys of this home, made at the first run and kept: what was sealed by an earlier run stays readable. A broken file
 * is refused and not replaced.
 */
export function openHome(home: string): { readonly path: string; readonly keys: DevFile } {
  const path = resolve(home);
  mkdirSync(join(path, 'logs'), { recursive: true });
  const file = join(path, 'dev.json');
  if (!existsSync(file)) {
    const key = (): string => `mk_${randomBytes(24).toString('base64url')}`;
    const sealing = (): string => randomBytes(32).toString('base64');
    const made = {
      apiKey: key(),
      controlPlaneKey: key(),
      engineKey: key(),
      blobKey: sealing(),
      registryKey: sealing(),
    };
    writePrivately(file, made);
    return { path, keys: made };
  }
  try {
    return { path, keys: devFile.parse(JSON.parse(readFileSync(file, 'utf8'))) };
  } catch (error) {
    throw new CommandFailed(
      `${file} cannot be used (${(error as Error).message.split('\n')[0]}). It holds the keys of the data beside it: ` +
        'restore it, or move the whole folder away to begin anew.',
      1,
      { cause: error },
    );
  }
}

export function writeDevFile(path: string, content: DevFile): void {
  writePrivately(join(path, 'dev.json'), content);
}

/** Processes a run has recorded; empty when the file is missing or broken. */
export function readProcesses(path: string): readonly RecordedProcess[] {
  try {
    return processFile.parse(JSON.parse(readFileSync(join(path, 'processes.json'), 'utf8'))).processes;
  } catch {
    return [];
  }
}

export function writeProcesses(path: string, processes: readonly RecordedProcess[]): void {
  writePrivately(join(path, 'processes.json'), { processes });
}

function writePrivately(file: string, content: object): void {
  writeFileSync(`${file}.new`, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
