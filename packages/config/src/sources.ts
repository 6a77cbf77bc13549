/** Where values come from: the environment first, then one YAML file. */
import { readFileSync } from 'node:fs';
import { nearest } from '@milkrun/core';
import { parseDocument } from 'yaml';
import type { ConfigProblem } from './config-error.ts';
import { OPTIONS } from './options.ts';

export type Env = Readonly<Record<string, string | undefined>>;

const FILE_BYTES_MAX = 1024 * 1024;
const OWN = Object.values(OPTIONS).map(({ env }) => env);
const ALSO_KNOWN = ['MILKRUN_CONFIG'];
const known = new Set([...OWN, ...ALSO_KNOWN]);
const isTemporal = (name: string): boolean => name.startsWith('TEMPORAL_');

/**
 * The settings of a YAML file: one mapping of setting names (in any letter case) to scalars. A list, a nested mapping, an
 * alias, a double or an unknown name is a problem.
 */
export function readSettingsFile(path: string, problems: ConfigProblem[]): Map<string, string> {
  const settings = new Map<string, string>();
  const refuse = (message: string, name = path): void => void problems.push({ name, message });
  let source: string;
  try {
    source = readFileSync(path, 'utf8');
  } catch (error) {
    refuse(`the configuration file cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unreadable'})`);
    return settings;
  }
  if (source.length > FILE_BYTES_MAX) {
    refuse(`the configuration file is larger than ${FILE_BYTES_MAX} bytes`);
    return settings;
  }
  // Schema failsafe: every scalar stays the text that was written, so 045 or 1e3 reach the parsers as they are.
  const document = parseDocument(source, { schema: 'failsafe', uniqueKeys: true, maxAliasCount: 0 } as object);
  for (const error of document.errors) refuse(error.message.split('\n')[0] as string);
  if (document.errors.length > 0) return settings;
  const content: unknown = document.toJS({ mapAsMap: true, maxAliasCount: 0 });
  if (content === null || content === '') return settings;
  if (!(content instanceof Map)) {
    refuse('accepted: one mapping of setting names to values');
    return settings;
  }
  for (const [key, value] of content) {
    const name = String(key).toUpperCase();
    if (!known.has(name) && !isTemporal(name)) {
      refuse(`there is no such setting${suggestion(name, OWN)}`, `${path}: ${key}`);
    } else if (typeof value !== 'string') {
      refuse('accepted: one value, not a list or mapping', `${path}: ${key}`);
    } else if (settings.has(name)) {
      refuse('is set twice', `${path}: ${key}`);
    } else {
      settings.set(name, value);
    }
  }
  return settings;
}

/**
 * Variables that look like a misspelt setting. Those of other programs must pass, so only names under `MILKRUN_`, and
 * near misses of names nobody else uses, are taken for ours.
 */
export function misspeltVariables(env: Env): ConfigProblem[] {
  const distinctive = Object.values(OPTIONS)
    .filter(({ common }) => !common)
    .map((option) => option.env);
  return Object.keys(env).flatMap((name): ConfigProblem[] => {
    if (known.has(name) || isTemporal(name)) return [];
    const ours = name.startsWith('MILKRUN_');
    const meant = nearest(name, ours ? [...OWN, ...ALSO_KNOWN] : distinctive);
    const close = meant !== undefined && Math.abs(meant.length - name.length) <= 2 && sharesStart(meant, name);
    if (!ours && !close) return [];
    return [{ name, message: `there is no such setting${meant === undefined ? '' : `; did you mean ${meant}?`}` }];
  });
}

/** The same first word, give or take one letter: LEASE_TLL and LAESE_TTL mean LEASE_TTL, PULL_DEADLINE may not. */
function sharesStart(meant: string, name: string): boolean {
  const [a = '', b = ''] = [meant.split('_')[0], name.split('_')[0]];
  return a === b || [...a].toSorted().join('') === [...b].toSorted().join('');
}

function suggestion(name: string, names: readonly string[]): string {
  const meant = nearest(name, names);
  return meant === undefined ? '' : `; did you mean ${meant}?`;
}
