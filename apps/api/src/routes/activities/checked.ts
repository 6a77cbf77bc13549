import { atEntryOf, parseDefinition } from '@milkrun/activity-core/definitions';
import type { Clock } from '@milkrun/core';
import { refusal, refusing } from './common.ts';

/** A checked definition. Throws a Problem that names every wrong field. */
export function checkedDefinition(body: unknown, clock: Clock) {
  const definition = refusing(() => parseDefinition(body));
  const at = atEntryOf(definition);
  const n = definition.on.findIndex((entry) => 'at' in entry);
  if (at !== undefined && Date.parse(at.at) <= clock.now()) {
    throw refusal([{ path: `on[${n}].at`, message: `${at.at} is in the past; nearest accepted: a time after now` }]);
  }
  return definition;
}
