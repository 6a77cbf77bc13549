/**
 * One listener per abort signal, however many calls share it: taking a listener off a signal walks through all of
 * them, which a drain signal shared by 500 calls would pay at every poll.
 */
interface Abortable {
  aborted(): void;
}

export interface AbortHub {
  add(signal: AbortSignal, call: Abortable): void;
  remove(signal: AbortSignal, call: Abortable): void;
}

export function createAbortHub(): AbortHub {
  const calls = new WeakMap<AbortSignal, Set<Abortable>>();
  return {
    add(signal, call) {
      let set = calls.get(signal);
      if (set === undefined) {
        const created = new Set<Abortable>();
        set = created;
        calls.set(signal, created);
        signal.addEventListener('abort', () => {
          for (const each of [...created]) each.aborted();
        });
      }
      set.add(call);
    },
    remove(signal, call) {
      calls.get(signal)?.delete(call);
    },
  };
}
