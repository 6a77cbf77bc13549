/**
 * The world around an engine: a control plane that writes everything down, and providers whose items are known beforehand.
 * Both are real servers, reached over the contracts; what a provider lists and a receiver accepts follows from the kind of
 * trigger, so that every step, hop and side door of the engine is taken.
 */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { eventIdOf } from '@milkrun/core';
import { type InvokeServer, startInvokeServer } from '@milkrun/poll-runner';

/**
 * - `plain`: two waves of items.
 * - `parked`: the receiver does not take it the first time, so its batch makes another hop.
 * - `fenced`: its source cannot repeat itself (it forgets what its cursor covers), and an edit comes while it is polled.
 * - `revoked`: its connection is, until the world heals it.
 * - `limited`: its provider asks to be left alone for a moment the first time.
 */
export const TRIGGER_KINDS = ['plain', 'parked', 'fenced', 'revoked', 'limited'] as const;
type TriggerKind = (typeof TRIGGER_KINDS)[number];

interface Source {
  readonly kind: TriggerKind;
  readonly change: Change;
  /** Items there are, `i0` to `i{n-1}`; only grows. */
  items: number;
  polls: number;
  /** Largest cursor that has come back: what is below it is forgotten by a source that cannot repeat itself. */
  covered: number;
  refusals: number;
  edited: boolean;
  healed: boolean;
}

interface Change {
  op: 'upsert';
  triggerId: string;
  configVersion: number;
  enabled: boolean;
  connectionId: string;
  [field: string]: unknown;
}

export interface World {
  readonly controlPlanePort: number;
  readonly pollFunctionPort: number;
  /** Adds one trigger of each kind to the feed; answers their ids. */
  add(kinds: readonly TriggerKind[], intervalSeconds?: number): string[];
  /** The records the feed would serve for them, for a push. */
  changesOf(ids: readonly string[]): object[];
  /** Gives each of them more items. */
  grow(ids: readonly string[], items: number): void;
  /** Revoked connections work again; the feed tells the engine so. */
  heal(): void;
  /** The next read of the feed is answered 410. */
  expireFeed(): void;
  /** Triggers that have not been disabled. */
  ids(): string[];
  disable(ids: readonly string[]): void;
  /** Events of these triggers that were never accepted. */
  missing(ids: readonly string[]): string[];
  /** How many items a trigger's provider has. */
  itemsOf(id: string): number;
  /** What must never happen and did. */
  readonly wrong: string[];
  /** Accepted events, repeats included. */
  readonly accepted: () => number;
  /** Accepted again with the id they had. */
  readonly repeats: () => number;
  readonly lifecycle: () => number;
  close(): Promise<void>;
}

const FIRST_WAVE = 3;
const EVENT_DATA = 'known beforehand';

export async function startWorld(): Promise<World> {
  const sources = new Map<string, Source>();
  const byConnection = new Map<string, Source>();
  /** Compacted to one record a trigger, in order of its last change. */
  let feed: { at: number; change: Change }[] = [];
  let at = 0;
  let version = 0;
  let isExpired = false;
  const waiting = new Set<() => void>();
  const accepted = new Map<string, number>();
  const known = new Map<string, string>();
  const wrong: string[] = [];
  let lifecycle = 0;

  const say = (change: Change): void => {
    at += 1;
    feed = [...feed.filter((entry) => entry.change.triggerId !== change.triggerId), { at, change }];
    for (const answer of [...waiting]) answer();
  };
  const edit = (source: Source, fields: object): void => {
    version += 1;
    Object.assign(source.change, fields, { configVersion: version });
    say({ ...source.change });
  };

  function changes(request: IncomingMessage, response: ServerResponse): void {
    const query = new URL(request.url ?? '', 'http://world').searchParams;
    const after = Number(query.get('after') || 0);
    const limit = Number(query.get('limit') || 1000);
    if (isExpired && after > 0) {
      isExpired = false;
      send(response, 410, {});
      return;
    }
    const answer = (): void => {
      waiting.delete(answer);
      clearTimeout(timer);
      const news = feed.filter((entry) => entry.at > after);
      const page = news.slice(0, limit);
      const next = String(page.at(-1)?.at ?? Math.max(after, at));
      send(response, 200, { changes: page.map((entry) => entry.change), next, more: news.length > page.length });
    };
    const timer = setTimeout(answer, Number(query.get('wait') || 0) * 1000);
    response.on('close', () => {
      waiting.delete(answer);
      clearTimeout(timer);
    });
    if (at > after) answer();
    else waiting.add(answer);
  }

  function connections(asked: { connectionId: string; tenantId: string }[]): object {
    return {
      connections: asked.map(({ connectionId, tenantId }) => {
        const source = byConnection.get(connectionId);
        if (source === undefined) return { connectionId, tenantId, status: 'not_found', reason: 'unknown' };
        const isRevoked = source.kind === 'revoked' && !source.healed;
        if (isRevoked) return { connectionId, tenantId, status: 'revoked', reason: 'by its user' };
        return { connectionId, tenantId, status: 'active', auth: { of: connectionId } };
      }),
    };
  }

  function take(results: { triggerId: string; events: { id: string; data: unknown }[] }[]): object[] {
    return results.flatMap(({ triggerId, events }) => {
      const source = sources.get(triggerId);
      if (source === undefined) return [];
      if (source.kind === 'parked' && source.refusals === 0) {
        source.refusals += 1;
        return [];
      }
      for (const { id, data } of events) {
        const key = String((data as { key?: unknown } | null)?.key);
        if (known.get(id) !== `${triggerId} ${key}`) wrong.push(`event ${id} of ${triggerId} ${key} has no such id`);
        accepted.set(id, (accepted.get(id) ?? 0) + 1);
      }
      return [{ triggerId, status: 'accepted' }];
    });
  }

  async function poll(event: unknown): Promise<object> {
    const { trigger, auth, cursor } = event as {
      trigger: { id: string };
      auth: { of: string };
      cursor: number | null;
    };
    const source = sources.get(trigger.id);
    if (source === undefined) return { error: { class: 'permanent', message: 'unknown trigger' } };
    if (auth.of !== source.change.connectionId) wrong.push(`${trigger.id} was polled with the auth of ${auth.of}`);
    const from = cursor ?? 0;
    if (from > source.items) wrong.push(`${trigger.id} has cursor ${from} of ${source.items} items`);
    source.polls += 1;
    if (source.kind === 'limited' && source.polls === 1)
      return { error: { class: 'rate_limited', message: 'once', retryAfter: 2 } };
    source.covered = Math.max(source.covered, from);
    const forgets = source.kind === 'fenced';
    const listed = Array.from({ length: source.items }, (_, n) => n).slice(forgets ? source.covered : 0);
    if (source.kind === 'fenced' && !source.edited) {
      source.edited = true;
      edit(source, { config: { edited: true } });
      // Time for the engine to read the edit while this poll is on its way.
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    const occurredAt = new Date().toISOString();
    return {
      events: listed.map((n) => ({ key: `i${n}`, occurredAt, data: { key: `i${n}`, about: EVENT_DATA } })),
      cursor: source.items,
    };
  }

  const server = createServer((request, response) => {
    serve(request, response).catch((error: unknown) => {
      wrong.push(`the control plane failed: ${String(error)}`);
      response.destroy();
    });
  });

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url?.startsWith('/triggers/changes')) return changes(request, response);
    const body = await bodyOf(request);
    // A caller that was killed while it asked.
    if (body === undefined) return void response.destroy();
    if (request.url === '/conn/batch') return send(response, 200, connections(body.connections as never));
    const records = body.lifecycle as { triggerId: string; at: string }[];
    lifecycle += records.length;
    return send(response, 200, {
      results: take(body.results as never),
      lifecycle: records.map((record) => ({ triggerId: record.triggerId, at: record.at })),
    });
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const invoke: InvokeServer = await startInvokeServer({ handler: poll });

  const growOne = (id: string, more: number): void => {
    const source = sources.get(id);
    if (source === undefined) return;
    for (let n = source.items; n < source.items + more; n += 1) known.set(eventIdOf(id, `i${n}`), `${id} i${n}`);
    source.items += more;
  };

  return {
    controlPlanePort: (server.address() as { port: number }).port,
    pollFunctionPort: invoke.port,
    wrong,
    add(kinds, intervalSeconds = 2) {
      return kinds.map((kind) => {
        const triggerId = randomUUID();
        version += 1;
        const change: Change = {
          op: 'upsert',
          triggerId,
          // A tenant each: a limit of one must not make another wait.
          tenantId: `tenant-${triggerId.slice(0, 8)}`,
          toolkit: 'drill',
          slug: kind,
          version: '1',
          config: {},
          connectionId: `connection-${triggerId.slice(0, 8)}`,
          intervalSeconds,
          enabled: true,
          createdAt: '2026-01-01T00:00:00Z',
          configVersion: version,
          poll: { dedupe: 'unique', repeatable: kind !== 'fenced' },
        };
        const source = { kind, change, items: 0, polls: 0, covered: 0, refusals: 0, edited: false, healed: false };
        sources.set(triggerId, source);
        byConnection.set(change.connectionId, source);
        growOne(triggerId, FIRST_WAVE);
        say({ ...change });
        return triggerId;
      });
    },
    changesOf: (ids) => ids.flatMap((id) => sources.get(id)?.change ?? []),
    grow(ids, items) {
      for (const id of ids) growOne(id, items);
    },
    heal() {
      for (const source of sources.values()) {
        if (source.kind !== 'revoked' || source.healed) continue;
        source.healed = true;
        edit(source, { resume: 'cursor' });
      }
    },
    expireFeed() {
      isExpired = true;
      for (const answer of [...waiting]) answer();
    },
    ids: () => [...sources].flatMap(([id, { change }]) => (change.enabled ? [id] : [])),
    itemsOf: (id) => sources.get(id)?.items ?? 0,
    disable(ids) {
      for (const id of ids) {
        const source = sources.get(id);
        if (source !== undefined) edit(source, { enabled: false });
      }
    },
    missing(ids) {
      const wanted = new Set(ids);
      return [...known].flatMap(([id, item]) =>
        wanted.has(item.split(' ')[0] as string) && !accepted.has(id) ? [item] : [],
      );
    },
    accepted: () => [...accepted.values()].reduce((sum, times) => sum + times, 0),
    repeats: () => [...accepted.values()].reduce((sum, times) => sum + times - 1, 0),
    lifecycle: () => lifecycle,
    async close() {
      await invoke.close();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}

function send(response: ServerResponse, status: number, body: object): void {
  if (response.writableEnded || response.destroyed) return;
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown> | undefined> {
  const parts: Buffer[] = [];
  try {
    for await (const part of request) parts.push(part as Buffer);
  } catch {
    return undefined;
  }
  return JSON.parse(Buffer.concat(parts).toString('utf8')) as Record<string, unknown>;
}
