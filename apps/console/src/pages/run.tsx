/** One run: its tasks, the event that started it, and the context it saw. */
import { send } from '../api.ts';
import { shortId, shownJson, when } from '../format.ts';
import { useLive } from '../live.ts';
import { toneOf } from '../parts/tones.ts';
import {
  Action,
  Ago,
  Badge,
  Empty,
  Facts,
  Loading,
  Page,
  ProblemNote,
  Progress,
  Raw,
  Section,
  Table,
} from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { PageOf, Run, Task } from '../types.ts';
import { taskColumns } from './tasks.tsx';

export function RunPage({ id }: { id: string }) {
  const path = `/activity-runs/${encodeURIComponent(id)}`;
  const { data, problem, refresh } = useLive<Run>(path);
  const tasks = useLive<PageOf<Task>>(
    data === undefined ? undefined : `/activity-tasks?run_id=${data.run_id}&limit=100`,
  );
  const back = { href: hrefOf(['runs']), text: 'Runs' };
  if (data === undefined) {
    return (
      <Page title="Run" back={back}>
        <ProblemNote problem={problem} />
        {problem === undefined ? <Loading /> : null}
      </Page>
    );
  }
  const open = data.status === 'queued' || data.status === 'running';
  const cancel = async (): Promise<void> => {
    await send(`${path}/cancel`, { reason: 'from the console' });
    refresh();
  };
  return (
    <Page
      title={`Run ${shortId(data.run_id)}`}
      back={back}
      lead={
        <>
          <Badge tone={toneOf(data.status)}>{data.status}</Badge> of{' '}
          <a href={hrefOf(['activities', data.slug])}>{data.slug}</a>
          {data.dry_run ? ', a dry run' : ''}
        </>
      }
      actions={
        open ? (
          <Action confirm="Cancel it and its tasks?" tone="danger" act={cancel}>
            Cancel
          </Action>
        ) : undefined
      }
    >
      <ProblemNote problem={problem} stale />
      {data.error === null && data.reason === null ? null : (
        <div class="why off">{data.reason ?? shownJson(data.error)}</div>
      )}
      <Progress label="Tasks that are over" value={data.tasks_done + data.tasks_failed} max={data.tasks_planned} />
      <Section title="Tasks" note={`${data.tasks_planned} planned`}>
        <ProblemNote problem={tasks.problem} stale={tasks.data !== undefined} />
        {tasks.data === undefined ? null : tasks.data.items.length === 0 ? (
          <Empty title="It has no task." />
        ) : (
          <Table
            label="Tasks"
            rows={tasks.data.items}
            rowKey={({ task_id }) => task_id}
            columns={taskColumns(tasks.refresh, false)}
          />
        )}
      </Section>
      <div class="columns even">
        <Section title="Event">
          <Raw label="Event" text={shownJson(data.event ?? null)} />
        </Section>
        <Section title="Details">
          <Facts
            facts={[
              ['Started by', data.origin],
              ['For the tick of', when(data.scheduled_for)],
              ['Admitted', <Ago key="a" at={data.admitted_at} />],
              ['Finished', <Ago key="f" at={data.finished_at} />],
              ['Version', String(data.version_used)],
              ['Workflow', data.workflow_id],
              ['Id', data.run_id],
            ]}
          />
        </Section>
      </div>
      <Section title="Context it saw">
        <Raw label="Context" text={shownJson(data.context_snapshot ?? null)} />
      </Section>
    </Page>
  );
}
