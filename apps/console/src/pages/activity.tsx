/** One activity: its next ticks, its last runs, its definition. */
import { send } from '../api.ts';
import { shownJson, when } from '../format.ts';
import { useLive } from '../live.ts';
import { toneOf } from '../parts/tones.ts';
import { Action, Ago, Badge, Empty, Facts, Loading, Page, ProblemNote, Raw, Section, Table } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { Activity, PageOf, Run, Tick } from '../types.ts';
import { stateOf } from './activities.tsx';
import { runColumns } from './runs.tsx';

const SLOW_MS = 5_000;
const TICKS = 10;

export function ActivityPage({ id }: { id: string }) {
  const path = `/activity-definitions/${encodeURIComponent(id)}`;
  const { data, problem, refresh } = useLive<Activity>(path, SLOW_MS);
  const ticks = useLive<PageOf<Tick>>(
    data?.trigger_type === 'cron' ? `${path}/ticks?count=${TICKS}` : undefined,
    60_000,
  );
  const runs = useLive<PageOf<Run>>(data === undefined ? undefined : `/activity-runs?activity_id=${data.id}&limit=10`);
  const back = { href: hrefOf(['activities']), text: 'Activities' };
  if (data === undefined) {
    return (
      <Page title="Activity" back={back}>
        <ProblemNote problem={problem} />
        {problem === undefined ? <Loading /> : null}
      </Page>
    );
  }
  const act = (verb: string, body: object) => async (): Promise<void> => {
    await send(`${path}/${verb}`, body);
    refresh();
    runs.refresh();
  };
  const reason = 'from the console';
  return (
    <Page
      title={data.name || data.slug}
      back={back}
      lead={
        <>
          <Badge tone={toneOf(stateOf(data))}>{stateOf(data)}</Badge> version {data.version}, starts by{' '}
          {data.trigger_type}
        </>
      }
      actions={
        <>
          {data.status === 'tripped' ? (
            <Action tone="primary" act={act('reset', { reason })}>
              Lift the trip
            </Action>
          ) : null}
          {data.enabled ? (
            <>
              <Action act={act('trigger', { dry_run: true })}>Try (dry run)</Action>
              <Action confirm="Start a run now?" act={act('trigger', {})}>
                Run now
              </Action>
              <Action confirm="Start no further runs?" tone="danger" act={act('disable', { reason })}>
                Disable
              </Action>
            </>
          ) : (
            <Action tone="primary" act={act('enable', { reason })}>
              Enable
            </Action>
          )}
        </>
      }
    >
      <ProblemNote problem={problem} stale />
      {data.status_reason === null ? null : <div class="why off">{data.status_reason}</div>}
      <div class="columns">
        <div>
          <Section title="Last runs" note={<a href={hrefOf(['runs'], { activity: data.id })}>all</a>}>
            <ProblemNote problem={runs.problem} stale={runs.data !== undefined} />
            {runs.data === undefined ? null : runs.data.items.length === 0 ? (
              <Empty title="It has not run yet." />
            ) : (
              <Table label="Runs" rows={runs.data.items} rowKey={({ run_id }) => run_id} columns={runColumns(false)} />
            )}
          </Section>
          <Section title="Definition">
            <Raw label="Definition" text={shownJson(data.definition)} />
          </Section>
        </div>
        <div>
          <Section title="Next ticks" note={ticks.data === undefined ? undefined : 'local time of its zone'}>
            {data.trigger_type !== 'cron' ? (
              <Empty title={`It starts by ${data.trigger_type}, not by the clock.`} />
            ) : (
              <ol class="ticks">
                {ticks.data?.items.map((tick) => (
                  <li key={tick.local} class={tick.runs ? '' : 'skipped'}>
                    <span>{tick.local}</span>
                    <span class="dim">{tick.at === null ? 'does not exist' : <Ago at={tick.at} />}</span>
                    {tick.flag === null ? null : <Badge tone="warn">{tick.flag.replaceAll('_', ' ')}</Badge>}
                  </li>
                ))}
              </ol>
            )}
            <ProblemNote problem={ticks.problem} stale={ticks.data !== undefined} />
          </Section>
          <Section title="Details">
            <Facts
              facts={[
                ['Slug', data.slug],
                ['Failures in a row', String(data.failures_in_row)],
                ['Ticks dealt with to', when(data.covered_at)],
                ['Changed', <Ago key="u" at={data.updated_at} />],
                ['Id', data.id],
              ]}
            />
          </Section>
        </div>
      </div>
    </Page>
  );
}
