/** The planted bugs: patches, each breaking one rule, with who must find it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('../planted-bugs/', import.meta.url));

export type FoundBy = 'simulate' | 'contract';

export interface PlantedBug {
  readonly name: string;
  /** The rule it breaks, as a sentence. */
  readonly rule: string;
  readonly by: FoundBy;
  /** Path of its patch. */
  readonly patch: string;
}

/** In the order of their names. Throws for a patch that does not say which rule it breaks and who finds it. */
export function plantedBugs(): PlantedBug[] {
  return readdirSync(FOLDER)
    .filter((file) => file.endsWith('.patch'))
    .toSorted()
    .map((file) => {
      const patch = join(FOLDER, file);
      const text = readFileSync(patch, 'utf8');
      const rule = /^Rule: (.+)$/m.exec(text)?.[1];
      const by = /^Found-by: (simulate|contract)$/m.exec(text)?.[1] as FoundBy | undefined;
      if (rule === undefined || by === undefined)
        throw new Error(`${file} must begin with "Rule: …" and "Found-by: …"`);
      return { name: file.slice(0, -'.patch'.length), rule, by, patch };
    });
}
