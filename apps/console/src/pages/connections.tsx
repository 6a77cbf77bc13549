/** Connections: accounts at providers. Credentials never come out of the API, so none are here. */
import { usePaged } from '../parts/paged.ts';
import { toneOf } from '../parts/tones.ts';
import { Ago, Badge, Empty, Loading, Page, Pager, ProblemNote, Table } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { Connection } from '../types.ts';

const EVERY_MS = 5_000;

export function ConnectionsPage() {
  const { data, problem, first, onFirst, onNext } = usePaged<Connection>('/connections', { limit: 50 }, EVERY_MS);
  return (
    <Page
      title="Connections"
      lead="Accounts at providers. One that is not active keeps its triggers from being polled."
    >
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : data.items.length === 0 ? (
        <Empty title="No connection yet.">
          <code>milkrun connections create</code>
        </Empty>
      ) : (
        <>
          <Table
            label="Connections"
            rows={data.items}
            rowKey={({ id }) => id}
            columns={[
              {
                name: 'Connection',
                wide: true,
                cell: ({ id, name }) => (
                  <a href={hrefOf(['triggers'], { connection: id })}>{name === '' ? id : name}</a>
                ),
              },
              { name: 'Status', cell: ({ status }) => <Badge tone={toneOf(status)}>{status.replace('_', ' ')}</Badge> },
              { name: 'Toolkit', cell: ({ toolkit }) => toolkit },
              { name: 'Credentials', cell: ({ kind }) => <span class="dim">{kind.replace('_', ' ')}</span> },
              {
                name: 'Expires',
                cell: ({ expiresAt }) => (expiresAt === null ? <span class="dim">never</span> : <Ago at={expiresAt} />),
              },
              { name: 'Changed', cell: ({ updatedAt }) => <Ago at={updatedAt} /> },
              { name: 'Reason', wide: true, cell: ({ statusReason }) => statusReason ?? <span class="dim">–</span> },
            ]}
          />
          <Pager first={first} next={data.next} onFirst={onFirst} onNext={onNext} shown={data.items.length} />
        </>
      )}
    </Page>
  );
}
