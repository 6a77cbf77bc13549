/** Data that stays fresh without a reload: asked again every few seconds while the page is visible, less often when it fails. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, ask } from './api.ts';

export interface Live<T> {
  /** The last good answer; kept while later ones fail. */
  readonly data: T | undefined;
  readonly problem: ApiError | undefined;
  /** Asks again now. */
  readonly refresh: () => void;
}

export const EVERY_MS = 2_000;
const BACKOFF_MAX_MS = 30_000;

/** `path` undefined: nothing is asked. */
export function useLive<T>(path: string | undefined, everyMs: number = EVERY_MS): Live<T> {
  const [state, setState] = useState<{ path?: string | undefined; data?: T; problem?: ApiError }>({});
  const again = useRef<() => void>(() => undefined);

  useEffect(() => {
    if (path === undefined) return;
    const stop = repeat(everyMs, async (signal) => {
      try {
        const data = await ask<T>(path, signal);
        setState({ path, data });
        return true;
      } catch (error) {
        if (signal.aborted) return true;
        const problem = error instanceof ApiError ? error : new ApiError(0, String((error as Error).message));
        setState((before) => ({ ...(before.path === path ? before : {}), path, problem }));
        return false;
      }
    });
    again.current = stop.now;
    return stop;
  }, [path, everyMs]);

  // The answer to another path is not this one's.
  const own = state.path === path ? state : {};
  return { data: own.data, problem: own.problem, refresh: () => again.current() };
}

/** Runs `work` now and then every `everyMs` while the page is visible; the answer stops it. `work` answers whether it went well. */
export function repeat(
  everyMs: number,
  work: (signal: AbortSignal) => Promise<boolean>,
): { (): void; readonly now: () => void } {
  const ending = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let running = false;
  let failures = 0;
  const round = async (): Promise<void> => {
    clearTimeout(timer);
    if (running || ending.signal.aborted || document.hidden) return;
    running = true;
    failures = (await work(ending.signal)) ? 0 : failures + 1;
    running = false;
    if (!ending.signal.aborted) timer = setTimeout(round, Math.min(BACKOFF_MAX_MS, everyMs * 2 ** failures));
  };
  const onVisible = (): void => void round();
  document.addEventListener('visibilitychange', onVisible);
  void round();
  const stop = (): void => {
    ending.abort();
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', onVisible);
  };
  return Object.assign(stop, { now: onVisible });
}
