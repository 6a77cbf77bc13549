import { parseSync, Visitor } from 'oxc-parser';
import { lineAt, type SourceFile } from './sources.ts';

/** One import or re-export as written. `typeOnly`: nothing of it is left when types are stripped. */
export interface Import {
  specifier: string;
  typeOnly: boolean;
  /** `export * from`, which hides the names a package offers. */
  exportsAll: boolean;
  line: number;
}

/**
 * The imports of one TypeScript or JavaScript file, dynamic ones with a literal specifier included.
 * `import { type A }` counts as a value import: what is left of it still loads the module.
 * @throws when the file cannot be parsed
 */
export function importsOf({ path, text }: SourceFile): Import[] {
  const { program, errors } = parseSync(path, text);
  if (errors[0] !== undefined) throw new Error(`${path}: ${errors[0].message}`);
  const imports: Import[] = [];
  const add = (specifier: string, start: number, typeOnly: boolean, exportsAll = false): void => {
    imports.push({ specifier, typeOnly, exportsAll, line: lineAt(text, start) });
  };
  new Visitor({
    ImportDeclaration: (node) => add(node.source.value, node.start, node.importKind === 'type'),
    ExportNamedDeclaration: (node) => {
      if (node.source !== null) add(node.source.value, node.start, node.exportKind === 'type');
    },
    ExportAllDeclaration: (node) =>
      add(node.source.value, node.start, node.exportKind === 'type', node.exported === null),
    ImportExpression: (node) => {
      if (node.source.type === 'Literal' && typeof node.source.value === 'string') {
        add(node.source.value, node.start, false);
      }
    },
    TSImportType: (node) => add(node.source.value, node.start, true),
  }).visit(program);
  return imports;
}
