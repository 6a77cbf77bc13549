/** CPU seconds of other processes, read from /proc (Linux). */
import { readdirSync, readFileSync } from 'node:fs';

/** Kernel clock ticks a second: 100 on every Linux Node runs on. */
const TICKS = 100;

interface Stat {
  readonly parent: number;
  readonly own: number;
  readonly reaped: number;
}

function statOf(pid: number): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The second field is the command in parentheses and may hold anything.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const at = (field: number): number => Number(fields[field - 3]);
  return { parent: at(4), own: (at(14) + at(15)) / TICKS, reaped: (at(16) + at(17)) / TICKS };
}

/** User and system time of a process, all threads. */
export function cpuSecondsOf(pid: number): number {
  return statOf(pid)?.own ?? 0;
}

/** The same for a process and its children, those that have ended and were waited for included. */
export function treeCpuSecondsOf(pid: number, except: readonly number[] = []): number {
  const root = statOf(pid);
  if (root === undefined) return 0;
  let total = root.own + root.reaped;
  for (const name of readdirSync('/proc')) {
    const child = Number(name);
    if (!Number.isInteger(child) || except.includes(child)) continue;
    const stat = statOf(child);
    if (stat?.parent === pid) total += stat.own;
  }
  return total;
}

export function parentOf(pid: number): number {
  return statOf(pid)?.parent ?? 0;
}
