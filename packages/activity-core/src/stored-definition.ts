/** A checked definition as the database keeps it. */
import { hash } from 'node:crypto';
import { canonicalJson, type StoredDefinition } from '@milkrun/core';
import { type ActivityDefinition, atEntryOf, cronEntryOf, eventEntriesOf } from './definition.ts';

export function storedDefinitionOf(definition: ActivityDefinition): StoredDefinition {
  const { enabled: _, ...rest } = definition;
  const cron = cronEntryOf(definition);
  const at = atEntryOf(definition);
  const events = eventEntriesOf(definition);
  const [event] = events;
  const triggerType = cron !== undefined ? 'cron' : at !== undefined ? 'at' : event !== undefined ? 'event' : 'manual';
  return {
    slug: definition.slug,
    name: definition.name ?? definition.slug,
    enabled: definition.enabled,
    triggerType,
    triggerConfig: JSON.stringify(cron ?? at ?? event?.event ?? {}),
    contextSources: JSON.stringify(definition.context),
    taskTemplates: JSON.stringify(definition.rules),
    dedupeKeyStrategy: definition.dedupe?.strategy ?? (cron === undefined ? 'event' : 'scheduled'),
    spec: JSON.stringify(definition),
    fingerprint: hash('sha256', canonicalJson(rest), 'hex'),
    timeKey: cron !== undefined ? `cron ${cron.timezone} ${cron.cron}` : at !== undefined ? `at ${at.at}` : null,
    eventTypes: [...new Set(events.map((entry) => entry.event.type))],
  };
}
