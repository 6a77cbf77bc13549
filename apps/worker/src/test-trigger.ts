/**
 * A dry run of one trigger: auth and one poll from the stored cursor. It is not leased and nothing is saved, so it is refused
 * for a source that cannot repeat what it gave.
 */
import { type ControlPlane, type PollRunner, secretsOf, storageShardOf, withoutSecrets } from '@milkrun/core';
import type { WorkerDb } from '@milkrun/workerdb';

export function createTestTrigger(deps: {
  readonly db: WorkerDb;
  readonly controlPlane: ControlPlane;
  readonly runner: PollRunner;
  readonly deadlineMs: number;
}): (triggerId: string) => Promise<object | undefined> {
  return async (triggerId) => {
    const trigger = await deps.db.trigger(triggerId);
    if (trigger === undefined) return undefined;
    const shard = storageShardOf(triggerId);
    const [definition] = await deps.db.sql<
      { config: string; poll_policy: { repeatable: boolean }; version_wanted: string }[]
    >`
      select config::text as config, poll_policy, version_wanted from polling_triggers where shard = ${shard} and trigger_id = ${triggerId}`;
    if (definition === undefined) return undefined;
    if (!definition.poll_policy.repeatable) {
      throw Object.assign(new Error('its source cannot repeat what it gave: a test would lose events'), {
        statusCode: 409,
      });
    }
    const { connectionId, tenantId, toolkit } = trigger;
    const [auth] = await deps.controlPlane.fetchConnections([
      { connectionId, tenantId, toolkit, triggerIds: [triggerId] },
    ]);
    if (auth?.code !== 'ok')
      return { stage: 'auth', code: auth?.code ?? 'auth.missing', reason: auth?.reason ?? 'no answer' };
    const body = JSON.stringify({
      trigger: {
        id: triggerId,
        slug: trigger.slug,
        version: definition.version_wanted,
        config: JSON.parse(definition.config),
      },
      auth: JSON.parse(auth.auth),
      cursor: trigger.cursor ?? null,
      limits: { deadlineMs: deps.deadlineMs, eventsMax: 500 },
    });
    const reply = await deps.runner.poll({ toolkit, body, deadlineMs: deps.deadlineMs });
    if (reply.code === 'aborted') return { stage: 'poll', code: reply.code };
    if (reply.code !== 'ok')
      return { stage: 'poll', ...reply, message: withoutSecrets(reply.message, secretsOf(auth.auth)) };
    const { items, cursor, more } = reply.page;
    return {
      stage: 'poll',
      code: 'ok',
      items: items.slice(0, 20),
      found: items.length,
      cursor: cursor === null ? null : JSON.parse(cursor),
      more,
    };
  };
}
