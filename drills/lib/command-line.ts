/** Reads `NAME [--count N] [--seed S] [--json] [--record] [--flag [value]]`. */
import { nearest } from '@milkrun/core';
import type { Flags } from './types.ts';

/** The command line is wrong; the message says how, and what was probably meant. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

export interface CommandLine {
  readonly name: string | undefined;
  readonly help: boolean;
  readonly json: boolean;
  readonly record: boolean;
  readonly flags: Flags;
}

export function parseCommandLine(args: readonly string[]): CommandLine {
  let name: string | undefined;
  const flags: Record<string, string | true> = Object.create(null) as Record<string, string | true>;
  for (let i = 0; i < args.length; i += 1) {
    const arg = args[i] as string;
    const option = /^--([a-z][a-z0-9-]*)(?:=(.*))?$/s.exec(arg === '-h' ? '--help' : arg);
    if (option === null) {
      if (name !== undefined || arg.startsWith('-')) throw new UsageError(`unexpected argument "${arg}"`);
      name = arg;
      continue;
    }
    const [, flag = '', inline] = option;
    if (flag in flags) throw new UsageError(`--${flag} is given twice`);
    const next = args[i + 1];
    const isSwitch = flag === 'json' || flag === 'help' || flag === 'record';
    if (inline !== undefined) flags[flag] = inline;
    else if (isSwitch || next === undefined || next.startsWith('--')) flags[flag] = true;
    else {
      flags[flag] = next;
      i += 1;
    }
  }
  const { help, json, record, ...rest } = flags;
  return { name, help: help !== undefined, json: json !== undefined, record: record !== undefined, flags: rest };
}

/** Refuses flags that are not known. */
export function checkFlags(flags: Flags, known: readonly string[]): void {
  for (const flag of Object.keys(flags)) {
    if (known.includes(flag)) continue;
    const meant = nearest(flag, known);
    throw new UsageError(`there is no --${flag}${meant === undefined ? '' : `; did you mean --${meant}?`}`);
  }
}

/** The integer a flag gives; `fallback` when it is absent. */
export function integerFrom(name: string, given: string | true | undefined, fallback: number, min: number): number {
  if (given === undefined) return fallback;
  const value = typeof given === 'string' && /^\d{1,15}$/.test(given) ? Number(given) : Number.NaN;
  if (!(value >= min)) throw new UsageError(`--${name} takes an integer of at least ${min}`);
  return value;
}
