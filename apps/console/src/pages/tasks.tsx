/** Tasks; those that wait for a person can be ended here. */
import { send } from '../api.ts';
import { shortId } from '../format.ts';
import { usePaged } from '../parts/paged.ts';
import { toneOf } from '../parts/tones.ts';
import {
  Action,
  Ago,
  Badge,
  Choice,
  type Column,
  Empty,
  Loading,
  Page,
  Pager,
  ProblemNote,
  Table,
} from '../parts/ui.tsx';
import { hrefOf, place, setQuery } from '../router.ts';
import type { Task } from '../types.ts';

const STATUSES = [
  ['', 'All'],
  ['waiting', 'Waiting'],
  ['running', 'Running'],
  ['done', 'Done'],
  ['failed', 'Failed'],
] as const;
const MODES = [
  ['', 'Both'],
  ['auto', 'Automatic'],
  ['human', 'For people'],
] as const;

export function taskColumns(refresh: () => void, withRun: boolean): Column<Task>[] {
  const end = (task: Task, verb: 'complete' | 'fail') => async (): Promise<void> => {
    await send(`/activity-tasks/${encodeURIComponent(task.task_id)}/${verb}`, { reason: 'from the console' });
    refresh();
  };
  const isOpen = ({ mode, status }: Task): boolean =>
    mode === 'human' && (status === 'planned' || status === 'waiting');
  return [
    { name: 'Task', wide: true, cell: ({ title, type }) => title ?? type },
    { name: 'Status', cell: ({ status }) => <Badge tone={toneOf(status)}>{status}</Badge> },
    { name: 'Type', cell: ({ type, mode }) => <span class="dim">{mode === 'human' ? 'for a person' : type}</span> },
    ...(withRun
      ? [{ name: 'Run', cell: ({ run_id }: Task) => <a href={hrefOf(['runs', run_id])}>{shortId(run_id)}</a> }]
      : []),
    { name: 'Attempts', numeric: true, cell: ({ attempts }) => attempts },
    { name: 'Created', cell: ({ created_at }) => <Ago at={created_at} /> },
    {
      name: 'End it',
      cell: (task) =>
        isOpen(task) ? (
          <span class="actions">
            <Action act={end(task, 'complete')}>Done</Action>
            <Action confirm="It can not be done?" act={end(task, 'fail')}>
              Failed
            </Action>
          </span>
        ) : (
          <Ago at={task.finished_at} />
        ),
    },
  ];
}

export function TasksPage() {
  const { status = '', mode = '' } = place.value.query;
  const { data, problem, first, onFirst, onNext, refresh } = usePaged<Task>('/activity-tasks', {
    limit: 50,
    status,
    mode,
  });
  return (
    <Page title="Tasks" lead="What runs of activities have to do, by machines or by people.">
      <div class="filters">
        <Choice
          label="Status"
          options={STATUSES}
          value={status as (typeof STATUSES)[number][0]}
          onChange={(value) => setQuery({ status: value })}
        />
        <Choice
          label="Done by"
          options={MODES}
          value={mode as (typeof MODES)[number][0]}
          onChange={(value) => setQuery({ mode: value })}
        />
      </div>
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : data.items.length === 0 ? (
        <Empty title={status === '' && mode === '' ? 'No task yet.' : 'No task is like that.'}>
          Tasks appear when an activity runs.
        </Empty>
      ) : (
        <>
          <Table
            label="Tasks"
            rows={data.items}
            rowKey={({ task_id }) => task_id}
            columns={taskColumns(refresh, true)}
          />
          <Pager first={first} next={data.next} onFirst={onFirst} onNext={onNext} shown={data.items.length} />
        </>
      )}
    </Page>
  );
}
