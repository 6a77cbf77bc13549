/**
 * Grafana dashboards as JSON: one that answers "is everything on its way?", and one with a panel for every metric of the
 * catalogue. Rendered into `infra/grafana/dashboards/`; the `dashboards` drill runs every expression on a live run.
 */
import { CATALOGUE, type MetricName, type MetricSpec } from './catalogue.ts';
import { gauge, quantile, rate } from './promql.ts';

interface Panel {
  readonly title: string;
  readonly about: string;
  /** Grafana's unit. */
  readonly unit: string;
  readonly targets: readonly { readonly expr: string; readonly legend: string }[];
}

interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

export interface Dashboard {
  /** File name without `.json`, and Grafana's uid. */
  readonly name: string;
  readonly title: string;
  readonly rows: readonly Row[];
}

const UNITS: Readonly<Record<string, string>> = { seconds: 's', bytes: 'bytes', usd: 'currencyUSD' };
const PANEL_WIDTH = 8;
const PANEL_HEIGHT = 8;
const GRID_WIDTH = 24;

/** A panel that shows a metric the usual way: a rate by tags, quantiles, or the gauge's own value. */
function panelOf(name: MetricName): Panel {
  const spec: MetricSpec = CATALOGUE[name];
  const by = Object.keys(spec.tags);
  const legend = by.map((tag) => `{{${tag}}}`).join(' ');
  const about = spec.about;
  if (spec.type === 'histogram') {
    const targets = [0.5, 0.99].map((q) => ({
      expr: quantile(q, name, undefined, by),
      legend: `p${q * 100} ${legend}`.trim(),
    }));
    return { title: name, about, unit: UNITS[spec.unit] ?? 'short', targets };
  }
  if (spec.type === 'counter') {
    return {
      title: `${name} a second`,
      about,
      unit: UNITS[spec.unit] ?? 'ops',
      targets: [{ expr: rate(name, {}, undefined, by), legend: legend || spec.unit }],
    };
  }
  // Figures of the whole fleet are written by every worker: adding them up would count them once for each.
  const how = PER_PROCESS.has(name) ? 'sum' : 'max';
  return {
    title: name,
    about,
    unit: UNITS[spec.unit] ?? 'short',
    targets: [{ expr: gauge(how, name, by), legend: legend || spec.unit }],
  };
}

/** Gauges of one process; the others are read from the database and the same in all. */
const PER_PROCESS: ReadonlySet<MetricName> = new Set<MetricName>([
  'polling.poll.width',
  'polling.poll.width_in_use',
  'worker_host.running',
]);

const OVERVIEW: readonly Row[] = [
  {
    title: 'Is everything on its way?',
    panels: [
      panelOf('polling.claim.due_lag'),
      panelOf('polling.dispatch.oldest_due_age'),
      panelOf('polling.liveness.violations'),
      panelOf('polling.poll.polls'),
      panelOf('polling.triggers.polled'),
      panelOf('polling.liveness.stale'),
      panelOf('polling.liveness.silent'),
    ],
  },
  {
    title: 'What arrives',
    panels: [
      {
        title: 'Events found, delivered and stored a second',
        about: 'The three go together, give or take a batch. Delivered below found: receivers refuse or are away.',
        unit: 'ops',
        targets: [
          { expr: rate('polling.poll.events_found'), legend: 'found' },
          { expr: rate('polling.broadcast.events_delivered'), legend: 'delivered' },
          { expr: rate('api.events_stored', { outcome: 'stored' }), legend: 'stored' },
        ],
      },
      panelOf('polling.broadcast.parked'),
      panelOf('polling.commit.halts'),
    ],
  },
  {
    title: 'Work under way',
    panels: [
      panelOf('polling.leases.held'),
      panelOf('polling.dispatch.batches_open'),
      panelOf('polling.step.duration'),
      {
        title: 'Poll slots',
        about: 'In use at the width: width is the limit.',
        unit: 'short',
        targets: [
          { expr: gauge('sum', 'polling.poll.width_in_use'), legend: 'in use' },
          { expr: gauge('sum', 'polling.poll.width'), legend: 'width' },
        ],
      },
      panelOf('polling.breaker.open'),
      panelOf('worker_host.running'),
    ],
  },
];

/** One row for each first word or two of the names, in the catalogue's order. */
function catalogueRows(): Row[] {
  const rows = new Map<string, Panel[]>();
  for (const name of Object.keys(CATALOGUE) as MetricName[]) {
    const title = name.split('.').slice(0, -1).join('.');
    const panels = rows.get(title) ?? [];
    rows.set(title, panels);
    panels.push(panelOf(name));
  }
  return [...rows].map(([title, panels]) => ({ title, panels }));
}

export const DASHBOARDS: readonly Dashboard[] = [
  { name: 'milkrun-overview', title: 'Milkrun: overview', rows: OVERVIEW },
  { name: 'milkrun-metrics', title: 'Milkrun: every metric', rows: catalogueRows() },
];

/** Every expression of the dashboards, once. */
export function dashboardExpressions(): string[] {
  const all = DASHBOARDS.flatMap(({ rows }) => rows.flatMap(({ panels }) => panels.flatMap(({ targets }) => targets)));
  return [...new Set(all.map(({ expr }) => expr))];
}

/** The file Grafana loads. */
export function renderDashboard({ name, title, rows }: Dashboard): string {
  const panels: unknown[] = [];
  let y = 0;
  for (const row of rows) {
    panels.push({ type: 'row', title: row.title, id: panels.length + 1, gridPos: { x: 0, y, w: GRID_WIDTH, h: 1 } });
    y += 1;
    for (const [at, panel] of row.panels.entries()) {
      const gridPos = {
        x: (at * PANEL_WIDTH) % GRID_WIDTH,
        y: y + Math.floor((at * PANEL_WIDTH) / GRID_WIDTH) * PANEL_HEIGHT,
        w: PANEL_WIDTH,
        h: PANEL_HEIGHT,
      };
      panels.push(timeSeries(panel, panels.length + 1, gridPos));
    }
    y += Math.ceil((row.panels.length * PANEL_WIDTH) / GRID_WIDTH) * PANEL_HEIGHT;
  }
  const dashboard = {
    uid: name,
    title,
    tags: ['milkrun'],
    schemaVersion: 39,
    refresh: '10s',
    time: { from: 'now-1h', to: 'now' },
    templating: { list: [{ name: 'datasource', type: 'datasource', query: 'prometheus', label: 'Prometheus' }] },
    panels,
  };
  return `${JSON.stringify(dashboard, null, 2)}\n`;
}

function timeSeries(panel: Panel, id: number, gridPos: object): object {
  return {
    type: 'timeseries',
    id,
    title: panel.title,
    description: panel.about,
    gridPos,
    datasource: { type: 'prometheus', uid: '$' + '{datasource}' },
    fieldConfig: { defaults: { unit: panel.unit, min: 0 }, overrides: [] },
    targets: panel.targets.map(({ expr, legend }, at) => ({
      refId: String.fromCharCode('A'.charCodeAt(0) + at),
      expr,
      legendFormat: legend,
    })),
  };
}
