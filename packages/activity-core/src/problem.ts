/** What is wrong with a definition: every problem has the path of its field and says what is accepted instead. */

export interface Problem {
  /** Such as `rules[0].task.type`; empty for the document as a whole. */
  readonly path: string;
  readonly message: string;
}

/** A definition or an event that can not be accepted. */
export class Refused extends Error {
  override readonly name = 'Refused';
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    super(problems.map(({ path, message }) => (path === '' ? message : `${path}: ${message}`)).join('; '));
    this.problems = problems;
  }
}

/** `["rules", 0, "task"]` → `rules[0].task`. */
export function pathText(parts: readonly PropertyKey[]): string {
  return parts
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
    .join('')
    .replace(/^\./, '');
}
