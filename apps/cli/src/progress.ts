/** A bar for long work: redrawn in place on a terminal; elsewhere, and beside `--json`, nothing is drawn. */
import type { Context } from './context.ts';

export interface Progress {
  /** `total` undefined: not known; then only the text is shown. */
  show(done: number, total: number | undefined, text: string): void;
  /** Takes the bar away; what is printed next starts on a clean line. */
  clear(): void;
}

const WIDTH = 24;

export function createProgress({ io, json }: Pick<Context, 'io' | 'json'>): Progress {
  let drawn = '';
  const draw = (line: string): void => {
    if (!io.isTty || json || line === drawn) return;
    io.err(`\r\u001b[K${line}`);
    drawn = line;
  };
  return {
    show: (done, total, text) => draw(barLine(done, total, text)),
    clear: () => draw(''),
  };
}

/** `[########                ]  33 %  40 of 120 triggers`. */
export function barLine(done: number, total: number | undefined, text: string): string {
  if (total === undefined) return text;
  const share = total === 0 ? 1 : Math.min(1, Math.max(0, done / total));
  const full = Math.floor(share * WIDTH);
  return `[${'#'.repeat(full)}${' '.repeat(WIDTH - full)}] ${String(Math.floor(share * 100)).padStart(3)} %  ${text}`;
}
