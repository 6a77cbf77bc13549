/** Who owns how many triggers, and how far migrations are. */
import { count } from '../format.ts';
import { useLive } from '../live.ts';
import { toneOf } from '../parts/tones.ts';
import { Ago, Badge, Empty, Facts, Loading, Page, ProblemNote, Progress, Section, Tile } from '../parts/ui.tsx';
import type { Migration } from '../types.ts';

const OWNERS: Readonly<Record<string, string>> = {
  v2: 'Owned by v2',
  legacy: 'Owned by legacy',
};

export function MigrationPage() {
  const { data, problem } = useLive<{ owners: Record<string, number>; items: readonly Migration[] }>(
    '/fleet/migrations',
  );
  return (
    <Page
      title="Migration"
      lead="Triggers on their way between the legacy pipeline and v2. One of the two owns each, always."
    >
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : (
        <>
          <dl class="tiles">
            {Object.entries(data.owners).map(([owner, n]) => (
              <Tile key={owner} name={OWNERS[owner] ?? owner.replaceAll('_', ' ')} value={count(n)} />
            ))}
          </dl>
          <Section title="Migrations">
            {data.items.length === 0 ? (
              <Empty title="No migration yet.">
                <code>milkrun migrate to-v2 --toolkit NAME</code> begins one, and it can be paused at any time.
              </Empty>
            ) : (
              data.items.map((migration) => <One key={migration.id} migration={migration} />)
            )}
          </Section>
        </>
      )}
    </Page>
  );
}

function One({ migration }: { migration: Migration }) {
  const { id, direction, state, pausedBecause, total, begun, moved, gone, refused, failed, startedAt, endedAt } =
    migration;
  const refusedCount = Object.values(refused).reduce((sum, n) => sum + n, 0);
  return (
    <article class="letter">
      <div class="letter-head">
        <Badge tone={toneOf(state)}>{state}</Badge>
        <b class="grow">{direction === 'to_v2' ? 'Legacy → v2' : 'v2 → legacy'}</b>
        <Ago at={startedAt} />
      </div>
      {pausedBecause === null ? null : <p>{pausedBecause}</p>}
      <Progress label="Triggers dealt with" value={moved + gone + refusedCount} max={total} />
      <Facts
        facts={[
          ['Moved', `${count(moved)} of ${count(total)}`],
          ['Begun', count(begun)],
          ['Deleted meanwhile', count(gone)],
          [
            'Refused',
            Object.entries(refused)
              .map(([code, n]) => `${count(n)} ${code}`)
              .join(', ') || '0',
          ],
          ['Failed chunks', count(failed)],
          ['Ended', <Ago key="e" at={endedAt} />],
          ['Id', id],
        ]}
      />
    </article>
  );
}
