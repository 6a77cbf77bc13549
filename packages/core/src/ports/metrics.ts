/** Metrics port: names and tags come from the catalogue in `@milkrun/telemetry`; ids never are tags. */
export type Tags = Readonly<Record<string, string>>;

export interface Metrics {
  count(name: string, value?: number, tags?: Tags): void;
  gauge(name: string, value: number, tags?: Tags): void;
  /** A histogram observation in the unit the catalogue names (seconds, bytes, rows). */
  observe(name: string, value: number, tags?: Tags): void;
}

export const noMetrics: Metrics = Object.freeze({ count: () => {}, gauge: () => {}, observe: () => {} });

/** One line per unit of work, written at its end; fields are plain data without secrets. */
export interface Log {
  info(fields: Readonly<Record<string, unknown>>, event: string): void;
  warn(fields: Readonly<Record<string, unknown>>, event: string): void;
  error(fields: Readonly<Record<string, unknown>>, event: string): void;
}

export const noLog: Log = Object.freeze({ info: () => {}, warn: () => {}, error: () => {} });
