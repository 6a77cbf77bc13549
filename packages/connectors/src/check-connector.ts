/**
 * Conformance kit of a connector: what the engine relies on and the types cannot say, tried against a provider the
 * caller has prepared (a fake one on 127.0.0.1, or a sandbox account).
 */
import type { Clock } from '@milkrun/core';
import { systemClock } from '@milkrun/core';
import type { Connector, PollItem, PollResult, Settings } from './connector.ts';
import { createHandler, type PollFailure } from './handler.ts';

const CURSOR_BYTES_MAX = 16 * 1024;
const KEY_BYTES_MAX = 512;
/** What one attempt reads of one trigger at most. */
const PAGES_MAX = 20;
const DEADLINE_MS = 30_000;

export interface ConnectorFixtures {
  /** A configuration that finds at least one item when polled with `since`. */
  readonly config: unknown;
  /** Configurations that must be refused. */
  readonly invalidConfigs?: readonly unknown[];
  readonly auth?: unknown;
  /** RFC 3339; far enough back to find something. */
  readonly since?: string;
  readonly settings?: Settings;
  readonly clock?: Clock;
}

export interface ConnectorCheck {
  readonly name: string;
  readonly ok: boolean;
  /** What was wrong; empty when nothing. */
  readonly problems: readonly string[];
}

/** Never throws for what a connector does; the provider's failures show as problems of the first check that polls. */
export async function checkConnector(connector: Connector, fixtures: ConnectorFixtures): Promise<ConnectorCheck[]> {
  const { config, auth = null, since, settings = {}, clock = systemClock } = fixtures;
  const handler = createHandler([connector], { settings, clock });
  const ask = async (cursor: unknown, eventsMax: number): Promise<PollResult> => {
    const trigger = {
      id: '00000000-0000-7000-8000-000000000000',
      slug: connector.slug,
      version: connector.version,
      config,
    };
    const sent = {
      trigger,
      auth,
      cursor,
      ...(since === undefined ? {} : { since }),
      limits: { deadlineMs: DEADLINE_MS, eventsMax },
    };
    // Over JSON, as between engine and function.
    const answer = JSON.parse(JSON.stringify(await handler(JSON.parse(JSON.stringify(sent))))) as
      | PollResult
      | PollFailure;
    if ('error' in answer) throw new Error(`${answer.error.class}: ${answer.error.message}`);
    return answer;
  };
  const chain = async (eventsMax: number): Promise<PollResult[]> => {
    const pages: PollResult[] = [];
    for (let cursor: unknown = null; pages.length < PAGES_MAX; cursor = pages.at(-1)?.cursor) {
      pages.push(await ask(cursor, eventsMax));
      if (pages.at(-1)?.more !== true) break;
    }
    return pages;
  };

  const checks: ConnectorCheck[] = [];
  const check = async (name: string, run: () => Promise<string[]>): Promise<void> => {
    const problems = await run().catch((error: unknown) => [error instanceof Error ? error.message : String(error)]);
    checks.push({ name, ok: problems.length === 0, problems });
  };

  await check('takes its configuration and refuses others', async () => [
    ...connector.configProblems(config),
    ...[null, 'text', [], ...(fixtures.invalidConfigs ?? [])].flatMap((other) =>
      connector.configProblems(other).length > 0 ? [] : [`takes ${JSON.stringify(other)}`],
    ),
  ]);
  await check('finds items that follow the poll contract and its own schema', async () => {
    const pages = await chain(100);
    const items = pages.flatMap(({ events }) => events);
    return [
      ...(items.length === 0 ? ['found nothing: the fixtures must hold at least one item'] : []),
      ...pages.flatMap(pageProblems),
      ...items.flatMap((item) => itemProblems(item, connector)),
    ];
  });
  await check('keeps to eventsMax and ends its pages', async () => {
    const pages = await chain(2);
    const isWatermark = connector.policyOf(config).dedupe === 'watermark';
    return [
      ...(isWatermark && pages.some(({ events }) => events.length > 2)
        ? ['a page holds more than eventsMax items']
        : []),
      ...(pages.length === PAGES_MAX && pages.every(({ events }) => events.length === 0)
        ? ['asks for more for ever']
        : []),
    ];
  });
  await check('gives an item the same key every time', async () => {
    if (!connector.policyOf(config).repeatable) return [];
    const keys = async (): Promise<string[]> => (await chain(100)).flatMap(({ events }) => events.map(identityOf));
    const [first, second] = [await keys(), new Set(await keys())];
    return first.filter((key) => !second.has(key)).map((key) => `not found again: ${key.slice(0, 100)}`);
  });
  await check('goes on from its own cursor', async () =>
    pageProblems(await ask((await chain(100)).at(-1)?.cursor, 100)),
  );
  await check('stops when asked to', async () => {
    const context = {
      trigger: { id: 'check', slug: connector.slug, version: connector.version },
      config,
      auth,
      cursor: null,
      since,
      eventsMax: 100,
      signal: AbortSignal.abort(),
      clock,
      http: { send: ({ signal }: { signal: AbortSignal }) => Promise.reject(signal.reason) },
      settings,
    };
    return connector.poll(context).then(
      () => ['answered although its signal had aborted'],
      () => [],
    );
  });
  return checks;
}

function pageProblems({ events, cursor, more }: PollResult): string[] {
  const text = JSON.stringify(cursor);
  return [
    ...(Array.isArray(events) ? [] : ['events is no list']),
    ...(text === undefined ? ['there is no cursor'] : []),
    ...(text !== undefined && Buffer.byteLength(text) > CURSOR_BYTES_MAX ? ['the cursor exceeds 16 KiB'] : []),
    ...(text !== undefined && /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/.test(text)
      ? ['the cursor holds text no database takes']
      : []),
    ...(more === undefined || typeof more === 'boolean' ? [] : ['more is no boolean']),
    ...repeated((events ?? []).flatMap(({ key }) => (key === undefined ? [] : [key]))).map(
      (key) => `key twice on a page: ${key}`,
    ),
  ];
}

function itemProblems(item: PollItem, connector: Connector): string[] {
  const { key, occurredAt, data } = item;
  const parsed = connector.eventSchema.safeParse(data);
  return [
    ...(data === undefined ? ['an item has no data'] : []),
    ...(parsed.success ? [] : [`data: ${parsed.error.issues[0]?.path.join('.')}: ${parsed.error.issues[0]?.message}`]),
    ...(key === undefined || (key !== '' && Buffer.byteLength(key) <= KEY_BYTES_MAX)
      ? []
      : ['a key is empty or above 512 bytes']),
    ...(occurredAt === undefined || !Number.isNaN(Date.parse(occurredAt))
      ? []
      : [`occurredAt is no time: ${occurredAt}`]),
  ];
}

const identityOf = ({ key, data }: PollItem): string => key ?? JSON.stringify(data);

function repeated(keys: readonly string[]): string[] {
  return keys.filter((key, at) => keys.indexOf(key) !== at);
}
