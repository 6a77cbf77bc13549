/**
 * Entry states and the edges between them (docs/state-machine.md, invariant S3).
 *
 * An entry walks `claimed → authorized → polled → delivered → committed`; the side doors lead straight to commit.
 * States are derived from immutable objects, so an edge is asserted where it is taken, in production too: an impossible
 * one stops that entry with a named error and nothing else.
 */

export type EntryStateName =
  | 'claimed'
  | 'authorized'
  | 'polled'
  | 'delivered'
  | 'committed'
  | 'failed'
  | 'halted'
  | 'fenced';

/** Edges a step may take. A hop's reset leads back to `claimed` only from a failure that is tried again. */
export const TRANSITIONS: Readonly<Record<EntryStateName, readonly EntryStateName[]>> = Object.freeze({
  claimed: ['authorized', 'failed', 'halted', 'fenced'],
  authorized: ['polled', 'failed', 'halted', 'fenced', 'claimed'],
  polled: ['delivered', 'polled', 'failed', 'halted', 'committed', 'fenced'],
  delivered: ['committed', 'fenced'],
  failed: ['committed', 'claimed', 'fenced'],
  halted: ['committed', 'fenced'],
  committed: [],
  fenced: [],
});

export class ImpossibleTransition extends Error {
  override readonly name = 'ImpossibleTransition';
  readonly from: EntryStateName;
  readonly to: EntryStateName;
  constructor(triggerId: string, from: EntryStateName, to: EntryStateName) {
    super(`trigger ${triggerId}: an entry cannot go from ${from} to ${to}`);
    this.from = from;
    this.to = to;
  }
}

/** Asserts one edge. Throws ImpossibleTransition; the caller fails that entry alone. */
export function assertTransition(triggerId: string, from: EntryStateName, to: EntryStateName): void {
  if (!TRANSITIONS[from].includes(to)) throw new ImpossibleTransition(triggerId, from, to);
}
