/**
 * How many connections a call may ask for: learned per origin, for as long as the process lives.
 *
 * A call that was too large halves the size; a piece that went through proves at least its own size once the chunk it
 * was cut from is done; 20 good calls in a row double it again, up to the start.
 */
const CHUNK_START = 100;
const GOOD_CALLS_TO_DOUBLE = 20;

export class ChunkSize {
  #size = CHUNK_START;
  #good = 0;

  get current(): number {
    return this.#size;
  }

  good(): void {
    this.#good += 1;
    if (this.#good < GOOD_CALLS_TO_DOUBLE) return;
    this.#good = 0;
    this.#size = Math.min(this.#size * 2, CHUNK_START);
  }

  /** A call for `count` connections was too large. */
  tooLarge(count: number): void {
    this.#good = 0;
    this.#size = Math.max(1, Math.min(this.#size, Math.floor(count / 2)));
  }

  /** A call for `count` connections fits, whatever was too large beside it: one giant does not make all calls small. */
  proved(count: number): void {
    this.#size = Math.min(Math.max(this.#size, count), CHUNK_START);
  }
}

const sizes = new Map<string, ChunkSize>();

/** The size learned for an origin, shared by all clients of this process. */
export function chunkSizeOf(origin: string): ChunkSize {
  let size = sizes.get(origin);
  if (size === undefined) {
    size = new ChunkSize();
    sizes.set(origin, size);
  }
  return size;
}
