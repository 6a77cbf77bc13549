/**
 * The console in a real browser, before a running engine: every page on a wide screen and a phone, light and dark, is measured
 * (first paint, bytes of script), watched (errors, refusals of its policy, foreign addresses) and examined (axe); then names,
 * configurations and dead letters full of markup are shown and none of it may run; then the list of a hundred thousand triggers.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@milkrun/core';
import { createDatabase, startPostgres } from '@milkrun/testkit';
import axeCore from 'axe-core';
import type { Browser, Page } from 'playwright-core';
import postgres from 'postgres';
import { startBrowser, type Watched, watch } from './lib/browser.ts';
import { type DevRun, freePorts, startDev, until } from './lib/dev-run.ts';
import type { Drill, DrillInput, DrillResult, Say } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';

const IMAGES = fileURLToPath(new URL('../docs/images', import.meta.url));
const FIRST_PAINT_MS_MAX = 1_000;
const SCRIPT_BYTES_MAX = 120_000;
/** From a key pressed in the search to its answer on the page. */
const SEARCH_MS_MAX = 2_000;
const WIDE = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };
const SCREENS = [
  { name: 'wide-light', viewport: WIDE, colorScheme: 'light' },
  { name: 'wide-dark', viewport: WIDE, colorScheme: 'dark' },
  { name: 'phone-light', viewport: PHONE, colorScheme: 'light' },
  { name: 'phone-dark', viewport: PHONE, colorScheme: 'dark' },
] as const;
/** Pages with a picture on each screen; of the rest one is enough. */
const PICTURED: ReadonlySet<string> = new Set(['fleet', 'triggers', 'trigger']);
const CHART_MS = 30_000;
const BULK = 1_000;
const WAIT_MS = 60_000;

/** Each runs, if it is taken for markup, an address or code; `N` makes them differ. */
const HOSTILE = [
  '<script>window.__ran=N</script>',
  '<img src=x onerror="window.__ran=N">',
  '"><svg onload=window.__ran=N>',
  "'-(window.__ran=N)-'",
  'javascript:window.__ran=N',
  '<iframe srcdoc="<script>parent.__ran=N</script>">',
  '</td></table><a href="javascript:window.__ran=N" autofocus onfocus="window.__ran=N">x</a>',
  '{{constructor.constructor("window.__ran=N")()}}',
  '<style>@import "http://127.0.0.1:1/N";</style>',
  '\u202e<b>N</b>\u0301\u200d',
] as const;
const hostile = (n: number): string => (HOSTILE[n % HOSTILE.length] as string).replaceAll('N', String(n));

export const drill: Drill = {
  name: 'console',
  about: 'Every page of the console in Chromium: quick, small, without errors, accessible, and deaf to hostile text.',
  defaults: { count: 2_000 },
  fullCount: 10_000,
  flags: {
    triggers: 'rows of the long list; default 100000',
    screenshots: 'true: write docs/images/*.png',
  },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const rows = integerFrom('triggers', flags.triggers, 100_000, 1);
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-console-'));
    // PostgreSQL refuses to run as root, so its own user has to reach the folder.
    await chmod(home, 0o755);
    const ending: (() => Promise<unknown>)[] = [() => rm(home, { recursive: true, force: true })];
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    try {
      const browser = await startBrowser();
      ending.push(() => browser.close());
      const server = await startPostgres();
      ending.push(() => server.stop());
      const registry = await createDatabase(server.url);
      const databases = { REGISTRYDB_URL: registry, WORKERDB_URL: await createDatabase(server.url) };
      const settings = { ...(await freePorts()), ...databases, DISPATCH_TICK: '1s' };
      const dev = await startDev({ home, settings, fleet: 300, log });
      ending.push(() => dev.stop());
      await furnish(dev, registry);
      const places = await placesOf(dev);
      const site = { home, registry };
      const pages = await visitAll(browser, dev, home, places, flags.screenshots === 'true', report, log);
      const shown = await showHostile(browser, dev, site, count, report, log);
      const list = await longList(browser, dev, site, rows, report, log);
      return { tried: pages.views + shown, violations, ...pages, hostileShown: shown, ...list };
    } finally {
      for (const end of ending.reverse()) await end();
    }
  },
};

const page = (path: string): string => `#/${path}`;

/** An activity with a run and a dead letter, and an event for each kind of thing the pages show. */
async function furnish(dev: DevRun, registry: string): Promise<void> {
  await dev.api('/activity-definitions', {
    slug: 'weekly-report',
    name: 'Weekly report',
    on: [{ cron: '0 9 * * 1', timezone: 'Europe/Berlin' }],
    rules: [{ id: 'write', task: { type: 'noop', title: 'Write the report' } }],
  });
  await dev.api('/activity-definitions', {
    slug: 'greet',
    name: 'Greet a new customer',
    on: [{ event: { type: 'customer.created' } }],
    rules: [{ id: 'call', task: { type: 'human', title: 'Call the customer' } }],
  });
  await dev.api('/activity-events', {
    events: [
      { specversion: '1.0', id: randomUUID(), source: '/shop', type: 'customer.created', data: { name: 'Ada' } },
    ],
  });
  await until('a run of an activity', WAIT_MS, async () => {
    const { items } = await dev.api<{ items: unknown[] }>('/activity-runs');
    return items.length > 0;
  });
  await until('an event', WAIT_MS, async () => (await dev.api<{ items: unknown[] }>('/events')).items.length > 0);
  await letters(registry, ['{"specversion":"1.0","id":"7","source":"/shop","type":"customer.created","data":{}}']);
}

/** Dead letters with these bytes, as a router leaves them. */
async function letters(registry: string, texts: readonly string[]): Promise<void> {
  await withRegistry(registry, async (sql) => {
    await sql`insert into dead_letters (id, tenant_id, stage, event_key, raw, headers, stream_seq, error, tries)
      select gen_random_uuid(), 'default', 'decode', null, convert_to(x.raw, 'UTF8'), '{}', x.n + ${Math.floor(performance.now())},
        'it could not be read: ' || left(x.raw, 60), 3
      from unnest(${texts as string[]}::text[]) with ordinality as x(raw, n)`;
  });
}

async function withRegistry(url: string, work: (sql: postgres.Sql) => Promise<void>): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    await work(sql);
  } finally {
    await sql.end();
  }
}

async function placesOf(dev: DevRun): Promise<ReadonlyMap<string, string>> {
  const first = async (path: string, field: string): Promise<string> => {
    const { items } = await dev.api<{ items: Record<string, unknown>[] }>(path);
    return encodeURIComponent(String(items[0]?.[field]));
  };
  return new Map([
    ['fleet', page('')],
    ['triggers', page('triggers')],
    ['trigger', page(`triggers/${await first('/triggers?search=undici', 'id')}`)],
    ['connections', page('connections')],
    ['events', page('events')],
    ['activities', page('activities')],
    ['activity', page('activities/weekly-report')],
    ['runs', page('runs')],
    ['run', page(`runs/${await first('/activity-runs', 'run_id')}`)],
    ['tasks', page('tasks')],
    ['dead-letters', page('dead-letters')],
    ['migration', page('migration')],
    ['workers', page('workers')],
  ]);
}

interface Site {
  readonly home: string;
  /** Address of registrydb, for rows the API does not make. */
  readonly registry: string;
}

const apiKey = (home: string): string =>
  (JSON.parse(readFileSync(join(home, 'dev.json'), 'utf8')) as { apiKey: string }).apiKey;

type Report = (problem: string) => void;

/** Every page on every screen. Figures: the slowest first paint, the bytes of script, what was found. */
async function visitAll(
  browser: Browser,
  dev: DevRun,
  home: string,
  places: ReadonlyMap<string, string>,
  screenshots: boolean,
  report: Report,
  log: Say,
) {
  const found = { views: 0, firstPaintMs: 0, scriptBytes: 0, consoleErrors: 0, policyViolations: 0, axeSerious: 0 };
  if (screenshots) await mkdir(IMAGES, { recursive: true });
  for (const { name: screen, viewport, colorScheme } of SCREENS) {
    const { context, tab, seen } = await open(browser, dev, home, { viewport, colorScheme });
    for (const [name, place] of places) {
      await go(tab, dev, place);
      found.views += 1;
      const paint = await tab.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
      if (paint === undefined) report(`${name} on ${screen}: nothing was painted`);
      else found.firstPaintMs = Math.max(found.firstPaintMs, Math.round(paint));
      if (paint !== undefined && paint > FIRST_PAINT_MS_MAX)
        report(`${name} on ${screen}: first paint after ${paint} ms`);
      await tab.evaluate(axeCore.source);
      for (const problem of await axe(tab)) {
        found.axeSerious += 1;
        report(`${name} on ${screen}: ${problem}`);
      }
      const wide = await tab.evaluate<number>(
        'document.documentElement.scrollWidth - document.documentElement.clientWidth',
      );
      if (wide > 0) report(`${name} on ${screen}: wider than the screen by ${wide} px`);
      if (screenshots && (screen === 'wide-light' || (screen !== 'phone-light' && PICTURED.has(name)))) {
        // A chart shows something after a while.
        if (name === 'fleet') await systemClock.sleep(CHART_MS);
        await tab.screenshot({
          path: join(IMAGES, `console-${name}${screen === 'wide-light' ? '' : `-${screen}`}.png`),
        });
      }
    }
    tally(seen, found, report, screen);
    await context.close();
    log(`${screen}: ${places.size} pages`);
  }
  if (found.scriptBytes === 0) report('no script was loaded');
  if (found.scriptBytes > SCRIPT_BYTES_MAX) report(`${found.scriptBytes} bytes of compressed script`);
  return found;
}

function tally(
  seen: Watched,
  found: { scriptBytes: number; consoleErrors: number; policyViolations: number },
  report: Report,
  where: string,
): void {
  const bytes = [...seen.scriptBytes.values()].reduce((sum, n) => sum + n, 0);
  found.scriptBytes = Math.max(found.scriptBytes, bytes);
  found.consoleErrors += seen.consoleErrors.length;
  found.policyViolations += seen.policyViolations.length;
  for (const text of [...seen.consoleErrors, ...seen.policyViolations]) report(`${where}: ${text}`);
  for (const address of seen.foreign) report(`${where}: asked ${address}`);
}

async function open(
  browser: Browser,
  dev: DevRun,
  home: string,
  options: { viewport: typeof WIDE; colorScheme: 'light' | 'dark' },
) {
  const context = await browser.newContext(options);
  const tab = await context.newPage();
  const seen = await watch(tab, dev.apiUrl);
  await tab.goto(`${dev.apiUrl}/#key=${apiKey(home)}`);
  await tab.waitForSelector('.tiles', { timeout: WAIT_MS });
  return { context, tab, seen };
}

/** As a reload of that address: its first paint is its own. */
async function go(tab: Page, dev: DevRun, place: string): Promise<void> {
  await tab.goto(`${dev.apiUrl}/${place}`);
  await tab.reload();
  await tab.waitForSelector('h1', { timeout: WAIT_MS });
  await tab.waitForFunction(`document.querySelector('.loading') === null`, undefined, { timeout: WAIT_MS });
}

/** Serious and critical findings, each in a sentence. */
async function axe(tab: Page): Promise<string[]> {
  return await tab.evaluate(async () => {
    interface Finding {
      id: string;
      impact: string;
      help: string;
      nodes: { html: string }[];
    }
    const { axe: engine } = globalThis as unknown as { axe: { run(): Promise<{ violations: Finding[] }> } };
    const { violations } = await engine.run();
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes[0]?.html.slice(0, 200)}`);
  });
}

/** Names, keys, configurations and dead letters of hostile text, page by page; answers how many were on a page as text. */
async function showHostile(
  browser: Browser,
  dev: DevRun,
  { home, registry }: Site,
  count: number,
  report: Report,
  log: Say,
): Promise<number> {
  const [connection] = (await dev.api<{ items: { id: string }[] }>('/connections?toolkit=synthetic')).items;
  for (let from = 0; from < count; from += BULK) {
    const some = Array.from({ length: Math.min(BULK, count - from) }, (_, n) => hostile(from + n));
    await dev.api('/triggers/bulk', {
      triggers: some.map((text, n) => ({
        deduplicationKey: `hostile:${from + n}`,
        name: text,
        tags: ['hostile'],
        toolkit: 'synthetic',
        slug: 'synthetic',
        config: { text },
        connectionId: connection?.id,
        intervalSeconds: 86_400,
        enabled: false,
      })),
    });
  }
  await letters(
    registry,
    HOSTILE.map((_, n) => hostile(n)),
  );
  const { context, tab, seen } = await open(browser, dev, home, { viewport: WIDE, colorScheme: 'light' });
  const wanted = new Set(Array.from({ length: count }, (_, n) => hostile(n)));
  const ran = (): Promise<unknown> => tab.evaluate(() => (globalThis as unknown as { __ran?: unknown }).__ran);
  let shown = 0;
  await go(tab, dev, page('triggers?search=hostile'));
  for (;;) {
    await tab.waitForSelector('tbody tr', { timeout: WAIT_MS });
    const texts = await tab.locator('tbody tr td:first-child').allTextContents();
    shown += texts.filter((text) => wanted.delete(text)).length;
    const older = tab.getByRole('button', { name: 'Older' });
    if ((await older.count()) === 0 || (await older.isDisabled())) break;
    const [top] = texts;
    await older.click();
    await tab.waitForFunction(
      `document.querySelector('tbody tr td')?.textContent !== ${JSON.stringify(top)}`,
      undefined,
      { timeout: WAIT_MS },
    );
    if (shown % 1_000 < 50) log(`${shown} hostile names shown`);
  }
  const { items } = await dev.api<{ items: { id: string }[] }>('/triggers?search=hostile&limit=10');
  for (const { id } of items) {
    await go(tab, dev, page(`triggers/${id}`));
    shown += 1;
  }
  await go(tab, dev, page('dead-letters'));
  for (const summary of await tab.locator('summary').all()) await summary.click();
  shown += await tab.locator('article').count();
  if (shown < count) report(`${shown} of ${count} hostile texts were shown`);
  if ((await ran()) !== undefined) report(`hostile text ran: ${await ran()}`);
  const markup = await tab.locator('main script, main iframe, main svg, main img, main style').count();
  if (markup > 0) report(`${markup} elements were made of text`);
  tally(seen, { scriptBytes: 0, consoleErrors: 0, policyViolations: 0 }, report, 'hostile text');
  await context.close();
  return shown;
}

/** A hundred thousand rows: the first page, a search that finds one and one that finds none. */
async function longList(
  browser: Browser,
  dev: DevRun,
  { home, registry }: Site,
  rows: number,
  report: Report,
  log: Say,
) {
  await withRegistry(registry, async (sql) => {
    await sql`insert into triggers (id, tenant_id, name, toolkit, slug, version, config, connection_id, interval_seconds, enabled,
        poll_dedupe, poll_repeatable, disabled_at)
      select gen_random_uuid(), 'default', 'Long list ' || n, 'synthetic', 'synthetic', '1', '{}', (select id from connections limit 1), 86400,
        false, 'unique', true, now() from generate_series(1, ${rows}) n`;
    await sql`analyze triggers`;
  });
  log(`${rows} triggers more`);
  const { context, tab, seen } = await open(browser, dev, home, { viewport: WIDE, colorScheme: 'light' });
  const startedAt = performance.now();
  await go(tab, dev, page('triggers'));
  await tab.waitForSelector('tbody tr');
  const listMs = Math.round(performance.now() - startedAt);
  let searchMs = 0;
  for (const [text, wanted] of [
    [`Long list ${rows}`, 'tbody tr:only-child'],
    ['nothing is called like this', '.empty'],
  ] as const) {
    const from = performance.now();
    await tab.getByRole('searchbox').fill(text);
    await tab.waitForSelector(wanted, { timeout: WAIT_MS });
    searchMs = Math.max(searchMs, Math.round(performance.now() - from));
  }
  if (searchMs > SEARCH_MS_MAX) report(`a search among ${rows} triggers took ${searchMs} ms`);
  tally(seen, { scriptBytes: 0, consoleErrors: 0, policyViolations: 0 }, report, 'long list');
  await context.close();
  return { rows, listMs, searchMs };
}
