/**
 * The console's page: figures of the fleet and the last events, asked for every two seconds. Whatever comes from outside
 * is written with textContent, so it stays text. The key lives in a variable and nowhere else.
 */
const EVERY_MS = 2000;
const EVENT_CHARS_MAX = 600;

const element = (id) => document.getElementById(id);
const made = (name, text) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  return node;
};

let key = keyFromAddress();

/** `#key=…`, as the start-up line prints it; taken out of the address at once, so it is in no history. */
function keyFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get('key');
  if (given !== null) history.replaceState(null, '', location.pathname);
  return given ?? undefined;
}

async function ask(path) {
  const answer = await fetch(path, {
    headers: { authorization: `Bearer ${key}` },
    cache: 'no-store',
    redirect: 'error',
  });
  if (answer.status === 401) {
    key = undefined;
    throw new Error('The key is not valid.');
  }
  if (!answer.ok) throw new Error(`${path} answered with status ${answer.status}.`);
  return answer.json();
}

/** What the fleet's figures are called, in the order they are shown, with their unit. */
const FIGURES = [
  ['triggers', 'triggers polled'],
  ['pollsPerSecond', 'polls a second'],
  ['due', 'due now'],
  ['oldestDueSeconds', 'oldest due', 's'],
  ['dueLagP99Seconds', 'due lag p99', 's'],
  ['leasesHeld', 'leases held'],
  ['polls', 'polls since the start'],
  ['eventsFound', 'events found'],
  ['eventsDelivered', 'events delivered'],
  ['undelivered', 'events undelivered'],
  ['workers', 'workers'],
  ['widthInUse', 'polls in flight'],
];

/** `[name, text]` pairs; a dash where there is no figure. */
function showFigures(target, figures) {
  target.replaceChildren(
    ...figures.map(([name, text]) => {
      const box = made('div');
      box.append(made('dt', name), made('dd', text ?? '–'));
      return box;
    }),
  );
}

const withUnit = (value, unit) =>
  typeof value === 'number' ? `${numberOf(value)}${unit ? ` ${unit}` : ''}` : undefined;

let before;

/** Polls a second between the last two answers of one and the same worker. */
function rateOf({ polls, now }) {
  const last = before;
  before = { polls, atMs: Date.parse(now) };
  if (last === undefined || polls < last.polls || before.atMs <= last.atMs) return undefined;
  return ((polls - last.polls) * 1000) / (before.atMs - last.atMs);
}

const numberOf = (value) => new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 }).format(value);
const timeOf = (text) => (text === null ? '' : new Date(text).toLocaleString());

function showOff(triggers) {
  element('off').replaceChildren(
    ...triggers.map(({ id, name, status }) => {
      const row = made('tr');
      row.append(
        made('td', name ?? id),
        made('td', status.code ?? ''),
        made('td', timeOf(status.since)),
        made('td', status.by ?? ''),
      );
      row.title = [status.meaning, ...status.ends.map((end) => `To end it: ${end}`)].filter(Boolean).join('\n');
      return row;
    }),
  );
}

function showEvents(events) {
  element('events').replaceChildren(
    ...events.map(({ event, storedAt }) => {
      const item = made('li');
      const text = JSON.stringify(event?.data ?? event);
      item.append(
        made('time', timeOf(storedAt)),
        made('span', ` ${event?.type ?? ''}`),
        made('pre', text.length > EVENT_CHARS_MAX ? `${text.slice(0, EVENT_CHARS_MAX)} …` : text),
      );
      return item;
    }),
  );
}

async function refresh() {
  const [fleet, halted, disabled, events] = await Promise.all([
    ask('/fleet'),
    ask('/triggers?state=halted&limit=20'),
    ask('/triggers?state=disabled&limit=20'),
    ask('/events?limit=20'),
  ]);
  const { engine, engineProblem } = fleet;
  const figures = engine === null ? { triggers: fleet.triggers } : { ...engine, pollsPerSecond: rateOf(engine) };
  showFigures(
    element('figures'),
    FIGURES.map(([field, name, unit]) => [name, withUnit(figures[field], unit)]),
  );
  const batches = Object.entries(engine?.batches ?? {}).map(([step, open]) => [step, numberOf(open)]);
  showFigures(element('batches'), batches);
  const off = [...halted.items, ...disabled.items];
  showOff(off);
  showEvents(events.items);
  element('no-batches').hidden = batches.length > 0;
  element('none-off').hidden = off.length > 0;
  element('off-table').hidden = off.length === 0;
  element('no-events').hidden = events.items.length > 0;
  return engineProblem ?? `Live, ${new Date().toLocaleTimeString()}.`;
}

async function loop() {
  let notice = 'Give a key to see the fleet.';
  if (key !== undefined) {
    try {
      notice = await refresh();
    } catch (error) {
      notice = error.message;
    }
  }
  element('notice').textContent = notice;
  element('login').hidden = key !== undefined;
  element('main').hidden = key === undefined;
  setTimeout(loop, EVERY_MS);
}

element('login').addEventListener('submit', (event) => {
  event.preventDefault();
  key = element('key').value;
  element('key').value = '';
  element('notice').textContent = 'Connecting …';
});

loop();
