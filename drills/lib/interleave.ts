/** Runs actors one step at a time in a given order: an actor runs from one of its gates to the next, and nobody else does. */

/** Waits at a gate until it is the actor's turn. */
export type Gate = (what: string) => Promise<void>;

export type Actor = (gate: Gate) => Promise<void>;

interface Running {
  /** Lets it pass the gate it waits at; undefined once it has ended. */
  go: (() => void) | undefined;
  /** Resolves when it waits at its next gate or has ended. */
  rests: PromiseWithResolvers<void>;
}

/**
 * Runs the actors in the order of `turns`, each turn being the place of an actor; turns of one that has ended are passed
 * over, and what is left after the last turn runs actor by actor. `onStep` is told each gate that is passed. Rejects with
 * the first actor's error, after all have ended.
 */
export async function interleave(
  actors: readonly Actor[],
  turns: Iterable<number>,
  onStep: (actor: number, what: string) => void,
): Promise<void> {
  const failures: unknown[] = [];
  const running = actors.map((actor, n) => {
    const own: Running = { go: undefined, rests: Promise.withResolvers() };
    const gate: Gate = (what) =>
      new Promise((resolve, reject) => {
        if (own.go !== undefined) reject(new Error(`an actor waits at two gates at once, the second being ${what}`));
        own.go = () => {
          onStep(n, what);
          resolve();
        };
        own.rests.resolve();
      });
    actor(gate)
      .catch((error: unknown) => failures.push(error))
      .finally(() => {
        own.go = undefined;
        own.rests.resolve();
      });
    return own;
  });
  const turn = async (own: Running): Promise<void> => {
    const { go } = own;
    if (go === undefined) return;
    own.go = undefined;
    own.rests = Promise.withResolvers();
    go();
    await own.rests.promise;
  };
  for (const own of running) await own.rests.promise;
  for (const n of turns) await turn(running[n] as Running);
  for (const own of running) while (own.go !== undefined) await turn(own);
  if (failures.length > 0) throw failures[0];
}

/** All orders of two actors with as many turns each: order `n` of them, counted from 0 in the order of their turns. */
export function orderOf(n: number, turnsEach: number): number[] {
  const turns: number[] = [];
  let [first, second, rank] = [turnsEach, turnsEach, n];
  while (first + second > 0) {
    const withFirst = first === 0 ? 0 : choose(first + second - 1, second);
    if (first > 0 && rank < withFirst) {
      turns.push(0);
      first -= 1;
    } else {
      rank -= withFirst;
      turns.push(1);
      second -= 1;
    }
  }
  return turns;
}

/** How many orders two actors with as many turns each have. */
export const ordersOf = (turnsEach: number): number => choose(2 * turnsEach, turnsEach);

function choose(n: number, k: number): number {
  let result = 1;
  for (let i = 1; i <= k; i += 1) result = (result * (n - k + i)) / i;
  return Math.round(result);
}
