/** Tells a process from a later one that was given the same id: by id and start time. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { RecordedProcess } from './home.ts';

/** When the process began, in the system's own notation; undefined when there is no such process (or it is a zombie). */
export function startTimeOf(pid: number): string | undefined {
  if (process.platform === 'linux') {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      // The command, field 2, may hold spaces and brackets: fields are counted from its end.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
      return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${fields[19]}`;
    } catch {
      return undefined;
    }
  }
  try {
    const text = execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return text.trim() || undefined;
  } catch {
    return undefined;
  }
}

export const isAlive = ({ pid, startedAt }: RecordedProcess): boolean => startTimeOf(pid) === startedAt;

/** Asks a recorded process to end, waits, then forces it. Another process under the same id is left alone. */
export async function endProcess(recorded: RecordedProcess, graceMs: number): Promise<void> {
  for (const [signal, waitMs] of [
    ['SIGTERM', graceMs],
    ['SIGKILL', 5000],
  ] as const) {
    if (!isAlive(recorded)) return;
    try {
      process.kill(recorded.pid, signal);
    } catch {
      return;
    }
    const giveUp = performance.now() + waitMs;
    while (isAlive(recorded) && performance.now() < giveUp) await delay(50);
  }
}
