-- Reason: connections, triggers, the change feed, and what the engine reported back.
-- Lock: none on existing tables; only new ones are made.
-- Older processes: none exist.

create table connections (
  id text primary key check (char_length(id) between 1 and 128),
  tenant_id text not null references tenants (id),
  toolkit text not null,
  name text not null,
  kind text not null check (kind in ('none', 'api_key', 'basic', 'bearer')),
  sealed bytea,
  status text not null default 'active' check (status in ('active', 'expired', 'revoked', 'refresh_failed')),
  status_reason text,
  expires_at timestamptz,
  version bigint not null default 1,
  created_at timestamptz not null default statement_timestamp(),
  updated_at timestamptz not null default statement_timestamp(),
  deleted_at timestamptz,
  constraint sealed_unless_deleted check ((sealed is null) = (deleted_at is not null))
);
comment on column connections.sealed is 'Credentials, AES-256-GCM, bound to tenant and connection; emptied when deleted.';
create index connections_tenant on connections (tenant_id, id) where deleted_at is null;

create table triggers (
  id uuid primary key,
  tenant_id text not null references tenants (id),
  deduplication_key text,
  name text,
  tags text[] not null default '{}',
  toolkit text not null,
  slug text not null,
  version text not null,
  config text not null check (json_typeof(config::json) = 'object'),
  connection_id text not null references connections (id),
  interval_seconds integer not null check (interval_seconds >= 1),
  enabled boolean not null,
  since timestamptz,
  poll_dedupe text not null check (poll_dedupe in ('unique', 'hash', 'watermark')),
  poll_overlap_seconds integer check (poll_overlap_seconds >= 0),
  poll_repeatable boolean not null,
  config_version bigint not null default 1,
  lifted_version bigint not null default 0,
  disabled_at timestamptz,
  disabled_by text,
  disabled_reason text,
  created_at timestamptz not null default statement_timestamp(),
  updated_at timestamptz not null default statement_timestamp(),
  deleted_at timestamptz,
  constraint disabled_says_when check (enabled or disabled_at is not null)
);
comment on column triggers.config is 'JSON text exactly as given: numbers keep their digits.';
comment on column triggers.config_version is 'Rises with every change; ETag of the API and order of the feed.';
comment on column triggers.lifted_version is 'The newest version that lifts a halt; a halt reported for an older one is over.';
create unique index triggers_deduplication on triggers (tenant_id, deduplication_key) where deleted_at is null;
create index triggers_tenant on triggers (tenant_id, id) where deleted_at is null;
create index triggers_connection on triggers (connection_id) where deleted_at is null;

create sequence trigger_changes_seq;
create table trigger_changes (
  seq bigint primary key,
  trigger_id uuid not null,
  config_version bigint not null,
  op text not null check (op in ('upsert', 'delete')),
  record text,
  rewind_cursor text,
  poll_now boolean not null default false,
  resume text check (resume in ('cursor', 'now')),
  superseded boolean not null default false,
  changed_at timestamptz not null default statement_timestamp(),
  constraint upserts_have_records check ((op = 'upsert') = (record is not null))
);
comment on table trigger_changes is
  'The feed. seq is taken last in a transaction, under an advisory lock, so that order of seq is order of commit: gapless.';
comment on column trigger_changes.superseded is
  'A newer row of the trigger exists; kept because it carries an instruction (rewind, poll now, resume) a reader may not have read.';
create index trigger_changes_trigger on trigger_changes (trigger_id);
create unique index trigger_changes_newest on trigger_changes (trigger_id) where not superseded;
create index trigger_changes_old on trigger_changes (changed_at) where superseded or op = 'delete';

create table feed_state (
  one boolean primary key default true check (one),
  feed_id text not null,
  purged_seq bigint not null default 0
);
comment on column feed_state.feed_id is 'Part of every cursor: a cursor of another database is answered as expired.';
comment on column feed_state.purged_seq is 'Tombstones up to here are gone: an older cursor has expired.';
insert into feed_state (feed_id) values (substr(md5(random()::text || clock_timestamp()::text), 1, 12));

create table poll_states (
  trigger_id uuid primary key,
  primed boolean not null,
  poll_state text check (octet_length(poll_state) <= 98304),
  updated_at timestamptz not null
);
comment on table poll_states is 'What the engine remembers of a trigger, as last reported; opaque. Read back only when workerdb lost it.';

create table trigger_lifecycle (
  trigger_id uuid not null,
  at timestamptz not null,
  state text not null check (state in ('halted', 'resumed', 'warning')),
  code text not null,
  config_version bigint not null,
  received_at timestamptz not null default statement_timestamp(),
  primary key (trigger_id, at, state, code)
);
comment on table trigger_lifecycle is 'What the engine decided about a trigger and when, so that its user can see why it is off.';
