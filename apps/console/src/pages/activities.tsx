/** Activities: rules that turn ticks and events into tasks, each with its next tick. */
import { useLive } from '../live.ts';
import { usePaged } from '../parts/paged.ts';
import { toneOf } from '../parts/tones.ts';
import { Ago, Badge, Empty, Loading, Page, Pager, ProblemNote, Table } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { Activity, PageOf, Tick } from '../types.ts';

const EVERY_MS = 5_000;
const TICK_EVERY_MS = 60_000;

export const stateOf = ({ enabled, status }: Activity): string => (enabled ? status : 'disabled');

export function ActivitiesPage() {
  const { data, problem, first, onFirst, onNext } = usePaged<Activity>(
    '/activity-definitions',
    { limit: 50 },
    EVERY_MS,
  );
  return (
    <Page title="Activities" lead="Rules that turn ticks and events into tasks.">
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : data.items.length === 0 ? (
        <Empty title="No activity yet.">
          Write one as a file and run <code>milkrun activities apply</code>.
        </Empty>
      ) : (
        <>
          <Table
            label="Activities"
            rows={data.items}
            rowKey={({ id }) => id}
            columns={[
              {
                name: 'Activity',
                wide: true,
                cell: ({ slug, name }) => <a href={hrefOf(['activities', slug])}>{name || slug}</a>,
              },
              { name: 'State', cell: (one) => <Badge tone={toneOf(stateOf(one))}>{stateOf(one)}</Badge> },
              { name: 'Starts by', cell: ({ trigger_type }) => trigger_type },
              {
                name: 'Next tick',
                cell: (one) =>
                  one.trigger_type === 'cron' && one.enabled ? (
                    <NextTick slug={one.slug} />
                  ) : (
                    <span class="dim">–</span>
                  ),
              },
              { name: 'Version', numeric: true, cell: ({ version }) => version },
              { name: 'Changed', cell: ({ updated_at }) => <Ago at={updated_at} /> },
            ]}
          />
          <Pager first={first} next={data.next} onFirst={onFirst} onNext={onNext} shown={data.items.length} />
        </>
      )}
    </Page>
  );
}

function NextTick({ slug }: { slug: string }) {
  const { data, problem } = useLive<PageOf<Tick>>(`/activity-definitions/${slug}/ticks?count=1`, TICK_EVERY_MS);
  const [tick] = data?.items ?? [];
  if (tick === undefined) return <span class="dim">{problem === undefined ? '…' : 'none'}</span>;
  return <Ago at={tick.at} />;
}
