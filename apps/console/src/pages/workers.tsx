/** Workers, timer shards and batches: what the engine is made of at present. */
import { useState } from 'preact/hooks';
import { count } from '../format.ts';
import { useLive } from '../live.ts';
import { Ago, Badge, Choice, Empty, Loading, Page, ProblemNote, Progress, Section, Table } from '../parts/ui.tsx';
import type { Batch, PageOf, Shard, Worker } from '../types.ts';

const SLOW_MS = 5_000;
const SHOWN = [
  ['open', 'Open'],
  ['ended', 'Ended too'],
] as const;

export function WorkersPage() {
  const workers = useLive<PageOf<Worker>>('/fleet/workers', SLOW_MS);
  const shards = useLive<PageOf<Shard>>('/fleet/shards', SLOW_MS);
  const [shown, setShown] = useState<'open' | 'ended'>('ended');
  const batches = useLive<PageOf<Batch>>(`/fleet/batches?ended=${shown === 'ended'}&limit=30`);
  return (
    <Page title="Workers" lead="The processes that poll, and what they are at.">
      <Section title="Workers" note="of the last hour">
        <ProblemNote problem={workers.problem} stale={workers.data !== undefined} />
        {workers.data === undefined ? (
          workers.problem === undefined ? (
            <Loading />
          ) : null
        ) : workers.data.items.length === 0 ? (
          <Empty title="No worker has been seen in the last hour.">
            <code>milkrun worker</code>
          </Empty>
        ) : (
          <Table
            label="Workers"
            rows={workers.data.items}
            rowKey={({ workerId }) => workerId}
            columns={[
              { name: 'Worker', wide: true, cell: ({ workerId }) => workerId },
              {
                name: 'State',
                cell: ({ live }) => <Badge tone={live ? 'good' : 'bad'}>{live ? 'live' : 'silent'}</Badge>,
              },
              { name: 'Poll slots', numeric: true, cell: ({ width }) => count(width) },
              {
                name: 'Turns',
                cell: ({ turns }) => (turns.length === 0 ? <span class="dim">–</span> : turns.join(', ')),
              },
              { name: 'Seen', cell: ({ seenAt }) => <Ago at={seenAt} /> },
              { name: 'Started', cell: ({ startedAt }) => <Ago at={startedAt} /> },
            ]}
          />
        )}
      </Section>
      <Section title="Timer shards">
        <ProblemNote problem={shards.problem} stale={shards.data !== undefined} />
        {shards.data === undefined ? null : (
          <Table
            label="Timer shards"
            rows={shards.data.items}
            rowKey={({ timerShard }) => String(timerShard)}
            columns={[
              { name: 'Shard', cell: ({ timerShard }) => timerShard },
              { name: 'Serves', numeric: true, cell: ({ storageShards }) => `${storageShards.length} of 64` },
              { name: 'Due', numeric: true, cell: ({ due }) => count(due) },
              { name: 'Last tick', cell: ({ tickedAt }) => <Ago at={tickedAt} /> },
              { name: 'Wakes', cell: ({ wakeAt }) => <Ago at={wakeAt} /> },
              {
                name: 'Back-off',
                cell: ({ backoffUntil }) =>
                  backoffUntil === null ? <span class="dim">–</span> : <Ago at={backoffUntil} />,
              },
            ]}
          />
        )}
      </Section>
      <Section title="Batches">
        <div class="filters">
          <Choice label="Batches shown" options={SHOWN} value={shown} onChange={setShown} />
        </div>
        <ProblemNote problem={batches.problem} stale={batches.data !== undefined} />
        {batches.data === undefined ? null : batches.data.items.length === 0 ? (
          <Empty title="No batch is open." />
        ) : (
          <Table
            label="Batches"
            rows={batches.data.items}
            rowKey={({ batchId }) => batchId}
            columns={[
              { name: 'Batch', wide: true, cell: ({ batchId }) => batchId },
              {
                name: 'Step',
                cell: ({ step, endedAt }) => (
                  <Badge tone={endedAt === null ? 'info' : 'quiet'}>{endedAt === null ? step : 'ended'}</Badge>
                ),
              },
              { name: 'Hop', numeric: true, cell: ({ hop }) => hop },
              {
                name: 'Committed',
                cell: ({ entries, open, planned, batchId }) => (
                  <Progress
                    label={`Committed of ${batchId}`}
                    value={entries === null ? 0 : entries - open}
                    max={entries ?? planned}
                  />
                ),
              },
              { name: 'Triggers', numeric: true, cell: ({ entries, planned }) => count(entries ?? planned) },
              { name: 'Started', cell: ({ startedAt }) => <Ago at={startedAt} /> },
            ]}
          />
        )}
      </Section>
    </Page>
  );
}
