/** Triggers, newest first: searched and paged by the server, so a hundred thousand are as quick as ten. */
import { useEffect, useState } from 'preact/hooks';
import { duration } from '../format.ts';
import { usePaged } from '../parts/paged.ts';
import { toneOf } from '../parts/tones.ts';
import { Ago, Badge, Choice, Empty, Loading, Page, Pager, ProblemNote, Table } from '../parts/ui.tsx';
import { hrefOf, place, setQuery } from '../router.ts';
import type { Trigger } from '../types.ts';

const EVERY_MS = 5_000;
const TYPING_MS = 250;
const STATES = [
  ['', 'All'],
  ['active', 'Active'],
  ['halted', 'Halted'],
  ['disabled', 'Disabled'],
] as const;

export function TriggersPage() {
  const { state = '', search = '', connection } = place.value.query;
  const [typed, setTyped] = useState(search);
  useEffect(() => {
    const timer = setTimeout(() => setQuery({ search: typed.trim() }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const query = { limit: 50, state, search, connectionId: connection };
  const { data, problem, first, onFirst, onNext } = usePaged<Trigger>('/triggers', query, EVERY_MS);
  const filtered = state !== '' || search !== '' || connection !== undefined;
  return (
    <Page title="Triggers" lead="Each is polled at its interval with one connection.">
      <div class="filters">
        <label class="search">
          <span class="hidden">Search</span>
          <input
            type="search"
            maxLength={100}
            placeholder="Name, key, toolkit, tag or id"
            value={typed}
            onInput={({ currentTarget }) => setTyped(currentTarget.value)}
          />
        </label>
        <Choice
          label="State"
          options={STATES}
          value={state as (typeof STATES)[number][0]}
          onChange={(value) => setQuery({ state: value })}
        />
        {connection === undefined ? null : (
          <button type="button" onClick={() => setQuery({ connection: undefined })}>
            Of one connection ✕
          </button>
        )}
      </div>
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : data.items.length === 0 ? (
        <Empty title={filtered ? 'No trigger is like that.' : 'No trigger yet.'}>
          {filtered ? 'Search for less, or choose another state.' : <code>milkrun triggers create</code>}
        </Empty>
      ) : (
        <>
          <Table
            label="Triggers"
            rows={data.items}
            rowKey={({ id }) => id}
            columns={[
              {
                name: 'Trigger',
                wide: true,
                cell: ({ id, name, deduplicationKey }) => (
                  <a href={hrefOf(['triggers', id])}>{name ?? deduplicationKey ?? id}</a>
                ),
              },
              { name: 'State', cell: ({ status }) => <Badge tone={toneOf(status.state)}>{status.state}</Badge> },
              {
                name: 'Toolkit',
                cell: ({ toolkit, slug }) => (
                  <span class="dim">{toolkit === slug ? toolkit : `${toolkit} / ${slug}`}</span>
                ),
              },
              { name: 'Every', numeric: true, cell: ({ intervalSeconds }) => duration(intervalSeconds) },
              { name: 'Last event', cell: ({ lastEventAt }) => <Ago at={lastEventAt} /> },
              {
                name: 'Note',
                cell: ({ status, warning }) => status.code ?? warning?.code ?? <span class="dim">–</span>,
              },
            ]}
          />
          <Pager first={first} next={data.next} onFirst={onFirst} onNext={onNext} shown={data.items.length} />
        </>
      )}
    </Page>
  );
}
