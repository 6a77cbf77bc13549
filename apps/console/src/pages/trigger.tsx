/** One trigger: why it is or is not polled now, and everything that happened to it. */
import { send } from '../api.ts';
import { count, duration, shownJson, when } from '../format.ts';
import { useLive } from '../live.ts';
import { toneOf } from '../parts/tones.ts';
import { Action, Ago, Badge, Empty, Facts, Loading, Page, ProblemNote, Raw, Section } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { Explanation, PageOf, PollLine, QuietLine, StoredEvent, Trigger } from '../types.ts';

const LINES_MAX = 100;
const SLOW_MS = 5_000;

export function TriggerPage({ id }: { id: string }) {
  const path = `/triggers/${encodeURIComponent(id)}`;
  const trigger = useLive<Trigger>(path, SLOW_MS);
  const explain = useLive<Explanation>(`${path}/explain?limit=${LINES_MAX}`);
  const events = useLive<PageOf<StoredEvent>>(`/events?triggerId=${encodeURIComponent(id)}&limit=5`, SLOW_MS);
  const act = (verb: string) => async (): Promise<void> => {
    await send(`${path}/${verb}`, { reason: 'from the console' });
    trigger.refresh();
    explain.refresh();
  };
  const resume = async (): Promise<void> => {
    await send(`${path}/resume`, { from: 'cursor', reason: 'from the console' });
    trigger.refresh();
    explain.refresh();
  };
  const { data } = trigger;
  const back = { href: hrefOf(['triggers']), text: 'Triggers' };
  if (data === undefined) {
    return (
      <Page title="Trigger" back={back}>
        <ProblemNote problem={trigger.problem} />
        {trigger.problem === undefined ? <Loading /> : null}
      </Page>
    );
  }
  const { status } = data;
  return (
    <Page
      title={data.name ?? data.deduplicationKey ?? data.id}
      back={back}
      lead={
        <>
          <Badge tone={toneOf(status.state)}>{status.state}</Badge> {data.toolkit} / {data.slug}, every{' '}
          {duration(data.intervalSeconds)}
        </>
      }
      actions={
        <>
          {status.state === 'halted' ? (
            <Action tone="primary" act={resume}>
              Resume
            </Action>
          ) : null}
          {status.state === 'disabled' ? (
            <Action tone="primary" act={act('enable')}>
              Enable
            </Action>
          ) : (
            <>
              <Action act={act('poll-now')}>Poll now</Action>
              <Action confirm="Stop polling it?" tone="danger" act={act('disable')}>
                Disable
              </Action>
            </>
          )}
        </>
      }
    >
      <ProblemNote problem={trigger.problem} stale />
      <div class={`why ${status.state === 'active' ? '' : 'off'}`}>
        <h2>
          {status.state === 'active' && (explain.data?.waits.length ?? 0) === 0
            ? 'What it is doing now'
            : 'Why it is not polled now'}
        </h2>
        <p>{explain.data?.now ?? (explain.problem === undefined ? 'Asking the engine …' : explain.problem.message)}</p>
        {status.meaning === null ? null : <p>{status.meaning}</p>}
        {status.reason === null ? null : (
          <p>
            {status.by} said: {status.reason}
          </p>
        )}
        {status.ends.length === 0 ? null : (
          <>
            <p>What ends it:</p>
            <ul>
              {status.ends.map((end) => (
                <li key={end}>{end}</li>
              ))}
            </ul>
          </>
        )}
      </div>
      <div class="columns">
        <Section title="Timeline" note={explain.data === undefined ? undefined : `since ${when(explain.data.since)}`}>
          {explain.data === undefined ? (
            explain.problem === undefined ? (
              <Loading />
            ) : (
              <ProblemNote problem={explain.problem} />
            )
          ) : explain.data.timeline.length === 0 ? (
            <Empty title="Nothing happened in the last day.">It appears here after its first poll.</Empty>
          ) : (
            <ol class="timeline">
              {explain.data.timeline.map((line) =>
                line.what === 'quiet' ? (
                  <Quiet key={`q${line.from}`} line={line} />
                ) : (
                  <Poll key={`${line.at}${line.what}`} line={line} />
                ),
              )}
            </ol>
          )}
          {explain.data?.more ? (
            <p class="note">Older lines are left out; milkrun triggers explain shows them.</p>
          ) : null}
        </Section>
        <div>
          <Section title="Details">
            <Facts
              facts={[
                ['Next poll', <Ago key="n" at={explain.data?.trigger.nextPollAt} />],
                ['Last poll', <Ago key="l" at={explain.data?.trigger.lastPolledAt} />],
                ['Last good poll', <Ago key="o" at={explain.data?.trigger.lastOkAt} />],
                ['Failures in a row', count(explain.data?.trigger.failureCount)],
                ['Keys remembered', count(explain.data?.trigger.seenKeys)],
                ['Finds new by', data.poll.dedupe],
                ['Connector version', data.version],
                [
                  'Connection',
                  <a key="c" href={hrefOf(['connections'])}>
                    {data.connectionId}
                  </a>,
                ],
                ['Key', data.deduplicationKey ?? '–'],
                ['Tags', data.tags.join(', ') || '–'],
                ['Id', data.id],
                ['Created', <Ago key="cr" at={data.createdAt} />],
              ]}
            />
          </Section>
          <Section title="Configuration">
            <Raw label="Configuration" text={shownJson(data.config)} />
          </Section>
          <Section title="Last events">
            {events.data?.items.length === 0 ? <Empty title="No event yet." /> : null}
            {events.data?.items.map((event) => (
              <details key={event.id} class="event">
                <summary>
                  <Ago at={event.storedAt} />
                </summary>
                <Raw label="Event" text={shownJson(event.event)} />
              </details>
            ))}
            <ProblemNote problem={events.problem} stale={events.data !== undefined} />
          </Section>
        </div>
      </div>
    </Page>
  );
}

function Quiet({ line }: { line: QuietLine }) {
  return (
    <li class="quiet">
      <time dateTime={line.to} title={when(line.to)}>
        <Ago at={line.to} />
      </time>
      <div>
        {count(line.polls)} {line.polls === 1 ? 'poll' : 'polls'} without anything new{' '}
        <span class="dim">since {when(line.from)}</span>
      </div>
    </li>
  );
}

function Poll({ line }: { line: PollLine }) {
  const waited =
    line.dueAt === null || line.claimedAt === null
      ? null
      : (Date.parse(line.claimedAt) - Date.parse(line.dueAt)) / 1000;
  const parts = [
    waited === null ? null : `claimed ${duration(waited)} after it was due`,
    line.pollMs === null ? null : `polled in ${duration(line.pollMs / 1000)}`,
    line.deduplicated === 0 ? null : `${count(line.deduplicated)} known already`,
    line.nextAt === null ? null : `next at ${when(line.nextAt)}`,
  ].filter((part) => part !== null);
  return (
    <li class={toneOf(line.what)}>
      <Ago at={line.at} />
      <div>
        <b>
          {line.what === 'polled'
            ? line.delivered > 0
              ? `${count(line.delivered)} delivered`
              : `${count(line.found)} found`
            : line.what}
        </b>{' '}
        <Badge tone={line.what === 'polled' ? 'quiet' : toneOf(line.what)}>{line.code}</Badge>
        {line.reason === null ? null : <div>{line.reason}</div>}
        {line.skipped.map(({ reason, since }) => (
          <div key={`${reason}${since}`}>held back before: {reason.replaceAll('_', ' ')}</div>
        ))}
        <div class="dim">{parts.join(', ')}</div>
      </div>
    </li>
  );
}
