/** What a drill and a bench are. */

/** Values of `--name value` and `--name` (then `true`), as given. */
export type Flags = Readonly<Record<string, string | true>>;

/** Progress for people; goes to standard error. */
export type Say = (line: string) => void;

export type Figures = Readonly<Record<string, unknown>>;

export interface DrillInput {
  /** How often to try; a positive integer. */
  readonly count: number;
  /** Seed of everything random, so that a run can be repeated. */
  readonly seed: number;
  readonly log: Say;
  readonly flags: Flags;
}

/** Each missed figure of the promise counts as a violation. */
export interface DrillResult extends Figures {
  /** Work really done. */
  readonly tried: number;
  readonly violations: number;
  /** Faults really fired, by drills that fire some: none is a failure, since nothing was proved. */
  readonly faults?: number;
}

export interface Drill {
  /** The file's name. */
  readonly name: string;
  /** The promise it proves, in a sentence. */
  readonly about: string;
  readonly defaults: { readonly count: number };
  /** The count its promise is stated for; absent where any count says the same. */
  readonly fullCount?: number;
  /** A count that takes some ten seconds: the gate runs the drill with it. Absent: too slow for the gate. */
  readonly ciCount?: number;
  /** Flags it takes beside `--count`, `--seed` and `--json`, with a description each. */
  readonly flags?: Readonly<Record<string, string>>;
  run(input: DrillInput): Promise<DrillResult>;
}

export interface Bench {
  readonly name: string;
  /** What it measures against what, in a sentence. */
  readonly about: string;
  readonly flags?: Readonly<Record<string, string>>;
  /** Figures, ratios first; `missed`, when given, lists goals that were not reached and fails the run. */
  run(input: { readonly log: Say; readonly flags: Flags }): Promise<Figures & { readonly missed?: readonly string[] }>;
}
