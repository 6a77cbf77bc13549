/** Readers of option values, and what list commands share. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Context, createContext } from '../context.ts';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import type { Io } from '../io.ts';
import { printJson, printRecord, printTable, type Row } from '../output.ts';

/** The context of a command, from the options of the whole program. */
export function contextOf(io: Io, command: Command): Context {
  return createContext(io, command.optsWithGlobals<{ json?: boolean; config?: string }>());
}

export const numberFrom =
  (min: number, max: number) =>
  (text: string): number => {
    const value = /^\d{1,12}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
    return value;
  };

export const limitOption = (): Option =>
  new Option('--limit <n>', 'how many at most').argParser(numberFrom(1, 1_000_000)).default(100);

export function timeOf(text: string): string {
  const at = /^\d{4}-\d{2}-\d{2}(T[\d:.]+(Z|[+-]\d{2}:\d{2}))?$/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(at)) throw new InvalidArgumentError('It must be a time such as 2026-11-01 or 2026-11-01T08:00:00Z.');
  return new Date(at).toISOString();
}

/** JSON given as text, or `-` for standard input. */
export async function jsonOf(io: Io, name: string, text: string): Promise<unknown> {
  try {
    return JSON.parse(text === '-' ? await io.readStdin() : text);
  } catch (error) {
    throw new CommandFailed(`${name} is not valid JSON: ${(error as Error).message}`, EXIT.usage, { cause: error });
  }
}

export function show(context: Context, value: unknown): void {
  if (context.json || value === null || typeof value !== 'object') printJson(context.io, value ?? null);
  else printRecord(context.io, value as Row);
}

export function showList(context: Context, rows: readonly Row[], columns: readonly string[]): void {
  if (context.json) printJson(context.io, rows);
  else printTable(context.io, rows, columns);
}

/** Runs `act` for each id; goes on after a failure and fails at the end. One result line an id. */
export async function forEachId(
  context: Context,
  ids: readonly string[],
  done: string,
  act: (id: string) => Promise<unknown>,
): Promise<void> {
  const results: { id: string; ok: boolean; reason?: string }[] = [];
  let worst: CommandFailed | undefined;
  for (const id of ids) {
    try {
      await act(id);
      results.push({ id, ok: true });
      if (!context.json) context.io.out(`${id}  ${done}\n`);
    } catch (error) {
      if (!(error instanceof CommandFailed)) throw error;
      if (error.exitCode === EXIT.unreachable) throw error;
      worst = error;
      results.push({ id, ok: false, reason: error.message });
      context.io.err(`${id}  ${error.message}\n`);
    }
  }
  if (context.json) printJson(context.io, results);
  if (worst !== undefined) {
    const failed = results.filter(({ ok }) => !ok).length;
    throw new CommandFailed(`${failed} of ${ids.length} failed`, worst.exitCode, { cause: worst });
  }
}

export const idPath = (base: string, id: string, verb?: string): string =>
  `${base}/${encodeURIComponent(id)}${verb === undefined ? '' : `/${verb}`}`;
