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

/** Names with their figures, nested objects left out. */
function showFigures(target, figures) {
  target.replaceChildren(
    ...Object.entries(figures)
      .filter(([, value]) => typeof value === 'number' || typeof value === 'string')
      .map(([name, value]) => {
        const box = made('div');
        box.append(made('dt', wordsOf(name)), made('dd', typeof value === 'number' ? numberOf(value) : value));
        return box;
      }),
  );
}

const wordsOf = (name) =>
  name.replace(/[._]/g, ' ').replace(/([a-z])([A-Z])/g, (_all, a, b) => `${a} ${b.toLowerCase()}`);
const numberOf = (value) => new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 }).format(value);
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
  const { engine, engineProblem, ...own } = fleet;
  showFigures(element('figures'), { ...own, ...engine });
  showFigures(element('batches'), engine?.batches ?? {});
  showOff([...halted.items, ...disabled.items]);
  showEvents(events.items);
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
