/**
 * Dead letters. Those of activities can be sent again: first a dry run says what would start, then a second press does it.
 * Those of polling are items no retry makes readable; they are shown with their bytes.
 */
import { useState } from 'preact/hooks';
import { ask, send } from '../api.ts';
import { shownJson } from '../format.ts';
import { usePaged } from '../parts/paged.ts';
import { Action, Ago, Badge, Empty, Loading, Page, Pager, ProblemNote, Raw, Section } from '../parts/ui.tsx';
import { hrefOf } from '../router.ts';
import type { ActivityLetter, EngineLetter } from '../types.ts';

interface DryRun {
  readonly readable: boolean;
  readonly problem: string | null;
  readonly activities: readonly { readonly slug: string; readonly starts: boolean; readonly reason: string | null }[];
}

const EVERY_MS = 5_000;

export function DeadLettersPage() {
  const activities = usePaged<ActivityLetter>('/activity-dead-letters', { limit: 20 }, EVERY_MS);
  const engine = usePaged<EngineLetter>('/dead-letters', { limit: 20 }, EVERY_MS);
  return (
    <Page title="Dead letters" lead="What nobody could use, kept with its bytes and the reason.">
      <Section title="Events that reached no activity">
        <ProblemNote problem={activities.problem} stale={activities.data !== undefined} />
        {activities.data === undefined ? (
          activities.problem === undefined ? (
            <Loading />
          ) : null
        ) : activities.data.items.length === 0 ? (
          <Empty title="None: every event reached its activities." />
        ) : (
          activities.data.items.map((letter) => <Letter key={letter.id} letter={letter} refresh={activities.refresh} />)
        )}
        <Pager
          first={activities.first}
          next={activities.data?.next}
          onFirst={activities.onFirst}
          onNext={activities.onNext}
          shown={activities.data?.items.length ?? 0}
        />
      </Section>
      <Section title="Items of polls that nobody can use">
        <ProblemNote problem={engine.problem} stale={engine.data !== undefined} />
        {engine.data === undefined ? null : engine.data.items.length === 0 ? (
          <Empty title="None: every item could be used." />
        ) : (
          engine.data.items.map((letter) => <Item key={letter.id} letter={letter} />)
        )}
        <Pager
          first={engine.first}
          next={engine.data?.next}
          onFirst={engine.onFirst}
          onNext={engine.onNext}
          shown={engine.data?.items.length ?? 0}
        />
      </Section>
    </Page>
  );
}

function Letter({ letter, refresh }: { letter: ActivityLetter; refresh: () => void }) {
  const path = `/activity-dead-letters/${letter.id}`;
  const [dry, setDry] = useState<DryRun>();
  const act = (verb: string, body: object) => async (): Promise<void> => {
    await send(`${path}/${verb}`, body);
    refresh();
  };
  const starting = dry?.activities.filter(({ starts }) => starts).length ?? 0;
  return (
    <article class="letter">
      <div class="letter-head">
        <Badge tone="bad">{letter.stage}</Badge>
        <span class="grow">{letter.error}</span>
        <Ago at={letter.at} />
      </div>
      <details>
        <summary>The message as it came</summary>
        <Raw label="Message" text={shownJson(letter.raw)} />
      </details>
      {dry === undefined ? null : (
        <div class="dry" role="status">
          {dry.readable ? (
            <>
              <b>
                {starting === 0
                  ? 'It would start nothing.'
                  : `It would start ${starting} of ${dry.activities.length} activities.`}
              </b>
              <ul>
                {dry.activities.map(({ slug, starts, reason }) => (
                  <li key={slug}>
                    <Badge tone={starts ? 'good' : 'quiet'}>{starts ? 'starts' : 'not'}</Badge> {slug}{' '}
                    <span class="dim">{reason}</span>
                  </li>
                ))}
              </ul>
            </>
          ) : (
            <b>It would become a dead letter again: {dry.problem}.</b>
          )}
        </div>
      )}
      <div class="actions">
        {dry === undefined ? (
          <Action act={async () => setDry(await send<DryRun>(`${path}/retry`, { dry_run: true }))}>
            Retry: dry run first
          </Action>
        ) : (
          <Action tone="primary" act={act('retry', {})}>
            Send it again
          </Action>
        )}
        <Action confirm="Give it up for good?" tone="danger" act={act('discard', { reason: 'from the console' })}>
          Discard
        </Action>
      </div>
    </article>
  );
}

function Item({ letter }: { letter: EngineLetter }) {
  const [raw, setRaw] = useState<string>();
  const show = async (): Promise<void> => {
    const { raw: bytes } = await ask<{ raw: string }>(`/dead-letters/${letter.id}`);
    setRaw(new TextDecoder().decode(Uint8Array.from(atob(bytes.replaceAll('\n', '')), (char) => char.charCodeAt(0))));
  };
  return (
    <article class="letter">
      <div class="letter-head">
        <Badge tone="bad">{letter.code}</Badge>
        <span class="grow">{letter.reason}</span>
        <Ago at={letter.at} />
      </div>
      {raw === undefined ? null : <Raw label="Bytes" text={shownJson(raw)} />}
      <div class="actions">
        {raw === undefined ? <Action act={show}>Show its bytes</Action> : null}
        {letter.triggerId === null ? null : <a href={hrefOf(['triggers', letter.triggerId])}>Its trigger</a>}
      </div>
    </article>
  );
}
