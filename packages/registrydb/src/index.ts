export type {
  Activities,
  ActivityView,
  ActivityWriteOptions,
  VersionView,
} from './activities/definitions.ts';
export type { EventLog, EventPosition, EventRange, ReplayCandidate } from './activities/event-log.ts';
export type { EventTypes, EventTypeView, EventTypeWrite } from './activities/event-types.ts';
export type { DeadLetterView, EventDesk } from './activities/routing.ts';
export type { ActivityOperations, JsonRow } from './activities/views.ts';
export type { WebhookInput, WebhookKeys, Webhooks, WebhookView } from './activities/webhooks.ts';
export type { AuditEntry } from './audit.ts';
export type { AuthAnswer, ConnectionPatch, Connections, ConnectionView, Credentials } from './connections.ts';
export { sqlStateOf } from './database.ts';
export type { Events, EventView } from './events.ts';
export type { Feed, FeedPage } from './feed.ts';
export type { Begun, Idempotency } from './idempotency.ts';
export { type ApiKeys, type ApiKeyView, SCOPES, type Scope, type VerifiedKey } from './keys.ts';
export { type LegacyRegistry, type LegacyStoreOptions, openLegacyStore } from './legacy/legacy-store.ts';
export { type Actor, type ProblemKind, RegistryProblem } from './problem.ts';
export type { Retention } from './purge.ts';
export {
  type ActivityRegistry,
  openActivities,
  openRegistry,
  type Registry,
  type RegistryOptions,
  registryMigrator,
} from './registry.ts';
export type { IncomingEvent, IncomingState, StoredState } from './state.ts';
export type { TriggerFilter, TriggerStatus, TriggerView } from './trigger-views.ts';
export type { TriggerInput, TriggerPatch, Triggers, WriteOptions } from './triggers.ts';
