/** Events, newest first. Their payloads come from other people's systems and are shown as text. */
import { shownJson } from '../format.ts';
import { usePaged } from '../parts/paged.ts';
import { Ago, Empty, Loading, Page, Pager, ProblemNote, Raw } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { StoredEvent } from '../types.ts';

const LINE_CHARS = 160;

export function EventsPage() {
  const { data, problem, first, onFirst, onNext } = usePaged<StoredEvent>('/events', { limit: 50 });
  return (
    <Page title="Events" lead="What was found and delivered, newest first. Payloads are shown as text.">
      <ProblemNote problem={problem} stale={data !== undefined} />
      {data === undefined ? (
        problem === undefined ? (
          <Loading />
        ) : null
      ) : data.items.length === 0 ? (
        <Empty title="No event yet.">They appear here as soon as a poll finds something new.</Empty>
      ) : (
        <>
          <div class="events">
            {data.items.map((event) => (
              <details key={event.id} class="event">
                <summary>
                  <Ago at={event.storedAt} />
                  <span class="event-type">{typeOf(event)}</span>
                  <span class="event-line">{lineOf(event)}</span>
                </summary>
                <Raw label="Event" text={shownJson(event.event)} />
                <a href={hrefOf(['triggers', event.triggerId])}>Its trigger</a>
              </details>
            ))}
          </div>
          <Pager first={first} next={data.next} onFirst={onFirst} onNext={onNext} shown={data.items.length} />
        </>
      )}
    </Page>
  );
}

const recordOf = ({ event }: StoredEvent): Readonly<Record<string, unknown>> =>
  event !== null && typeof event === 'object' ? (event as Record<string, unknown>) : {};

const typeOf = (event: StoredEvent): string => String(recordOf(event).type ?? '');

function lineOf(event: StoredEvent): string {
  const text = JSON.stringify(recordOf(event).data ?? event.event) ?? '';
  return text.length > LINE_CHARS ? `${text.slice(0, LINE_CHARS)} …` : text;
}
