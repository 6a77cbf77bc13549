/** The console: a way around, and the page that belongs to the address. */
import { type ComponentType, render } from 'preact';
import { useEffect } from 'preact/hooks';
import { key, refusal, signIn, signOut, takeKeyFromAddress } from './api.ts';
import { fleet, fleetProblem, watchFleet } from './history.ts';
import icon from './icon.svg';
import { ActivitiesPage } from './pages/activities.tsx';
import { ActivityPage } from './pages/activity.tsx';
import { ConnectionsPage } from './pages/connections.tsx';
import { DeadLettersPage } from './pages/dead-letters.tsx';
import { EventsPage } from './pages/events.tsx';
import { FleetPage } from './pages/fleet.tsx';
import { MigrationPage } from './pages/migration.tsx';
import { RunPage } from './pages/run.tsx';
import { RunsPage } from './pages/runs.tsx';
import { TasksPage } from './pages/tasks.tsx';
import { TriggerPage } from './pages/trigger.tsx';
import { TriggersPage } from './pages/triggers.tsx';
import { WorkersPage } from './pages/workers.tsx';
import { Empty, Page } from './parts/ui.tsx';
import { hrefOf, place, watchAddress } from './router.ts';
import './style.css';

interface Entry {
  /** First part of the address; empty for the start. */
  readonly at: string;
  readonly name: string;
  readonly page: ComponentType;
  /** The page of one thing of the list. */
  readonly one?: ComponentType<{ id: string }>;
}

const ENTRIES: readonly (readonly [group: string, entries: readonly Entry[]])[] = [
  [
    'Polling',
    [
      { at: '', name: 'Fleet', page: FleetPage },
      { at: 'triggers', name: 'Triggers', page: TriggersPage, one: TriggerPage },
      { at: 'connections', name: 'Connections', page: ConnectionsPage },
      { at: 'events', name: 'Events', page: EventsPage },
    ],
  ],
  [
    'Activities',
    [
      { at: 'activities', name: 'Activities', page: ActivitiesPage, one: ActivityPage },
      { at: 'runs', name: 'Runs', page: RunsPage, one: RunPage },
      { at: 'tasks', name: 'Tasks', page: TasksPage },
    ],
  ],
  [
    'Operation',
    [
      { at: 'dead-letters', name: 'Dead letters', page: DeadLettersPage },
      { at: 'migration', name: 'Migration', page: MigrationPage },
      { at: 'workers', name: 'Workers', page: WorkersPage },
    ],
  ],
];

function App() {
  return key.value === undefined ? <SignIn /> : <Shell />;
}

function Shell() {
  useEffect(watchFleet, [key.value]);
  const [at = '', id] = place.value.parts;
  const entry = ENTRIES.flatMap(([, entries]) => entries).find((one) => one.at === at);
  return (
    <>
      <button type="button" class="skip" onClick={toMain}>
        To the content
      </button>
      <header class="side">
        <a class="brand" href={hrefOf([])}>
          <img src={icon} alt="" width="28" height="28" /> Milkrun
        </a>
        <nav aria-label="Pages of the console">
          {ENTRIES.map(([group, entries]) => (
            <div key={group} class="nav-group">
              <span class="nav-title">{group}</span>
              {entries.map((one) => (
                <a
                  key={one.at}
                  href={hrefOf(one.at === '' ? [] : [one.at])}
                  aria-current={one.at === at ? 'page' : undefined}
                >
                  {one.name}
                </a>
              ))}
            </div>
          ))}
        </nav>
        <div class="side-foot">
          <Health />
          <button type="button" class="plain" onClick={() => signOut()}>
            Sign out
          </button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <PageOf key={`${at}/${id ?? ''}`} entry={entry} id={id} />
      </main>
    </>
  );
}

function PageOf({ entry, id }: { entry: Entry | undefined; id: string | undefined }) {
  if (entry !== undefined && id === undefined) return <entry.page />;
  if (entry?.one !== undefined && id !== undefined) return <entry.one id={id} />;
  return (
    <Page title="Nothing here">
      <Empty title="This address leads nowhere.">
        <a href={hrefOf([])}>To the fleet</a>
      </Empty>
    </Page>
  );
}

/** One line that says whether what is shown is live. */
function Health() {
  const [tone, text] =
    fleetProblem.value !== undefined
      ? ['bad', 'API not reachable']
      : fleet.value === undefined
        ? ['quiet', 'Connecting …']
        : fleet.value.engine === null
          ? ['bad', 'Engine not reachable']
          : fleet.value.engine.braked
            ? ['warn', 'Brake is on']
            : ['good', 'Live'];
  return (
    <span class={`health ${tone}`} role="status">
      {text}
    </span>
  );
}

/** Not a link: the address is the router's. */
function toMain(): void {
  document.getElementById('main')?.focus();
}

function SignIn() {
  useEffect(() => {
    document.title = 'Sign in · Milkrun';
  }, []);
  const onSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    const given = new FormData(event.currentTarget as HTMLFormElement).get('key');
    if (typeof given === 'string' && given.trim() !== '') signIn(given.trim());
  };
  return (
    <main class="sign-in">
      <form onSubmit={onSubmit}>
        <img src={icon} alt="" width="48" height="48" />
        <h1>Milkrun</h1>
        {refusal.value === undefined ? null : (
          <p class="problem" role="alert">
            {refusal.value}
          </p>
        )}
        <label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="off" spellcheck={false} required />
        <button type="submit" class="primary">
          Sign in
        </button>
        <p class="note">
          <code>npm start</code> prints an address with a key in it. The key is kept for this tab, and is gone with it.
        </p>
      </form>
    </main>
  );
}

takeKeyFromAddress();
watchAddress();
render(<App />, document.getElementById('app') as HTMLElement);
