/** What a write or a read was refused for; the API turns it into a problem answer. */
export type ProblemKind = 'not_found' | 'conflict' | 'precondition_failed' | 'invalid';

export class RegistryProblem extends Error {
  override readonly name = 'RegistryProblem';
  readonly kind: ProblemKind;
  /** Path of the field that is wrong, for `invalid`. */
  readonly field: string | undefined;

  constructor(kind: ProblemKind, message: string, field?: string) {
    super(message);
    this.kind = kind;
    this.field = field;
  }
}

/** Who does something, for the audit trail. */
export interface Actor {
  readonly tenantId: string;
  /** Such as `key:ab12 (laptop)`. */
  readonly name: string;
}
