const SHOWN = '[redacted]';

/**
 * A string that must not be seen: printing, JSON and inspection all give `[redacted]`. Only `reveal()` gives the value,
 * so every place that uses one can be found by that word.
 */
export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return SHOWN;
  }

  toJSON(): string {
    return SHOWN;
  }

  /** What `util.inspect` and `console.log` print; the symbol is Node's public name for it. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return SHOWN;
  }
}
