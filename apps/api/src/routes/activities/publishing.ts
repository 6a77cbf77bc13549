/** The one way events come in over HTTP, whoever sends them: checked by their type, then put on the outbox, all or none. */
import { type ActivityEvent, eventKeyOf, recordOf, type TypeCheck } from '@milkrun/activity-core/definitions';
import type { Registry } from '@milkrun/registrydb';
import { refusal } from './common.ts';

export interface Publisher {
  /** Throws a Problem that names the field. `pathOf`: what the caller calls the nth event. Resolves to their keys. */
  publish(
    tenantId: string,
    events: readonly ActivityEvent[],
    pathOf: (n: number) => string,
  ): Promise<readonly string[]>;
}

export function createPublisher({ eventDesk, eventTypes }: Registry, check: TypeCheck): Publisher {
  return {
    async publish(tenantId, events, pathOf) {
      const types = await eventTypes.find(tenantId, [...new Set(events.map(({ type }) => type))]);
      const known = new Map(types.map((view) => [view.type, view]));
      const wrong = events.flatMap((event, n) => {
        const why = check(event, tenantId, known.get(event.type) ?? null);
        if (why === undefined) return [];
        const [, field = '', message = why] = /^([^:]+): (.*)$/s.exec(why) ?? [];
        return [{ path: [pathOf(n), field].filter((part) => part !== '').join('.'), message }];
      });
      if (wrong.length > 0) throw refusal(wrong);
      const rows = events.map((event) => ({ key: eventKeyOf(event), record: JSON.stringify(recordOf(event)) }));
      await eventDesk.publish(tenantId, rows);
      return rows.map(({ key }) => key);
    },
  };
}
