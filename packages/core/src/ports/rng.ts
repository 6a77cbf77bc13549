/** Source of randomness, so that a simulation can replay a seed. */
export interface Rng {
  /** A number in [0, 1). */
  next(): number;
  /** `count` random bytes. */
  bytes(count: number): Uint8Array;
}
