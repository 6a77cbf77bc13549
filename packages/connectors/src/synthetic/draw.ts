/** Reproducible randomness: the same words give the same number, on any machine, for ever. */
import { hash } from 'node:crypto';

/** A number in [0, 1) drawn from the words. */
export function draw(...words: readonly (string | number)[]): number {
  return Number.parseInt(hash('sha256', words.join('\0')).slice(0, 12), 16) / 2 ** 48;
}
