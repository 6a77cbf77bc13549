/** Runs of activities, newest first. */

import { shortId } from '../format.ts';
import { usePaged } from '../parts/paged.ts';
import { toneOf } from '../parts/tones.ts';
import { Ago, Badge, Choice, type Column, Empty, Loading, Page, Pager, ProblemNote, Table } from '../parts/ui.tsx';
import { hrefOf, place, setQuery } from '../router.ts';
import type { Run } from '../types.ts';

const STATUSES = [
  ['', 'All'],
  ['running', 'Running'],
  ['succeeded', 'Succeeded'],
  ['failed', 'Failed'],
  ['missed', 'Missed'],
  ['skipped', 'Skipped'],
] as const;

export function runColumns(withActivity: boolean): Column<Run>[] {
  return [
    { name: 'Run', cell: ({ run_id }) => <a href={hrefOf(['runs', run_id])}>{shortId(run_id)}</a> },
    ...(withActivity
      ? [{ name: 'Activity', wide: true, cell: ({ slug }: Run) => <a href={hrefOf(['activities', slug])}>{slug}</a> }]
      : []),
    {
      name: 'Status',
      cell: ({ status, dry_run }) => (
        <>
          <Badge tone={toneOf(status)}>{status}</Badge>
          {dry_run ? <Badge tone="quiet">dry run</Badge> : null}
        </>
      ),
    },
    { name: 'By', cell: ({ origin }) => <span class="dim">{origin}</span> },
    {
      name: 'Tasks',
      numeric: true,
      cell: ({ tasks_done, tasks_failed, tasks_planned }) => `${tasks_done + tasks_failed} / ${tasks_planned}`,
    },
    { name: 'Started', cell: ({ admitted_at, fired_at }) => <Ago at={admitted_at ?? fired_at} /> },
    { name: 'Finished', cell: ({ finished_at }) => <Ago at={finished_at} /> },
  ];
}

export function RunsPage() {
  const { status = '', activity } = place.value.query;
  const { data, problem, first, onFirst, onNext } = usePaged<Run>('/activity-runs', {
    limit: 50,
    status,
    activity_id: activity,
  });
  return (
    <Page title="Runs" lead="What activities did when a tick or an event came.">
      <div class="filters">
        <Choice
          label="Status"
          options={STATUSES}
          value={status as (typeof STATUSES)[number][0]}
          onChange={(value) => setQuery({ status: value })}
        />
        {activity === undefined ? null : (
          <button type="button" onClick={() => setQuery({ activity: undefined })}>
            Of one activity ✕
          </button>
        )}
      </div>
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : data.items.length === 0 ? (
        <Empty title={status === '' ? 'No run yet.' : 'No run is like that.'}>
          Runs appear when an activity’s tick or event comes.
        </Empty>
      ) : (
        <>
          <Table label="Runs" rows={data.items} rowKey={({ run_id }) => run_id} columns={runColumns(true)} />
          <Pager first={first} next={data.next} onFirst={onFirst} onNext={onNext} shown={data.items.length} />
        </>
      )}
    </Page>
  );
}
