/** The tables as drizzle sees them, for typed reads and writes. The SQL in `migrations/` is what makes them. */
import { bigint, boolean, customType, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';

const bytea = customType<{ data: Uint8Array; driverData: Uint8Array }>({ dataType: () => 'bytea' });
const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });
const version = (name: string) => bigint(name, { mode: 'number' });

export const tenants = pgTable('tenants', {
  id: text('id').primaryKey(),
  name: text('name').notNull(),
  createdAt: instant('created_at').notNull().defaultNow(),
});

export const apiKeys = pgTable('api_keys', {
  id: text('id').primaryKey(),
  tenantId: text('tenant_id').notNull(),
  name: text('name').notNull(),
  hash: bytea('hash').notNull(),
  scopes: text('scopes').array().notNull(),
  createdAt: instant('created_at').notNull().defaultNow(),
  expiresAt: instant('expires_at'),
  revokedAt: instant('revoked_at'),
  lastUsedAt: instant('last_used_at'),
});

export const idempotencyKeys = pgTable(
  'idempotency_keys',
  {
    tenantId: text('tenant_id').notNull(),
    key: text('key').notNull(),
    requestHash: bytea('request_hash').notNull(),
    status: integer('status'),
    answer: text('answer'),
    etag: text('etag'),
    createdAt: instant('created_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.tenantId, table.key] })],
);

export const audit = pgTable('audit', {
  id: version('id').generatedAlwaysAsIdentity().primaryKey(),
  at: instant('at').notNull().defaultNow(),
  tenantId: text('tenant_id').notNull(),
  actor: text('actor').notNull(),
  action: text('action').notNull(),
  objectKind: text('object_kind').notNull(),
  objectId: text('object_id').notNull(),
  reason: text('reason'),
  detail: text('detail'),
});

export const connections = pgTable('connections', {
  id: text('id').primaryKey(),
  tenantId: text('tenant_id').notNull(),
  toolkit: text('toolkit').notNull(),
  name: text('name').notNull(),
  kind: text('kind', { enum: ['none', 'api_key', 'basic', 'bearer'] }).notNull(),
  sealed: bytea('sealed'),
  status: text('status', { enum: ['active', 'expired', 'revoked', 'refresh_failed'] })
    .notNull()
    .default('active'),
  statusReason: text('status_reason'),
  expiresAt: instant('expires_at'),
  version: version('version').notNull().default(1),
  createdAt: instant('created_at').notNull().defaultNow(),
  updatedAt: instant('updated_at').notNull().defaultNow(),
  deletedAt: instant('deleted_at'),
});

export const triggers = pgTable('triggers', {
  id: uuid('id').primaryKey(),
  tenantId: text('tenant_id').notNull(),
  deduplicationKey: text('deduplication_key'),
  name: text('name'),
  tags: text('tags').array().notNull().default([]),
  toolkit: text('toolkit').notNull(),
  slug: text('slug').notNull(),
  version: text('version').notNull(),
  /** JSON text. */
  config: text('config').notNull(),
  connectionId: text('connection_id').notNull(),
  intervalSeconds: integer('interval_seconds').notNull(),
  enabled: boolean('enabled').notNull(),
  since: instant('since'),
  pollDedupe: text('poll_dedupe', { enum: ['unique', 'hash', 'watermark'] }).notNull(),
  pollOverlapSeconds: integer('poll_overlap_seconds'),
  pollRepeatable: boolean('poll_repeatable').notNull(),
  configVersion: version('config_version').notNull().default(1),
  liftedVersion: version('lifted_version').notNull().default(0),
  disabledAt: instant('disabled_at'),
  disabledBy: text('disabled_by'),
  disabledReason: text('disabled_reason'),
  createdAt: instant('created_at').notNull().defaultNow(),
  updatedAt: instant('updated_at').notNull().defaultNow(),
  deletedAt: instant('deleted_at'),
});

export type TriggerRow = typeof triggers.$inferSelect;
export type ConnectionRow = typeof connections.$inferSelect;
