/** The fleet: what is due, what is polled, what is off, live. */

import { count, duration } from '../format.ts';
import { fleet, fleetProblem, history } from '../history.ts';
import { useLive } from '../live.ts';
import { Chart } from '../parts/chart.tsx';
import { Ago, Badge, Empty, Loading, Page, ProblemNote, Section, Table, Tile } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { EngineFigures, Hold, PageOf, Trigger } from '../types.ts';

const STEPS = ['planned', 'claim', 'auth', 'poll', 'broadcast', 'commit'] as const;
const SLOW_MS = 10_000;
/** A trigger that is due this long is late. */
const LATE_S = 60;

export function FleetPage() {
  const seen = fleet.value;
  return (
    <Page title="Fleet" lead="What the engine is doing now. Charts begin when this page is opened.">
      <ProblemNote problem={fleetProblem.value} stale={seen !== undefined} />
      {seen === undefined ? (
        fleetProblem.value === undefined ? (
          <Loading />
        ) : null
      ) : (
        <>
          {seen.engine === null ? (
            <div class="problem" role="alert">
              <strong>The engine does not answer.</strong> {seen.engineProblem}
            </div>
          ) : (
            <Figures engine={seen.engine} />
          )}
          {seen.triggers === 0 ? (
            <Empty title="No trigger yet.">
              Create one with <code>milkrun triggers create</code>, or see the engine under load with{' '}
              <code>npm start -- --fleet 10000</code>.
            </Empty>
          ) : (
            <Off />
          )}
          {seen.engine === null ? null : <Holds />}
        </>
      )}
    </Page>
  );
}

function Figures({ engine }: { engine: EngineFigures }) {
  const past = history.value;
  const halted = Object.values(engine.halted).reduce((sum, n) => sum + n, 0);
  const late = engine.oldestDueSeconds > LATE_S;
  const open = Object.values(engine.batches).reduce((sum, n) => sum + n, 0);
  const steps = [
    ...STEPS,
    ...Object.keys(engine.batches).filter((step) => !(STEPS as readonly string[]).includes(step)),
  ];
  return (
    <>
      <dl class="tiles">
        <Tile name="Triggers polled" value={count(engine.triggers)} href={hrefOf(['triggers'])} />
        <Tile
          name="Polls a second"
          value={count(past.pollsPerSecond.at(-1))}
          hint={`${count(engine.polls)} since start`}
        />
        <Tile
          name="Due now"
          value={count(engine.due)}
          hint={`oldest ${duration(engine.oldestDueSeconds)}`}
          {...(late ? { tone: 'warn' as const } : {})}
        />
        <Tile name="Due lag, p99" value={duration(engine.dueLagP99Seconds)} hint="from due to claimed" />
        <Tile name="Leases held" value={count(engine.leasesHeld)} hint={`${count(open)} batches open`} />
        <Tile
          name="Events delivered"
          value={count(engine.eventsDelivered)}
          hint={`${count(engine.eventsFound)} found`}
        />
        <Tile
          name="Undelivered"
          value={count(engine.undelivered)}
          href={hrefOf(['dead-letters'])}
          {...(engine.undelivered > 0 ? { tone: 'warn' as const } : {})}
        />
        <Tile
          name="Halted"
          value={count(halted)}
          href={hrefOf(['triggers'], { state: 'halted' })}
          {...(halted > 0 ? { tone: 'bad' as const } : {})}
        />
        <Tile
          name="Workers"
          value={count(engine.workers)}
          hint={`${count(engine.widthInUse)} polls in flight`}
          href={hrefOf(['workers'])}
          {...(engine.workers === 0 ? { tone: 'bad' as const } : {})}
        />
      </dl>
      <div class="charts">
        <Chart
          title="Polls a second"
          at={past.at}
          show={count}
          lines={[{ name: 'polls', colour: '--line-1', values: past.pollsPerSecond }]}
        />
        <Chart
          title="Due and leased"
          at={past.at}
          show={count}
          lines={[
            { name: 'due', colour: '--line-3', values: past.due },
            { name: 'leased', colour: '--line-2', values: past.leased },
          ]}
        />
        <Chart
          title="Events a second"
          at={past.at}
          show={count}
          lines={[{ name: 'events', colour: '--line-2', values: past.eventsPerSecond }]}
        />
        <Chart
          title="Oldest due trigger"
          at={past.at}
          show={duration}
          lines={[{ name: 'age', colour: '--line-3', values: past.oldestDue }]}
        />
      </div>
      <Section title="Batches by step" note={open === 0 ? 'none is open' : `${count(open)} open`}>
        <ol class="steps">
          {steps.map((step) => (
            <li key={step} class={(engine.batches[step] ?? 0) > 0 ? 'on' : ''}>
              <span>{step}</span>
              <b>{count(engine.batches[step] ?? 0)}</b>
            </li>
          ))}
        </ol>
      </Section>
      {halted === 0 ? null : (
        <Section title="Halts by code">
          <ul class="chips">
            {Object.entries(engine.halted).map(([code, n]) => (
              <li key={code}>
                <Badge tone="bad">{code}</Badge> {count(n)}
              </li>
            ))}
          </ul>
        </Section>
      )}
    </>
  );
}

function Off() {
  const { data, problem } = useLive<PageOf<Trigger>>('/triggers?state=halted&limit=10', SLOW_MS);
  return (
    <Section title="Halted by the engine" note={data?.next ? 'the newest ten' : undefined}>
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? null : data.items.length === 0 ? (
        <Empty title="No trigger is halted." />
      ) : (
        <Table
          label="Halted triggers"
          rows={data.items}
          rowKey={({ id }) => id}
          columns={[
            {
              name: 'Trigger',
              wide: true,
              cell: ({ id, name }) => <a href={hrefOf(['triggers', id])}>{name ?? id}</a>,
            },
            { name: 'Code', cell: ({ status }) => <Badge tone="bad">{status.code}</Badge> },
            { name: 'Why', wide: true, cell: ({ status }) => status.meaning },
            { name: 'Since', cell: ({ status }) => <Ago at={status.since} /> },
          ]}
        />
      )}
    </Section>
  );
}

const HOLD_REASONS: Readonly<Record<string, string>> = {
  rate_limited: 'the provider asked to be polled later',
  source_down: 'most polls of the toolkit fail',
  maintenance: 'maintenance',
  operator: 'limited by an operator',
  breaker: 'a part all polls depend on does not answer',
};

function Holds() {
  const { data, problem } = useLive<PageOf<Hold>>('/fleet/holds', SLOW_MS);
  if (data === undefined) return <ProblemNote problem={problem} />;
  if (data.items.length === 0) return null;
  return (
    <Section title="On hold">
      <Table
        label="Holds"
        rows={data.items}
        rowKey={({ reason, toolkit, tenantId, since }) => `${reason} ${toolkit} ${tenantId} ${since}`}
        columns={[
          { name: 'What', cell: ({ toolkit, tenantId }) => toolkit ?? tenantId ?? 'everything' },
          { name: 'Why', wide: true, cell: ({ reason }) => HOLD_REASONS[reason] ?? reason },
          { name: 'Polls a minute', numeric: true, cell: ({ perMinute }) => count(perMinute ?? 0) },
          { name: 'Since', cell: ({ since }) => <Ago at={since} /> },
          { name: 'Until', cell: ({ until }) => (until === null ? 'it is cleared' : <Ago at={until} />) },
        ]}
      />
    </Section>
  );
}
