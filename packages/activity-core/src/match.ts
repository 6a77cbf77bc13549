/** Whether an event starts an activity, and why not: the answer is kept, so that "why did it not fire" has one. */
import { type Handling, handlingOf } from './collect.ts';
import { type CelRoots, celRoots, compileCondition, compileKey } from './condition.ts';
import type { ActivityDefinition, EventEntry } from './definition.ts';
import { eventEntriesOf } from './definition.ts';
import { type ActivityEvent, recordOf } from './event.ts';
import { isPlainObject, type PathPart, parsePath, valueAt } from './path.ts';

export type MatchResult =
  /** `handling`: whether it starts a run of its own. */
  | { readonly matched: true; readonly handling: Handling }
  /** `reason`: such as `filters.action: is "closed", wanted "opened"` or `where: error: …`. */
  | { readonly matched: false; readonly reason: string };

/** Decides for one published definition. Never throws: what goes wrong in a filter is no match, with the error as reason. */
export type Matcher = (event: ActivityEvent) => MatchResult;

/** Compiled once for each version; matching many events is cheap. */
export function compileMatcher(definition: ActivityDefinition): Matcher {
  const entries = eventEntriesOf(definition).map(compileEntry);
  return (event) => {
    const roots = celRoots({ event: recordOf(event) });
    const reasons: string[] = [];
    for (const entry of entries) {
      const answer = entry(event, roots);
      if (typeof answer !== 'string') return { matched: true, handling: answer };
      reasons.push(answer);
    }
    return { matched: false, reason: reasons.join('; ') || 'the activity waits for no event' };
  };
}

/** A text says why not. */
function compileEntry(entry: EventEntry, index: number): (event: ActivityEvent, roots: CelRoots) => Handling | string {
  const { event: wanted } = entry;
  const { to, key } = handlingOf(entry);
  const keyOf = key === undefined ? undefined : compileKey(key, ['event']);
  const where = wanted.where === undefined ? undefined : compileCondition(wanted.where, ['event']);
  const filters = Object.entries(wanted.filters ?? {}).map(([key, value]) => ({
    key,
    parts: pathOf(key),
    accepted: Array.isArray(value) ? value : [value],
  }));
  return (event, roots) => {
    if (event.type !== wanted.type) return `type: is ${event.type}, wanted ${wanted.type}`;
    for (const { key, parts, accepted } of filters) {
      const found =
        isPlainObject(event.data) && Object.hasOwn(event.data, key) ? event.data[key] : valueAt(event.data, parts);
      if (found === undefined) return `filters.${key}: is not there`;
      if (!accepted.some((value) => value === found)) {
        return `filters.${key}: is ${shown(found)}, wanted ${accepted.map(shown).join(' or ')}`;
      }
    }
    try {
      if (where !== undefined && !where.holds(roots)) return 'where: false';
    } catch (error) {
      return `where: error: ${(error as Error).message}`;
    }
    if (to === 'start' || keyOf === undefined) return { to: 'start' };
    try {
      return { to, entry: index, key: `${to} ${String(keyOf.evaluate(roots))}`.slice(0, 500) };
    } catch (error) {
      return `key: error: ${(error as Error).message}`;
    }
  };
}

/** `action`, `repo.owner`, or, as older definitions write it, `data.action`. A key that is no path names a member. */
function pathOf(key: string): readonly PathPart[] {
  try {
    const parts = parsePath(key);
    return parts[0] === 'data' && parts.length > 1 ? parts.slice(1) : parts;
  } catch {
    return [key];
  }
}

const shown = (value: unknown): string => (JSON.stringify(value) ?? 'nothing').slice(0, 200);
