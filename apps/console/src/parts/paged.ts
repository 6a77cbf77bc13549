/** A list that is asked for page by page: the newest page stays live, older ones are looked at in peace. */
import { useState } from 'preact/hooks';
import { pathWith, type Query } from '../api.ts';
import { type Live, useLive } from '../live.ts';
import type { PageOf } from '../types.ts';

const STILL_MS = 3_600_000;

export interface Paged<T> extends Live<PageOf<T>> {
  readonly first: boolean;
  readonly onFirst: () => void;
  readonly onNext: () => void;
}

/** `query` changed: from the newest page again. */
export function usePaged<T>(path: string, query: Query, everyMs?: number): Paged<T> {
  const base = pathWith(path, query);
  const [at, setAt] = useState<{ base: string; cursor: string | undefined }>({ base, cursor: undefined });
  const cursor = at.base === base ? at.cursor : undefined;
  const live = useLive<PageOf<T>>(pathWith(path, { ...query, cursor }), cursor === undefined ? everyMs : STILL_MS);
  return {
    ...live,
    first: cursor === undefined,
    onFirst: () => setAt({ base, cursor: undefined }),
    onNext: () => setAt({ base, cursor: live.data?.next ?? undefined }),
  };
}
