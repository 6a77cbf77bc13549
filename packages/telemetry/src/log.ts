/** The log: JSON lines (pino), or short readable ones, and no secrets in either. */
import { hostname } from 'node:os';
import type { Log } from '@milkrun/core';
import { pino } from 'pino';
import { redact } from './redact.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogOptions {
  readonly level: LogLevel;
  /** Readable lines instead of JSON. */
  readonly pretty?: boolean;
  /** Fields of every line, such as the process. */
  readonly base?: Readonly<Record<string, unknown>>;
  /** Where lines go; standard output when absent. */
  readonly write?: (line: string) => void;
}

/**
 * A log whose lines are written at once, so that none is lost at a crash. Fields named like secrets, credentials inside
 * addresses and `Secret` values are redacted at any depth; errors are rebuilt from name, message, code, stack and cause.
 */
export function createLog(options: LogOptions): Log & { debug: Log['info'] } {
  const write = options.write ?? ((line: string) => void process.stdout.write(line));
  const logger = pino(
    {
      level: options.level,
      messageKey: 'event',
      base: { host: hostname(), pid: process.pid, ...options.base },
      timestamp: pino.stdTimeFunctions.isoTime,
      // Errors are plain and redacted by then; pino's own serializer would only add a type.
      serializers: { err: (err: unknown) => err },
      formatters: {
        level: (label) => ({ level: label }),
        log: (fields) => redact(fields) as Record<string, unknown>,
      },
    },
    { write: options.pretty === true ? (line: string) => write(prettyOf(line)) : write },
  );
  const at =
    (level: 'debug' | 'info' | 'warn' | 'error'): Log['info'] =>
    (fields, event) =>
      logger[level](fields, String(redact(event)));
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

function prettyOf(line: string): string {
  const { level, time, event, host: _host, pid: _pid, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const shown = Object.entries(fields).map(([key, value]) => {
    return `${key}=${typeof value === 'string' && /^[\w.:/@+-]+$/.test(value) ? value : JSON.stringify(value)}`;
  });
  return `${String(time).slice(11, 23)} ${String(level).padEnd(5)} ${[event, ...shown].join(' ')}\n`;
}
