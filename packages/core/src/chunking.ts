/** Cutting work into bounded requests. Pure. */

/** The two halves of a list of at least two; the first is the larger by one when the length is odd. */
export function halve<T>(list: readonly T[]): readonly [readonly T[], readonly T[]] {
  const middle = Math.ceil(list.length / 2);
  return [list.slice(0, middle), list.slice(middle)];
}
