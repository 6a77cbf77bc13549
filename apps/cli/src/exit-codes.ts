/** Exit codes of `milkrun`; shown by `milkrun --help`. */
export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  refusedConfiguration: 3,
  violations: 4,
  unreachable: 5,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_HELP = `
Exit codes:
  0  done
  1  it failed; the reason is on standard error
  2  the command line is wrong
  3  the configuration is refused
  4  doctor found violations
  5  the API or the engine cannot be reached, or refuses the key
`;

/** Ends the command with a message on standard error and an exit code. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed';
  readonly exitCode: ExitCode;

  constructor(message: string, exitCode: ExitCode = EXIT.failure, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}
