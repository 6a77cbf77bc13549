/**
 * Bytes that answers in flight may take, over the whole process: a call wins its answer limit before it starts, first
 * come, first served.
 */
export interface ByteBudget {
  readonly total: number;
  /** Bytes won and not given back. */
  taken(): number;
  /** Takes the bytes at once, if nobody waits and they are free. */
  tryTake(bytes: number): boolean;
  /** `won` (the bytes are taken), or why the wait ended without them. */
  take(bytes: number, waitMs: number, signal?: AbortSignal): Promise<'won' | 'aborted' | 'late'>;
  giveBack(bytes: number): void;
}

interface Waiting {
  readonly bytes: number;
  readonly settle: (end: 'won' | 'aborted' | 'late') => void;
}

export function createByteBudget(total: number): ByteBudget {
  let taken = 0;
  const queue = new Set<Waiting>();

  const admit = (): void => {
    for (const first of queue) {
      if (taken + first.bytes > total) return;
      taken += first.bytes;
      first.settle('won');
    }
  };

  const tryTake = (bytes: number): boolean => {
    if (queue.size > 0 || taken + bytes > total) return false;
    taken += bytes;
    return true;
  };

  return {
    total,
    taken: () => taken,
    tryTake,
    take(bytes, waitMs, signal) {
      if (bytes > total) throw new RangeError(`${bytes} bytes can never be won from a budget of ${total}`);
      if (signal?.aborted) return Promise.resolve('aborted');
      if (tryTake(bytes)) return Promise.resolve('won');
      return new Promise((resolve) => {
        const onAbort = (): void => waiting.settle('aborted');
        const timer = setTimeout(() => waiting.settle('late'), waitMs);
        const waiting: Waiting = {
          bytes,
          settle(end) {
            queue.delete(waiting);
            clearTimeout(timer);
            signal?.removeEventListener('abort', onAbort);
            resolve(end);
            // Whoever stood behind a call that gave up may fit in.
            if (end !== 'won') admit();
          },
        };
        queue.add(waiting);
        signal?.addEventListener('abort', onAbort);
      });
    },
    giveBack(bytes) {
      taken -= bytes;
      admit();
    },
  };
}
