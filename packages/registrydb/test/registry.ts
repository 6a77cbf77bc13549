/** A registry on a fresh database, and short ways to fill it. */
import { type Clock, eventIdOf, systemClock, systemRng } from '@milkrun/core';
import { type Actor, openRegistry, type TriggerInput } from '@milkrun/registrydb';
import { createDatabase } from '@milkrun/testkit';
import postgres from 'postgres';
import { inject } from 'vitest';

const MASTER_KEY = Buffer.alloc(32, 7);

export async function openTestRegistry(clock: Clock = systemClock) {
  const url = await createDatabase(inject('pgUrl'));
  const registry = await openRegistry({ url, masterKey: MASTER_KEY, clock, rng: systemRng });
  const sql = postgres(url, { max: 4, onnotice: () => {} });
  const actor: Actor = { tenantId: 't1', name: 'test' };
  await registry.keys.ensureTenant('t1', 'Tenant one');
  await registry.keys.ensureTenant('t2', 'Tenant two');
  const connect = (who = actor) =>
    registry.connections.create(who, {
      toolkit: 'npm',
      name: 'npm',
      credentials: { type: 'bearer', token: 'hush-hush' },
    });
  const connection = await connect();
  const inputOf = (more: Partial<TriggerInput> = {}): TriggerInput => ({
    tags: [],
    toolkit: 'npm',
    slug: 'new-version',
    version: '1',
    config: '{"package":"zod"}',
    connectionId: connection.id,
    intervalSeconds: 300,
    enabled: true,
    poll: { dedupe: 'unique', repeatable: true },
    ...more,
  });
  const create = async (more: Partial<TriggerInput> = {}) =>
    (await registry.triggers.upsert(actor, inputOf(more))).trigger;
  /** All records of the feed from a cursor on. */
  async function feed(after: string | null = null) {
    const changes: Record<string, unknown>[] = [];
    for (let cursor = after; ; ) {
      const page = await registry.feed.read(cursor, 1000);
      if (page === 'expired') throw new Error('the cursor has expired');
      changes.push(...page.changes.map((text) => JSON.parse(text)));
      cursor = page.next;
      if (!page.more) return { changes, next: cursor };
    }
  }
  return {
    url,
    sql,
    registry,
    actor,
    connection,
    connect,
    inputOf,
    create,
    feed,
    async [Symbol.asyncDispose]() {
      await registry.close();
      await sql.end();
    },
  };
}

export const incoming = (triggerId: string, key: string) => ({
  eventId: eventIdOf(triggerId, key),
  triggerId,
  type: 'dev.milkrun.test',
  occurredAt: '2026-01-01T00:00:00Z',
  record: JSON.stringify({ id: eventIdOf(triggerId, key), data: { key } }),
});
