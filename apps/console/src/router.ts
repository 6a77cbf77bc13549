/** Where we are: `#/triggers/ID?state=halted`. Addresses can be kept, shared and gone back to. */
import { signal } from '@preact/signals';

export interface Place {
  /** Parts of the path, decoded; empty at the start. */
  readonly parts: readonly string[];
  readonly query: Readonly<Record<string, string>>;
}

export function placeOf(hash: string): Place {
  const [path = '', search = ''] = hash.replace(/^#/, '').split('?', 2);
  const parts = path.split('/').filter(Boolean).map(decoded);
  return { parts, query: Object.fromEntries(new URLSearchParams(search)) };
}

export function hrefOf(parts: readonly string[], query: Readonly<Record<string, string | undefined>> = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== '') search.set(name, value);
  return `#/${parts.map(encodeURIComponent).join('/')}${search.size === 0 ? '' : `?${search}`}`;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const place = signal<Place>(placeOf(location.hash));

/** From now on `place` is the address's; called when a key in it has been taken out. */
export function watchAddress(): void {
  const read = (): void => {
    place.value = placeOf(location.hash);
  };
  read();
  addEventListener('hashchange', read);
}

/** Changes the query of the present place; without an entry in the history. */
export function setQuery(query: Readonly<Record<string, string | undefined>>): void {
  const { parts, query: before } = place.value;
  history.replaceState(null, '', hrefOf(parts, { ...before, ...query }));
  place.value = placeOf(location.hash);
}
