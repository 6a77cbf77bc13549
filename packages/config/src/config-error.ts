export interface ConfigProblem {
  /** The setting; two joined by ` and ` when they contradict each other. */
  readonly name: string;
  /** As given, masked when secret; absent when nothing was given. */
  readonly value?: string;
  /** A sentence: what is wrong or accepted, and what was probably meant. */
  readonly message: string;
}

/** Every problem of a configuration at once. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[]) {
    const lines = problems.map(({ name, value, message }) => {
      return `  ${name}${value === undefined ? '' : ` = ${JSON.stringify(value)}`}: ${message}`;
    });
    super(`the configuration is refused:\n${lines.join('\n')}`);
    this.problems = problems;
  }
}
